"""Bodies of requests and answers: requests' forms on one side, httpcore's on the other."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpcore
import requests
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers
from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import IncompleteRead

from tinkex_http2.bounded import limited

BUFFER = 256 * 1024
_VERSIONS = {b"HTTP/1.0": 10, b"HTTP/1.1": 11, b"HTTP/2": 20}


def content(body: Any) -> bytes | Iterator[bytes] | None:
    """Return the *body* of a prepared request as httpcore takes it."""
    if body is None:
        return None
    if isinstance(body, bytes):
        return bytes(body)  # of no subclass
    if isinstance(body, str):
        return body.encode()
    if hasattr(body, "read"):
        return iter(lambda: body.read(BUFFER), b"")
    pieces: Iterator[bytes] = iter(body)
    return pieces


def response(
    request: requests.PreparedRequest,
    answer: httpcore.Response,
    patience: float | None,
    done: Callable[[bool], None],
) -> requests.Response:
    """Return *answer* as a response of requests, its body unread.

    :param patience: seconds that each part of the body may take.
    :param done: is called when the body is closed, with whether it was taken whole.
    """
    headers = HTTPHeaderDict(
        [(n.decode("latin-1"), v.decode("latin-1")) for n, v in answer.headers]
    )
    version = answer.extensions.get("http_version", b"HTTP/1.1")
    raw = _Response(
        patience,
        body=io.BufferedReader(_Body(answer, patience, done), BUFFER),
        headers=headers,
        status=answer.status,
        reason=answer.extensions.get("reason_phrase", b"").decode("latin-1"),
        version=_VERSIONS.get(version, 11),
        preload_content=False,
        decode_content=False,
        enforce_content_length=True,
        request_method=request.method,
    )
    made = requests.Response()
    made.status_code = answer.status
    made.reason = raw.reason or ""
    made.headers = CaseInsensitiveDict(headers)
    made.encoding = get_encoding_from_headers(made.headers)
    made.raw = raw
    made.url = request.url or ""
    made.request = request
    return made


class _Response(HTTPResponse):
    """urllib3's response, none of whose bytes keeps :meth:`read1` from ending in time.

    A compressed body may come in parts that make no bytes.
    """

    def __init__(self, patience: float | None, **kwargs: Any) -> None:
        self._patience = patience
        super().__init__(**kwargs)

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        with limited(self._patience):
            return super().read1(amt, decode_content)


class _Body(io.RawIOBase):
    """The parts of an answer's body as a file; closing it gives the connection back."""

    def __init__(
        self, answer: httpcore.Response, patience: float | None, done: Callable[[bool], None]
    ) -> None:
        self._answer = answer
        self._parts = answer.iter_stream()
        self._patience = patience
        self._done = done
        self._whole = False
        self._rest = memoryview(b"")
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            part = self._next()
            if part is None:
                return 0
            self._rest = memoryview(part)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._count += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._finish()
            self._answer.close()
            self._done(self._whole)
        super().close()

    def _finish(self) -> None:
        """Take the end of a body that has come whole, so that its connection is kept."""
        headers = {name.lower(): value for name, value in self._answer.headers}
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) == self._count:
            # A server may end its stream with frames that hold nothing, also after a while.
            with (
                contextlib.suppress(TimeoutError, IncompleteRead),
                limited(self._patience, again=False),
            ):
                while self._next() == b"":
                    pass

    def _next(self) -> bytes | None:
        """Return the next part, or ``None`` after the last.

        :raises TimeoutError: it took too long.
        :raises urllib3.exceptions.IncompleteRead: the connection was lost.
        """
        try:
            with limited(self._patience, again=False):
                part = next(self._parts, None)
        except httpcore.TimeoutException as error:
            raise TimeoutError("timed out") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise IncompleteRead(self._count, -1) from error
        self._whole = part is None
        return part
