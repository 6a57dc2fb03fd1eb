"""Downloads from signed addresses: streamed, counted, and without the API key.

Signed addresses lead to somebody else's storage. The key goes along only to the very origin
that it belongs to, also across redirects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
_REDIRECTS = 5
_SCHEMES = ("http", "https")


@dataclass(frozen=True)
class Progress:
    """How far a download is.

    :ivar done_bytes: bytes received so far, over all files.
    :ivar total_bytes: bytes to receive in all, or ``None`` if nobody knows yet.
    :ivar file: what is being received.
    """

    done_bytes: int
    total_bytes: int | None
    file: str


OnProgress = Callable[[Progress], None]


class Body:
    """A download under way: a readable object that counts and notices a cut.

    :ivar received: bytes received so far, as they came over the wire.
    :ivar expected: bytes announced by the server, or ``None``.
    :param limit: bounds what is read; it is given *patience* seconds anew with every block.
    """

    def __init__(
        self,
        response: requests.Response,
        url: str,
        heard: Callable[[Body], None],
        limit: Limit,
        patience: float,
    ) -> None:
        self._response = response
        self._raw: Any = response.raw
        self._url = url
        self._heard = heard
        self._limit, self._patience = limit, patience
        self.received = 0
        length = response.headers.get("Content-Length", "")
        self.expected = int(length) if length.isdecimal() and length.isascii() else None

    def read(self, size: int = BLOCK) -> bytes:
        """Return up to *size* bytes, none at the end.

        :raises tinkex.exceptions.TransportError: the connection broke or stayed silent.
        """
        # What has come is taken at once, so that a slow transfer is not taken for silence.
        read = getattr(self._raw, "read1", self._raw.read)
        self._limit.restart(self._patience)
        try:
            block: bytes = read(size, decode_content=True)
        except failures.FOREIGN as error:
            raise self._broken(error) from error
        self.received = self._raw.tell()
        if block:
            self._heard(self)
        elif self.expected is not None and self.received != self.expected:
            raise self._cut()
        return block

    def drain(self) -> None:
        """Read to the end, which shows that nothing is missing."""
        while self.read():
            pass

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


class Storage:
    """Opens signed addresses; a context manager.

    :param transport: the service that handed the addresses out.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
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

    @contextmanager
    def open(self, url: str, heard: Callable[[Body], None]) -> Iterator[Body]:
        """Start the download of *url*.

        The time allowance bounds the silence between two bytes, not the whole transfer.

        :param heard: is called after every block.
        :raises tinkex.exceptions.APIError: the storage refused; 403 often means "expired".
        """
        deadline = self._transport.deadline("the download")
        retrying = Retrying("GET", repeatable=True)
        hops = 0
        url = joined("", url)
        while hops <= _REDIRECTS:
            self._refuse_unsafe(url)
            with limited(deadline.remaining()) as limit:
                response, answer = self._ask(url, retrying, deadline)
            if response is not None:
                with response:
                    yield Body(response, url, heard, limit, deadline.seconds)
                return
            if answer and 300 <= answer.status < 400 and answer.headers.get("location"):
                url = joined(url, answer.headers["location"])
                hops += 1
            elif answer:
                self._wait_or_raise(answer, retrying, deadline)
        raise InvalidAnswer(f"{failures.host_of(url)} redirects in circles")

    def _ask(
        self, url: str, retrying: Retrying, deadline: Deadline
    ) -> tuple[requests.Response | None, Answer | None]:
        """Return the file, still to be read, or another answer; neither if there was none."""
        try:
            response = self._get(url, deadline)
            if response.status_code == 200:
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

    def _get(self, url: str, deadline: Deadline) -> requests.Response:
        transport = self._transport
        timeout = (min(CONNECT_TIMEOUT, deadline.remaining()), transport.settings.timeout)
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if same_origin(url, transport.base_url):
            session, auth = transport.session, transport.auth
            proxies: dict[str, str] | None = None
        else:
            session, auth = self._bare(), None
            proxies = network.proxies_for(url)
        if url.startswith("https:") and session is self._session and session.verify is True:
            session.verify = network.certificates()
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
        if self._session is None:
            self._session = new_session("")
            self._session.proxies = {}  # each address has its own
        return self._session

    def _refuse_unsafe(self, url: str) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in _SCHEMES:
            raise InvalidAnswer(f"the service hands out an address that begins with {scheme!r}:")
        if scheme == "http" and self._transport.base_url.startswith("https:"):
            raise InvalidAnswer("the service hands out an unencrypted address for the download")
