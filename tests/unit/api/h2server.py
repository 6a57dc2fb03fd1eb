"""The scripted server over HTTP/2 and TLS, by hypercorn."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import hypercorn.asyncio
import hypercorn.config
import pytest
import trustme

from tests.unit.api.conftest import Reply, Script, Seen


class H2Server:
    """Answers what it is told to, as :class:`tests.unit.api.conftest.Server` does.

    :ivar authority: file of the authority that signed its certificate.
    :ivar versions: HTTP version of each request.
    """

    reply = Reply

    def __init__(self, directory: Path) -> None:
        self.seen: list[Seen] = []
        self.versions: list[str] = []
        self.script: dict[tuple[str, str], list[Reply | Script]] = {}
        self.authority = directory / "authority.pem"
        signer = trustme.CA()
        signer.cert_pem.write_to_path(self.authority)
        pair = directory / "server.pem"
        signer.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
            pair
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        config = hypercorn.config.Config()
        config.bind = [f"fd://{self._socket.detach()}"]
        config.certfile = config.keyfile = str(pair)
        config.alpn_protocols = ["h2"]
        config.graceful_timeout = 0.1
        config.shutdown_timeout = 0.5
        config.errorlog = None
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(config, started))
        self._thread.start()
        started.wait(10)

    def on(self, method: str, path: str, *replies: Reply | Script | Any) -> None:
        known = [r if isinstance(r, Reply) or callable(r) else Reply(r) for r in replies]
        if any(isinstance(r, Reply) and (r.raw is not None or r.reset) for r in known):
            pytest.skip("damage of HTTP/1.1")
        self.script[method, path] = known

    def requests(self, path: str, method: str | None = None) -> list[Seen]:
        return [s for s in self.seen if s.path == path and method in (None, s.method)]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _run(self, config: hypercorn.config.Config, started: threading.Event) -> None:
        async def serve() -> None:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            self._loop.call_soon(started.set)
            await hypercorn.asyncio.serve(
                self._answer, config, shutdown_trigger=self._end.wait, mode="asgi"
            )

        asyncio.run(serve())

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        reply = self._reply(scope, body)
        await asyncio.sleep(min(reply.delay, 3))
        content, kind = reply.encoded()
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), **reply.headers}
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [(n.lower().encode(), v.encode()) for n, v in headers.items() if v],
            }
        )
        step = -(-len(content) // reply.pieces) or 1
        for start in range(0, len(content), step):
            piece = {"type": "http.response.body", "body": content[start : start + step]}
            await send({**piece, "more_body": True})
            await asyncio.sleep(min(reply.linger, 3))
        await send({"type": "http.response.body", "body": b""})

    def _reply(self, scope: Any, body: bytes) -> Reply:
        seen = Seen(
            scope["method"],
            scope["raw_path"].decode().removeprefix("/api/v1/"),
            dict(parse_qsl(scope["query_string"].decode())),
            {n.decode(): v.decode() for n, v in scope["headers"]},
            json.loads(body) if body else None,
            time.monotonic(),
            scope["client"][1],
        )
        self.seen.append(seen)
        self.versions.append(scope["http_version"])
        replies = self.script.get((seen.method, seen.path))
        if not replies:
            return Reply({"detail": "Not Found"}, 404)
        found = replies.pop(0) if len(replies) > 1 else replies[0]
        return found if isinstance(found, Reply) else found(seen)
