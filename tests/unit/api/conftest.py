"""A scripted server on a real socket, for what an intercepted call cannot show."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests import serving
from tinkex.api import ServiceClient, Wait
from tinkex.settings import Settings

KEY = "tml-test-key-0123456789"
BASE = "http://tinker.test/services/tinker-prod"
API = f"{BASE}/api/v1"
#: Seconds after which an answer comes that no test waits for.
NEVER = 10_000.0


@dataclass
class Reply(serving.Reply):
    """One answer: JSON by default, or bytes, or raw bytes in place of HTTP, or a reset.

    :ivar delay: seconds before it; :data:`NEVER` is the end of the test.
    :ivar linger: seconds after each piece of the body.
    """

    raw: bytes | None = None
    delay: float = 0.0
    reset: bool = False
    linger: float = 0.0
    pieces: int = 1


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    at: float
    port: int


Script = Callable[[Seen], Reply]


class Server:
    """Answers as its script says; the last reply of a path is repeated."""

    reply = Reply

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.script: dict[tuple[str, str], list[Reply | Script]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._open = contextlib.ExitStack()
        self.url = self._open.enter_context(serving.serving(self._answer))

    def on(self, method: str, path: str, *replies: Reply | Script | Any) -> None:
        known = [r if isinstance(r, Reply) or callable(r) else Reply(r) for r in replies]
        self.script[method, path] = known

    def requests(self, path: str, method: str | None = None) -> list[Seen]:
        return [s for s in self.seen if s.path == path and method in (None, s.method)]

    def _answer(self, request: serving.Request) -> None:
        is_binary = request.headers.get("content-type") == "application/x-protobuf"
        seen = Seen(
            request.method,
            request.path.removeprefix("/api/v1/"),
            request.query,
            request.headers,
            request.body if is_binary else request.json,
            time.monotonic(),
            request.handler.client_address[1],
        )
        with self._lock:
            self.seen.append(seen)
            replies = self.script.get((seen.method, seen.path))
            found: Reply | Script = Reply({"detail": "Not Found"}, 404)
            if replies:
                found = replies.pop(0) if len(replies) > 1 else replies[0]
        self._send(found if isinstance(found, Reply) else found(seen), request.handler)

    def _send(self, reply: Reply, handler: BaseHTTPRequestHandler) -> None:
        self._closing.wait(reply.delay)
        if reply.reset:
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
        body = reply.send(handler) if reply.raw is None and not reply.reset else reply.raw or b""
        step = -(-len(body) // reply.pieces) or 1
        for start in range(0, 0 if reply.reset else len(body), step):
            handler.wfile.write(body[start : start + step])
            handler.wfile.flush()
            self._closing.wait(reply.linger)
        if reply.reset or reply.raw is not None:
            handler.close_connection = True

    def close(self) -> None:
        self._closing.set()
        self._open.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def storage() -> Iterator[Server]:
    """Another server: the storage of a third party."""
    other = Server()
    yield other
    other.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a download goes; it is not there yet."""
    return tmp_path / "target"


@pytest.fixture
def waits() -> list[Wait]:
    """What the client reported while waiting."""
    return []


@pytest.fixture
def connect(waits: list[Wait]) -> Iterator[Callable[..., ServiceClient]]:
    """Return a function that makes a client for an address."""
    made: list[ServiceClient] = []

    def connect(base_url: str = BASE, *, timeout: float = 30.0, **more: Any) -> ServiceClient:
        pool = os.environ["TINKEX_HTTP_POOL"]
        more = {"api_key": KEY, "allow_http": True, "http_pool": pool, **more}
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
