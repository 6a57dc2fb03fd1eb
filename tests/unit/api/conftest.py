"""A scripted server on a real socket, for what an intercepted call cannot show."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tinkex.api import ServiceClient, Wait
from tinkex.settings import Settings

KEY = "tml-test-key-0123456789"
BASE = "http://tinker.test/services/tinker-prod"
API = f"{BASE}/api/v1"
#: Seconds after which an answer comes that no test waits for.
NEVER = 10_000.0


@dataclass
class Reply:
    """One answer: JSON by default, or bytes, or raw bytes in place of HTTP, or a reset.

    :ivar delay: seconds before it; :data:`NEVER` is the end of the test.
    :ivar linger: seconds after each piece of the body.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay: float = 0.0
    reset: bool = False
    linger: float = 0.0
    pieces: int = 1

    def encoded(self) -> tuple[bytes, str]:
        if isinstance(self.body, bytes):
            return self.body, "application/octet-stream"
        if isinstance(self.body, str):
            return self.body.encode(), "text/plain"
        return (
            (b"", "") if self.body is None else (json.dumps(self.body).encode(), "application/json")
        )


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    at: float
    port: int


Script = Callable[[Seen], Reply]


class Server:
    """Answers what it is told to; the last reply of a path is repeated."""

    reply = Reply

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.script: dict[tuple[str, str], list[Reply | Script]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *args: object) -> None:
                pass

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                parts = urlsplit(self.path)
                seen = Seen(
                    self.command,
                    parts.path.removeprefix("/api/v1/"),
                    dict(parse_qsl(parts.query)),
                    {k.lower(): v for k, v in self.headers.items()},
                    json.loads(body) if body else None,
                    time.monotonic(),
                    self.client_address[1],
                )
                server.answer(seen, self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # the default of 5 lets clients wait that connect at once

            def handle_error(self, *args: object) -> None:
                pass

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def on(self, method: str, path: str, *replies: Reply | Script | Any) -> None:
        known = [r if isinstance(r, Reply) or callable(r) else Reply(r) for r in replies]
        self.script[method, path] = known

    def requests(self, path: str, method: str | None = None) -> list[Seen]:
        return [s for s in self.seen if s.path == path and method in (None, s.method)]

    def answer(self, seen: Seen, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.seen.append(seen)
            replies = self.script.get((seen.method, seen.path))
            found: Reply | Script = Reply({"detail": "Not Found"}, 404)
            if replies:
                found = replies.pop(0) if len(replies) > 1 else replies[0]
        reply = found if isinstance(found, Reply) else found(seen)
        self._closing.wait(reply.delay)
        if reply.reset:
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            handler.close_connection = True
            return
        if reply.raw is not None:
            handler.wfile.write(reply.raw)
            handler.wfile.flush()
            self._closing.wait(reply.linger)
            handler.close_connection = True
            return
        body, kind = reply.encoded()
        handler.send_response(reply.status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **reply.headers}
        for name, value in headers.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        body = b"" if seen.method == "HEAD" else body
        step = -(-len(body) // reply.pieces) or 1
        for start in range(0, len(body), step):
            handler.wfile.write(body[start : start + step])
            handler.wfile.flush()
            self._closing.wait(reply.linger)

    def close(self) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def no_ca_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def storage() -> Iterator[Server]:
    """Another server: somebody else's storage."""
    other = Server()
    yield other
    other.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a download goes; it is not there yet."""
    return tmp_path / "target"


@pytest.fixture
def waits() -> list[Wait]:
    """What the client told while waiting."""
    return []


@pytest.fixture
def connect(waits: list[Wait]) -> Iterator[Callable[..., ServiceClient]]:
    """Return a function that makes a client for an address."""
    made: list[ServiceClient] = []

    def connect(base_url: str = BASE, *, timeout: float = 30.0, **more: Any) -> ServiceClient:
        more = {"api_key": KEY, "allow_http": True, **more}
        settings = Settings(base_url=base_url, timeout=timeout, **more)
        made.append(ServiceClient(settings, on_wait=waits.append))
        return made[-1]

    yield connect
    for client in made:
        for session in client.sessions._open:
            session._finished.set()  # no farewell, and no heartbeats during other tests
        client.close()


@pytest.fixture
def client(server: Server, connect: Callable[..., ServiceClient]) -> ServiceClient:
    """A client of the scripted server."""
    return connect(server.url)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let every pause pass at once, and return how long each was meant to be."""
    naps: list[float] = []
    from tinkex.api.http import retry

    class Clock:
        offset = 0.0

        def sleep(self, seconds: float) -> None:
            naps.append(seconds)
            Clock.offset += seconds

        def monotonic(self) -> float:
            return time.monotonic() + Clock.offset

        def time(self) -> float:
            return time.time() + Clock.offset

    monkeypatch.setattr(retry, "time", Clock())
    return naps
