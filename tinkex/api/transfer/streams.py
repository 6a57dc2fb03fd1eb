"""Files from signed URLs: streamed without the API key, and resumed after a lost connection.

Signed URLs refer to third-party storage. The key is sent only to the origin of the service, even
after redirects.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tinkex.api.http import errors
from tinkex.api.http.retry import Retrying
from tinkex.api.http.transport import CONNECT_TIMEOUT, join_url
from tinkex.exceptions import (
    APIError,
    BadRequest,
    ConnectionFailed,
    Forbidden,
    InvalidResponse,
    NotFound,
    TimedOut,
    Unauthorized,
)
from tinkex.plugins import HttpResponse, Timeouts

if TYPE_CHECKING:
    from tinkex.api.http.retry import Deadline
    from tinkex.api.http.transport import Response, Transport

#: Maximum number of bytes read at a time; a killed process loses at most this many bytes.
BLOCK = 256 * 1024
_REDIRECTS = 5
_SCHEMES = ("http", "https")
#: Errors for an expired signature (storage) or an expired token (service).
_EXPIRED = (Unauthorized, Forbidden, BadRequest, NotFound)
_UNSATISFIABLE = 416


class Changed(InvalidResponse):
    """The file's version differs from that of its first part, or the storage sends no ranges."""

    def __init__(self) -> None:
        super().__init__(
            "the file changed while it was being downloaded", hint="Download it again."
        )


@dataclass(frozen=True)
class Span:
    """The range of bytes to request.

    :ivar start: the first byte.
    :ivar end: the byte after the last one, or ``None`` for the end of the file.
    :ivar tag: request only the version with this :attr:`BodyReader.tag`.
    :ivar total: request only a file of this size, if given.
    """

    start: int = 0
    end: int | None = None
    tag: str | None = None
    total: int | None = None

    def headers(self) -> dict[str, str]:
        """Return the request headers for the range (RFC 9110, 13.1 and 14.2)."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if self.start or self.end is not None:
            last = "" if self.end is None else self.end - 1
            headers["Range"] = f"bytes={self.start}-{last}"
            if self.tag:
                headers["If-Range"] = self.tag
        return headers


WHOLE = Span()


@contextmanager
def open_signed(transport: Transport, url: str, span: Span = WHOLE) -> Iterator[BodyReader]:
    """Request a file at a signed URL, with retries and redirects.

    The timeout applies to the time between two blocks, not to the whole transfer.

    :param span: the bytes to request; the storage may send the whole file anyway.
    :raises tinkex.exceptions.APIError: the storage rejected the request; 403 often means "expired".
    """
    deadline = transport.deadline("the download")
    retrying = Retrying(repeatable=True)
    expected = (200, 206) if span.start or span.end is not None else (200,)
    url = join_url("", url)
    hops = 0
    while hops <= _REDIRECTS:
        _refuse_unsafe(url, transport.base_url)
        try:
            seconds = deadline.remaining()
            timeouts = Timeouts(min(CONNECT_TIMEOUT, seconds), seconds)
            response = transport.open(url, span.headers(), timeouts)
            refusal = None
            if response.status not in expected:
                refusal = transport.read(response, deadline)
        except (ConnectionFailed, TimedOut) as error:
            retrying.pause_after(error, deadline)
            continue
        if refusal is None:
            with closing(response):
                yield BodyReader(response, url)
            return
        location = refusal.headers.get("location")
        if 300 <= refusal.status < 400 and location:
            url = join_url(url, location)
            hops += 1
        else:
            _wait_or_raise(refusal, retrying, deadline)
    raise InvalidResponse(f"too many redirects, the last to {errors.host_of(url)}")


def _refuse_unsafe(url: str, base_url: str) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise InvalidResponse(
            f"the service sent a download URL with an unsupported scheme: {scheme!r}"
        )
    if scheme == "http" and base_url.startswith("https:"):
        raise InvalidResponse("the service sent a download URL that does not use HTTPS")


def _wait_or_raise(refusal: Response, retrying: Retrying, deadline: Deadline) -> None:
    if refusal.ok:
        raise InvalidResponse(
            f"the storage server returned HTTP {refusal.status} instead of a file"
        )
    wait = retrying.after_response(refusal.status, refusal.headers)
    if wait is None or not deadline.allows(wait):
        error = refusal.error()
        error.message = f"the storage server rejected the download: {error.message}"
        raise error
    deadline.pause(wait, f"HTTP {refusal.status}")


class BodyReader:
    """The body of a storage's response; counts its bytes and detects a lost connection.

    :ivar start: position of its first byte in the file.
    :ivar total: size of the whole file in bytes, or ``None``.
    :ivar expected: number of bytes announced by the response, or ``None``.
    :ivar tag: a strong entity tag or a date that identifies the version, or ``None``.
    :ivar ranged: whether the server supports range requests for the file.
    :ivar received: bytes read so far.
    """

    def __init__(self, response: HttpResponse, url: str) -> None:
        self._url = url
        self._chunks = response.chunks(BLOCK)
        self.received = 0
        headers = response.headers
        self.expected = _count(headers.get("content-length", ""))
        self.start, self.total = 0, self.expected
        if response.status == 206:
            self.start, self.total = _content_range(headers.get("content-range", ""))
        self.ranged = response.status == 206 or headers.get("accept-ranges") == "bytes"
        self.tag = _tag(headers)
        if headers.get("content-encoding", "identity") != "identity":
            # The announced length differs from that of the decoded content.
            self.expected = self.total = self.tag = None

    def read(self) -> bytes:
        """Return the next block; empty at the end.

        :raises tinkex.exceptions.TransportError: the connection was lost or timed out.
        """
        try:
            block = next(self._chunks, b"")
        except ConnectionFailed as error:
            raise self._cut() from error
        except TimedOut as error:
            raise TimedOut("Timed out while awaiting the rest of the download") from error
        self.received += len(block)
        if not block and self.expected is not None and self.received != self.expected:
            raise self._cut()
        return block

    def _cut(self) -> ConnectionFailed:
        of = f" of {self.expected}" if self.expected is not None else ""
        host = errors.host_of(self._url)
        return ConnectionFailed(
            f"the connection to {host} was cut off after {self.received}{of} bytes"
        )


def _tag(headers: Mapping[str, str]) -> str | None:
    tag = headers.get("etag", "")
    is_strong = len(tag) > 2 and tag.startswith('"') and tag.isascii() and tag.isprintable()
    return tag if is_strong else headers.get("last-modified") or None


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 19 else None


def _content_range(text: str) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", text, re.ASCII)
    if match is None:
        raise InvalidResponse("the storage server sent part of a file without a valid byte range")
    return int(match[1]), _count(match[3])


class RenewableURL:
    """A signed URL that is replaced when it expires; several threads may use it.

    :param find: returns a URL that is valid now, or with ``True`` a new one.
    """

    def __init__(self, find: Callable[[bool], str]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._renewed: str | None = None

    def get(self) -> str:
        """Return the URL."""
        with self._lock:
            return self._renewed or self._find(False)

    def replace(self, refused: str) -> str:
        """Return a new URL in place of *refused*; only one thread requests it."""
        with self._lock:
            if self._renewed is None or self._renewed == refused:
                self._renewed = self._find(True)
            return self._renewed


class ResumingReader:
    """Reads the bytes of *span* in order; a context manager.

    A lost connection is replaced by one that continues at the same byte, if the storage supports
    that.

    :ivar body: the current response.
    :ivar position: position of the next byte in the file.
    :ivar received: bytes read so far.
    :raises Changed: at any time, if the remaining bytes belong to another version of the file.
    """

    def __init__(self, transport: Transport, url: RenewableURL, span: Span = WHOLE) -> None:
        self._transport, self._url, self._span = transport, url, span
        self._stack = ExitStack()
        self._is_closed = False
        self._retrying: Retrying | None = None
        self.position = span.start
        self.received = 0
        self.body = self._open(span)

    def __enter__(self) -> ResumingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._is_closed = True
        self._stack.close()

    def read(self) -> bytes:
        """Return the next block; empty at the end.

        :raises tinkex.exceptions.TransportError: the download cannot be resumed.
        """
        while True:
            try:
                block = self.body.read()
            except ConnectionFailed as error:
                if self.position == (self._span.end or self.body.total):
                    return b""  # only the end of the response is missing
                self._resume(error)
                continue
            if block:
                self.position += len(block)
                self.received += len(block)
                self._retrying = None  # the next failure counts from zero
            return block

    def _resume(self, error: ConnectionFailed) -> None:
        tag, total = self.body.tag, self.body.total
        # Another thread closes it when another part of the file has failed.
        if tag is None or total is None or self._is_closed:
            raise error
        self._retrying = self._retrying or Retrying(repeatable=True)
        self._retrying.pause_after(error, self._transport.deadline("the download"))
        self._stack.close()
        self.body = self._open(Span(self.position, self._span.end, tag, total))

    def _open(self, span: Span) -> BodyReader:
        url = self._url.get()
        try:
            body = self._enter(url, span)
        except _EXPIRED:  # the signature may have expired early
            body = self._enter(self._url.replace(url), span)
        same = not span.tag or span.tag == body.tag
        same = same and (span.total is None or span.total == body.total)
        if body.start != span.start or not same:
            self._stack.close()
            raise Changed
        return body

    def _enter(self, url: str, span: Span) -> BodyReader:
        try:
            return self._stack.enter_context(open_signed(self._transport, url, span))
        except APIError as error:
            if error.status == _UNSATISFIABLE:
                raise Changed from error
            raise
