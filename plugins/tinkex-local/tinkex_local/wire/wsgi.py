"""Sends HTTP requests to a WSGI application in this process, for the ``local`` HTTP pool."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

from tinkex.exceptions import Unreachable
from tinkex_local.wire import PATIENCE

if TYPE_CHECKING:
    from tinkex.plugins import HttpRequest, Timeouts
    from tinkex_local.app import App

#: A host name that cannot be resolved, so that no request can leave this process.
BASE_URL = "http://local.tinkex.invalid"


class WsgiSender:
    """Sends requests to the service in this process; the first request opens the state.

    :param app: the application; by default for the state in the default home directory.
    """

    def __init__(self, app: App | None = None) -> None:
        self._given = app
        self._app = app
        self._guard = threading.Lock()

    def send(self, request: HttpRequest, timeouts: Timeouts) -> WsgiResponse:
        """Call the service and return its response.

        :raises LocalError: the state cannot be opened.
        :raises Unreachable: the request is for another host.
        """
        if not request.url.startswith(BASE_URL + "/"):
            host = urlsplit(request.url).hostname
            raise Unreachable(f"{host} is not served by the local HTTP pool")
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started[:] = [(status, headers)]

        with self._guard:
            if self._app is None:
                from tinkex_local.app import open_default

                self._app = open_default()
            app = self._app
        body = app(_environ(request, timeouts), start)
        return WsgiResponse(*started[0], body)

    def close(self) -> None:
        """Close the state."""
        with self._guard:
            app, self._app = self._app, self._given
        if app is not None:
            app.close()


class WsgiResponse:
    """A response of the application; :meth:`close` also closes *body*."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: Iterable[bytes]) -> None:
        self.status = int(status[:3])
        self.headers: dict[str, str] = {}
        for name, value in headers:
            earlier = self.headers.get(name.lower())
            self.headers[name.lower()] = f"{earlier}, {value}" if earlier else value
        self._body, self._pieces = body, iter(body)

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the body, at most *size* bytes at a time."""
        for piece in self._pieces:
            for start in range(0, len(piece), size):
                yield piece[start : start + size]

    def close(self) -> None:
        """Close the body of the application's response."""
        if hasattr(self._body, "close"):
            self._body.close()


def _environ(request: HttpRequest, timeouts: Timeouts) -> dict[str, Any]:
    parts = urlsplit(request.url)
    body = request.body or b""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        # The decoded bytes of the path, one character for each byte (PEP 3333).
        "PATH_INFO": unquote_to_bytes(parts.path).decode("latin-1"),
        "QUERY_STRING": parts.query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "HTTP_HOST": parts.netloc,
        # A little less, so that "try again" comes before the read timeout.
        PATIENCE: max(0.05, timeouts.read * 0.9),
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return environ | {"CONTENT_LENGTH": str(len(body))}
