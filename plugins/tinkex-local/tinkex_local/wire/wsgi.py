"""Requests as calls of a WSGI application in this process: what the ``local`` HTTP pool carries."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPHeaderDict, HTTPResponse

from tinkex_local.pool import BASE_URL
from tinkex_local.state.times import PATIENCE

if TYPE_CHECKING:
    from tinkex_local.app import App

BUFFER = 256 * 1024


class WsgiAdapter(BaseAdapter):
    """Sends requests to the service in this process; the first one opens its state.

    :param app: the application; by default the one over the default home directory.
    """

    def __init__(self, app: App | None = None) -> None:
        super().__init__()
        self._given = app
        self._app = app
        self._guard = threading.Lock()

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Return the service's answer.

        :raises LocalError: the state cannot be opened.
        :raises requests.ConnectionError: the request is for another host, or the service broke.
        """
        url = request.url or ""
        if not url.startswith(BASE_URL + "/"):
            host = urlsplit(url).hostname
            message = f"{host} is not served by the local HTTP pool"
            raise requests.ConnectionError(message, request=request)
        environ = _environ(request, timeout)
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started[:] = [(status, headers)]
            return None

        body = self._application()(environ, start)
        chunks = iter(body)
        # An application may start its response only when the first piece is asked for.
        first = next(chunks, b"") if not started else b""
        status, headers = started[0]
        raw = HTTPResponse(
            body=io.BufferedReader(_Body(first, chunks, body), BUFFER),
            headers=HTTPHeaderDict(headers),
            status=int(status[:3]),
            reason=status[4:],
            version=11,
            preload_content=False,
            decode_content=False,
            enforce_content_length=True,
            request_method=request.method,
        )
        return _response(request, raw)

    def close(self) -> None:
        """Close the state."""
        with self._guard:
            app, self._app = self._app, self._given
        if app is not None:
            app.close()

    def _application(self) -> App:
        with self._guard:
            if self._app is None:
                from tinkex_local.app import open_default

                self._app = open_default()
            return self._app


class _Body(io.RawIOBase):
    """The pieces of a response as a file."""

    def __init__(self, first: bytes, chunks: Iterator[bytes], owner: Iterable[bytes]) -> None:
        self._rest = memoryview(first)
        self._chunks = chunks
        self._owner = owner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return 0
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            close = getattr(self._owner, "close", None)
            if close is not None:
                close()
        super().close()


def _environ(request: requests.PreparedRequest, timeout: Any) -> dict[str, Any]:
    parts = urlsplit(request.url or "")
    body = _bytes_of(request.body)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method or "GET",
        "SCRIPT_NAME": "",
        # WSGI wants the decoded bytes of the path, one character a byte.
        "PATH_INFO": unquote_to_bytes(parts.path).decode("latin-1"),
        "QUERY_STRING": parts.query,
        "SERVER_NAME": parts.hostname or "",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "HTTP_HOST": parts.netloc,
    }
    headers: Mapping[str, object] = request.headers
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        text = str(value, "latin-1") if isinstance(value, bytes) else str(value)
        if key != "CONTENT_LENGTH":
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = text
    read_timeout = timeout[1] if isinstance(timeout, tuple) else timeout
    if isinstance(read_timeout, int | float):
        # A little less, so that "try again" comes before the caller's own limit.
        environ[PATIENCE] = max(0.05, read_timeout * 0.9)
    return environ


def _bytes_of(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    return bytes(body.read()) if hasattr(body, "read") else b"".join(body)


def _response(request: requests.PreparedRequest, raw: HTTPResponse) -> requests.Response:
    response = requests.Response()
    response.status_code = raw.status
    response.reason = raw.reason or ""
    response.headers = CaseInsensitiveDict(raw.headers)
    response.encoding = requests.utils.get_encoding_from_headers(response.headers)
    response.raw = raw
    response.url = request.url or ""
    response.request = request
    return response
