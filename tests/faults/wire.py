"""A request to the faulty server, and helpers that write responses."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tests.faults.server import Server

#: Longer than any test lasts: who waits for it hangs.
FOR_EVER = 10_000.0
JSON = "application/json"


@dataclass
class Request:
    """What a client sent, and the connection it waits on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: socket.socket
    server: Server

    @property
    def fault(self) -> str:
        return self.path.split("/")[1]

    @property
    def rest(self) -> str:
        """The path behind the name of the fault."""
        return "/" + self.path.split("/", 2)[2]

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    def answer(self, status: int, body: bytes, kind: str = JSON, **headers: str) -> None:
        headers = {"Connection": "close", **headers}  # so that no client asks on it again
        self.send(head(status, len(body), kind, **headers) + body)

    def upstream(self) -> tuple[int, bytes, str]:
        """Return status, body and content type of the true answer."""
        parts = urlsplit(self.server.upstream)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        headers = {n: v for n, v in self.headers.items() if n not in ("host", "connection")}
        try:
            connection.request(self.method, parts.path + self.rest, self.body or None, headers)
            response = connection.getresponse()
            body = response.read()
            location = response.getheader("Location", "")
            kind = response.getheader("Content-Type", "")
        finally:
            connection.close()
        return response.status, body, f"{kind}\r\nLocation: {location}" if location else kind

    def pass_on(self) -> None:
        """Give the true answer."""
        status, body, kind = self.upstream()
        self.answer(status, body, kind)


def head(status: int, length: int | str, kind: str = JSON, **headers: str) -> bytes:
    """Return the bytes before a body."""
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Odd')}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"Content-Length: {length}"] if length != "" else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join([*lines, "X-Request-Id: req-7", ""]) + "\r\n").encode()
