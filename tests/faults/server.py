"""A server whose responses have the fault named by the first segment of the path.

Run as a program, it prints one line of JSON: its ports. ``http://127.0.0.1:PORT/<fault>`` is then
the base URL of a client. Where a fault needs a true answer (to cut it, to delay it, to give it after
two refusals) that comes from a real service, whose URL is ``--upstream``.

It works on sockets, because an HTTP library would mend half of what is to be broken. It ends by
itself after ``--life`` seconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import socketserver
import ssl
import threading
import time
from collections import Counter
from pathlib import Path

from tests.faults.faults import fault_of
from tests.faults.wire import Request


class Server(socketserver.ThreadingTCPServer):
    """Counts what it was asked; a port of 0 means any."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # commands connect side by side, and a full queue lets them wait
    upstream = ""
    canary = 0
    context: ssl.SSLContext | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, str]] = []
        self._counts: Counter[tuple[str, str, bytes]] = Counter()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def count(self, request: Request) -> int:
        """Count one more of the same request, and return how many there were."""
        key = (request.method, request.path, request.body)
        with self._lock:
            self._counts[key] += 1
            return self._counts[key]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what this is about."""


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        connection = self.request
        if self.server.context is not None:
            connection = self.server.context.wrap_socket(connection, server_side=True)
        with connection.makefile("rb") as reader:
            request = self._read(reader, connection)
        if request is None:
            return
        self.server.seen.append({"path": request.path, **request.headers})
        if request.path == "/seen":
            request.answer(200, json.dumps(self.server.seen).encode())
        elif act := fault_of(request.fault):
            act(request)
        else:
            request.answer(404, b'{"detail": "Not Found"}')

    def _read(self, reader: object, connection: socket.socket) -> Request | None:
        line = reader.readline(65536).decode("latin-1").split()  # type: ignore[attr-defined]
        if len(line) != 3:
            return None
        headers = http.client.parse_headers(reader)  # type: ignore[arg-type]
        known = {name.lower(): value for name, value in headers.items()}
        body = reader.read(int(known.get("content-length", 0)))  # type: ignore[attr-defined]
        return Request(line[0], line[1], known, body, connection, self.server)


def deaf_port() -> int:
    """Return a port that takes no connection and refuses none: its queue is full."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = int(listener.getsockname()[1])
    waiting = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        waiting.append(client)
    _KEPT.extend([listener, *waiting])
    return port


_KEPT: list[socket.socket] = []


def tls_server(directory: Path, name: str) -> Server:
    server = Server()
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(directory / f"{name}.pem")
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--certificates", type=Path, help="directory of *.pem for TLS ports")
    parser.add_argument("--life", type=float, default=900.0)
    options = parser.parse_args()
    servers = {"http": Server(), "canary": Server()}
    for file in sorted(options.certificates.glob("*.pem")) if options.certificates else ():
        servers[f"tls-{file.stem}"] = tls_server(options.certificates, file.stem)
    for server in servers.values():
        server.upstream, server.canary = options.upstream, servers["canary"].port
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ports = {name: server.port for name, server in servers.items()}
    print(json.dumps({**ports, "deaf": deaf_port()}), flush=True)
    time.sleep(options.life)  # it never outlives its tests for long


if __name__ == "__main__":
    main()
