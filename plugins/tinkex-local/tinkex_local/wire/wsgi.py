"""HTTP requests as calls of a WSGI application in this process, for the ``local`` HTTP pool."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

from tinkex.exceptions import Unreachable
from tinkex_local.pool import BASE_URL
from tinkex_local.state.times import PATIENCE

if TYPE_CHECKING:
    from tinkex.plugins import HttpRequest, Timeouts
    from tinkex_local.app import App


class WsgiSender:
    """Sends requests to the service in this process; the first one opens its state.

    :param app: the application; by default the one over the default home directory.
    """

    def __init__(self, app: App | None = None) -> None:
        self._given = app
        self._app = app
        self._guard = threading.Lock()

    def send(self, request: HttpRequest, timeouts: Timeouts) -> WsgiResponse:
        """Return the response of the service.

        :raises LocalError: the state cannot be opened.
        :raises Unreachable: the request is for another host.
        """
        if not request.url.startswith(BASE_URL + "/"):
            host = urlsplit(request.url).hostname
            raise Unreachable(f"{host} is not served by the local HTTP pool")
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started[:] = [(status, headers)]

        body = self._application()(_environ(request, timeouts), start)
        pieces = iter(body)
        # An application may start its response only when the first piece is asked for.
        first = next(pieces, b"") if not started else b""
        status, headers = started[0]
        return WsgiResponse(int(status[:3]), headers, first, pieces, body)

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


class WsgiResponse:
    """The response of a WSGI application as :class:`tinkex.plugins.HttpResponse`.

    :param first: the piece of the body that has been read already.
    :param pieces: the others.
    :param body: what the application returned, to be closed.
    """

    def __init__(
        self,
        status: int,
        headers: list[tuple[str, str]],
        first: bytes,
        pieces: Iterator[bytes],
        body: Iterable[bytes],
    ) -> None:
        self.status = status
        found: dict[str, str] = {}
        for name, value in headers:
            name = name.lower()
            found[name] = f"{found[name]}, {value}" if name in found else value
        self.headers: Mapping[str, str] = found
        self._first, self._pieces, self._body = first, pieces, body

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the body, at most *size* bytes at a time."""
        piece, self._first = self._first, b""
        while True:
            for start in range(0, len(piece), size):
                yield piece[start : start + size]
            try:
                piece = next(self._pieces)
            except StopIteration:
                return

    def close(self) -> None:
        """Let the application release what the body holds."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _environ(request: HttpRequest, timeouts: Timeouts) -> dict[str, Any]:
    parts = urlsplit(request.url)
    body = request.body or b""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        # The decoded bytes of the path, one character a byte (PEP 3333).
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
        # A little less, so that "try again" comes before the read timeout.
        PATIENCE: max(0.05, timeouts.read * 0.9),
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        if key != "CONTENT_LENGTH":
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return environ
