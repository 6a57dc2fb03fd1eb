"""Downloads from signed addresses: streamed, counted, and without the API key.

Signed addresses lead to somebody else's storage. The key goes along only to the very origin
that it belongs to, also across redirects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tinkex.api.http import errors
from tinkex.api.http.retry import Retrying
from tinkex.api.http.transport import CONNECT_TIMEOUT, join_url
from tinkex.api.transfer.body import Body
from tinkex.exceptions import ConnectionFailed, InvalidResponse, TimedOut
from tinkex.plugins import HttpResponse, Timeouts

if TYPE_CHECKING:
    from tinkex.api.http.retry import Deadline
    from tinkex.api.http.transport import Response, Transport

_REDIRECTS = 5
_SCHEMES = ("http", "https")


@dataclass(frozen=True)
class Span:
    """Which bytes of a file are asked for.

    :ivar start: the first byte.
    :ivar end: the byte after the last one, or ``None`` for all there are.
    :ivar validator: what :attr:`Body.validator` was: only of the very same file.
    :ivar total: size of the whole file, if known: only of a file of this size.
    :ivar unless: nothing is asked for if the file still has this validator.
    """

    start: int = 0
    end: int | None = None
    validator: str | None = None
    total: int | None = None
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


WHOLE = Span()


class Storage:
    """Opens signed addresses; a context manager.

    :param transport: the service that handed the addresses out.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close: the connections are those of the transport."""

    def retrying(self) -> Retrying:
        """Start counting the repetitions of one download."""
        return Retrying(repeatable=True)

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
        url = join_url("", url)
        while hops <= _REDIRECTS:
            self._refuse_unsafe(url)
            response, answer = self._ask(url, span, retrying, deadline)
            if response is not None:
                with closing(response):
                    yield Body(response, url)
                return
            if answer and 300 <= answer.status < 400 and answer.headers.get("location"):
                url = join_url(url, answer.headers["location"])
                hops += 1
            elif answer:
                self._wait_or_raise(answer, retrying, deadline)
        raise InvalidResponse(f"{errors.host_of(url)} redirects in circles")

    def _ask(
        self, url: str, span: Span, retrying: Retrying, deadline: Deadline
    ) -> tuple[HttpResponse | None, Response | None]:
        """Return the file, still to be read, or another answer; neither if there was none."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", **span.headers()}
        connect = min(CONNECT_TIMEOUT, deadline.remaining())
        timeouts = Timeouts(connect, self._transport.settings.timeout)
        try:
            response = self._transport.open(url, headers, timeouts)
            if response.status in ((200, 206) if span.start or span.end else (200,)):
                return response, None
            return None, self._transport.read(response, deadline)
        except (ConnectionFailed, TimedOut) as error:
            retrying.pause_after(error, deadline)
            return None, None

    def _wait_or_raise(self, answer: Response, retrying: Retrying, deadline: Deadline) -> None:
        if answer.ok:
            raise InvalidResponse(f"the storage answered HTTP {answer.status} instead of a file")
        wait = retrying.after_response(answer.status, answer.headers)
        if wait is None or not deadline.allows(wait):
            error = answer.error()
            error.message = f"the storage refused the download: {error.message}"
            raise error
        deadline.pause(wait, f"HTTP {answer.status}")

    def _refuse_unsafe(self, url: str) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in _SCHEMES:
            raise InvalidResponse(f"the service hands out an address that begins with {scheme!r}:")
        if scheme == "http" and self._transport.base_url.startswith("https:"):
            raise InvalidResponse("the service hands out an unencrypted address for the download")
