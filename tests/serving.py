"""A small HTTP server on loopback for tests: a function answers each request."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Request:
    """One request as it arrived.

    :ivar path: as it was sent, without the query.
    :ivar headers: by their names in lower case.
    :ivar handler: writes the answer where no :class:`Reply` can say it.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    handler: BaseHTTPRequestHandler

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class Reply:
    """An answer; its body is JSON unless it is bytes or text, and ``None`` is an empty one."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> tuple[bytes, str]:
        """Return the body and its content type."""
        if self.body is None:
            return b"", ""
        if isinstance(self.body, bytes):
            return self.body, "application/octet-stream"
        if isinstance(self.body, str):
            return self.body.encode(), "text/plain; charset=utf-8"
        return json.dumps(self.body).encode(), "application/json"

    def send(self, handler: BaseHTTPRequestHandler) -> bytes:
        """Send all but the body, which is returned."""
        body, kind = self.encoded()
        handler.send_response(self.status)
        length = {} if self.status in (204, 304) else {"Content-Length": str(len(body))}
        for name, value in {"Content-Type": kind, **length, **self.headers}.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        return b"" if handler.command == "HEAD" or not length else body


#: Returns a :class:`Reply`, or the JSON of one, or ``None`` if it has written the answer itself.
Answer = Callable[[Request], Any]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the default of 5 makes clients wait that connect at once

    def handle_error(self, *_: object) -> None:
        """Clients may be gone."""


@contextlib.contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Let *answer* answer requests during the block; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length") or 0))
            query = dict(parse_qsl(parts.query))
            found = answer(Request(self.command, parts.path, query, headers, body, self))
            if found is not None:
                reply = found if isinstance(found, Reply) else Reply(found)
                self.wfile.write(reply.send(self))

        do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
