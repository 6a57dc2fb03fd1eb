"""Downloads from signed addresses: streamed, counted, and without the API key.

Signed addresses lead to somebody else's storage. The key goes along only to the very origin
that it belongs to, also across redirects.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from tinkex.api import failures, network
from tinkex.api.addresses import joined, same_origin
from tinkex.api.bounded import Limit, limited
from tinkex.api.retrying import Retrying
from tinkex.api.transport import CONNECT_TIMEOUT, new_session
from tinkex.exceptions import ConnectionFailed, InvalidAnswer, TimedOut, TinkexError

if TYPE_CHECKING:
    from tinkex.api.answers import Answer
    from tinkex.api.transport import Transport
    from tinkex.api.waiting import Deadline

BLOCK = 256 * 1024
#: Seconds within which a block comes where data flow.
_QUICK = 0.05
_REDIRECTS = 5
_SCHEMES = ("http", "https")


@dataclass(frozen=True)
class Span:
    """Which bytes of a file are asked for.

    :ivar start: the first byte.
    :ivar end: the byte after the last one, or ``None`` for all there are.
    :ivar validator: what :attr:`Body.validator` was: only of the very same file.
    :ivar unless: nothing is asked for if the file still has this validator.
    """

    start: int = 0
    end: int | None = None
    validator: str | None = None
    unless: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the request headers that say so (RFC 9110, 13.1 and 14.2)."""
        headers = {}
        if self.start or self.end is not None:
            last = "" if self.end is None else self.end - 1
            headers["Range"] = f"bytes={self.start}-{last}"
            if self.validator:
                headers["If-Range"] = self.validator
        if self.unless:
            is_tag = self.unless.startswith('"')
            headers["If-None-Match" if is_tag else "If-Modified-Since"] = self.unless
        return headers


class Body:
    """A download under way: a readable object that counts and notices a cut.

    :ivar start: position of its first byte within the file.
    :ivar total: size of the whole file in bytes, or ``None``.
    :ivar received: bytes received so far, as they came over the wire.
    :ivar expected: bytes announced by the server, or ``None``.
    :ivar validator: a strong entity tag or a date by which the file is known again, or ``None``.
    :ivar ranged: the server sends parts of the file on request.
    :param limit: bounds what is read; it is given *patience* seconds anew with every block.
    """

    def __init__(
        self, response: requests.Response, url: str, limit: Limit, patience: float
    ) -> None:
        self._raw: Any = response.raw
        self._url = url
        self._limit, self._patience = limit, patience
        self.received = 0
        headers = response.headers
        self.expected = _count(headers.get("Content-Length", ""))
        self.start, self.total = 0, self.expected
        if response.status_code == 206:
            self.start, self.total = _content_range(headers.get("Content-Range", ""))
        self.ranged = response.status_code == 206 or headers.get("Accept-Ranges") == "bytes"
        self.validator: str | None = None
        self._encoded = headers.get("Content-Encoding", "identity") != "identity"
        self._flows = False
        if not self._encoded:
            tag = headers.get("ETag", "")
            strong = len(tag) > 2 and tag.startswith('"') and tag.isascii() and tag.isprintable()
            self.validator = tag if strong else headers.get("Last-Modified") or None
        else:
            self.total = None  # what is counted is not what is written

    def read(self, size: int = BLOCK) -> bytes:
        """Return up to *size* bytes, none at the end.

        :raises tinkex.exceptions.TransportError: the connection broke or stayed silent.
        """
        # What has come is taken at once, so that a slow transfer is not taken for silence. A fast
        # one costs less in blocks that are full; nothing but content can come within them.
        read = self._raw.read if self._flows else getattr(self._raw, "read1", self._raw.read)
        self._limit.restart(self._patience, rolling=self._flows)
        began = time.monotonic()
        try:
            block: bytes = read(size, decode_content=self._encoded)
        except failures.FOREIGN as error:
            raise self._broken(error) from error
        quick = time.monotonic() - began < _QUICK * len(block) / BLOCK
        self._flows = quick and self.expected is not None
        self.received = self._raw.tell()
        if not block and self.expected is not None and self.received != self.expected:
            raise self._cut()
        return block

    def _broken(self, error: Exception) -> TinkexError:
        ours = failures.translated(error, self._url)
        if isinstance(ours, TimedOut):
            return TimedOut("Timed out while awaiting more of the download")
        self.received = self._raw.tell()
        return self._cut() if isinstance(ours, ConnectionFailed) else ours

    def _cut(self) -> ConnectionFailed:
        of = f" of {self.expected}" if self.expected is not None else ""
        host = failures.host_of(self._url)
        return ConnectionFailed(
            f"the connection to {host} was cut off after {self.received}{of} bytes"
        )


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 19 else None


def _content_range(text: str) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", text, re.ASCII)
    if match is None:
        raise InvalidAnswer("the storage sent a part of the file without saying which")
    return int(match[1]), _count(match[3])


WHOLE = Span()


class Storage:
    """Opens signed addresses; a context manager.

    :param transport: the service that handed the addresses out.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._making = threading.Lock()
        self._session: requests.Session | None = None

    def __enter__(self) -> Storage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            self._session.close()

    def retrying(self) -> Retrying:
        """Start counting the repetitions of one download."""
        return self._transport.retrying("GET", repeatable=True)

    def deadline(self) -> Deadline:
        """Start the time allowance of one silence."""
        return self._transport.deadline("the download")

    @contextmanager
    def open(self, url: str, span: Span = WHOLE) -> Iterator[Body]:
        """Start the download of *url*.

        The time allowance bounds the silence between two bytes, not the whole transfer.

        :param span: which bytes; the server may send the whole file even so.
        :raises tinkex.exceptions.APIError: the storage refused; 403 often means "expired".
        """
        deadline = self.deadline()
        retrying = self.retrying()
        hops = 0
        url = joined("", url)
        while hops <= _REDIRECTS:
            self._refuse_unsafe(url)
            with limited(deadline.remaining()) as limit:
                response, answer = self._ask(url, span, retrying, deadline)
            if response is not None:
                with response:
                    yield Body(response, url, limit, deadline.seconds)
                return
            if answer and 300 <= answer.status < 400 and answer.headers.get("location"):
                url = joined(url, answer.headers["location"])
                hops += 1
            elif answer:
                self._wait_or_raise(answer, retrying, deadline)
        raise InvalidAnswer(f"{failures.host_of(url)} redirects in circles")

    def _ask(
        self, url: str, span: Span, retrying: Retrying, deadline: Deadline
    ) -> tuple[requests.Response | None, Answer | None]:
        """Return the file, still to be read, or another answer; neither if there was none."""
        try:
            response = self._get(url, span, deadline)
            if response.status_code in ((200, 206) if span.start or span.end else (200,)):
                return response, None
            return None, self._transport.read(response, deadline)
        except failures.FOREIGN as error:
            retrying.pause_after(error, failures.translated(error, url), deadline)
            return None, None

    def _wait_or_raise(self, answer: Answer, retrying: Retrying, deadline: Deadline) -> None:
        if answer.ok:
            raise InvalidAnswer(f"the storage answered HTTP {answer.status} instead of a file")
        wait = retrying.after_answer(answer)
        if wait is None or not deadline.allows(wait):
            error = answer.error()
            error.message = f"the storage refused the download: {error.message}"
            raise error
        deadline.pause(wait, f"HTTP {answer.status}")

    def _get(self, url: str, span: Span, deadline: Deadline) -> requests.Response:
        transport = self._transport
        timeout = (min(CONNECT_TIMEOUT, deadline.remaining()), transport.settings.timeout)
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", **span.headers()}
        if same_origin(url, transport.base_url):
            session, auth = transport.session, transport.auth
            proxies: dict[str, str] | None = None
        else:
            session, auth = self._bare(), None
            proxies = network.proxies_for(url)
        if url.startswith("https:") and session is self._session and session.verify is True:
            session.verify = network.trusted(transport.settings.pool_options)
        return session.get(
            url,
            headers=headers,
            auth=auth,
            proxies=proxies,
            timeout=timeout,
            allow_redirects=False,
            stream=True,
        )

    def _bare(self) -> requests.Session:
        with self._making:
            if self._session is None:
                session = new_session("", self._transport.settings.pool_options)
                session.proxies = {}  # each address has its own
                self._session = session
            return self._session

    def _refuse_unsafe(self, url: str) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in _SCHEMES:
            raise InvalidAnswer(f"the service hands out an address that begins with {scheme!r}:")
        if scheme == "http" and self._transport.base_url.startswith("https:"):
            raise InvalidAnswer("the service hands out an unencrypted address for the download")
