"""A server whose answers fail in the way that the first segment of the path names.

Run as a program, it prints one line of JSON: its ports. ``http://127.0.0.1:PORT/<fault>`` is then
the base URL of a client. Where a fault needs a true answer (to cut it, to delay it, to give it after
two refusals) that comes from a real service, whose URL is ``--upstream``.

It works on sockets, because an HTTP library would mend half of what is to be broken. It ends by
itself after ``--life`` seconds.
"""

from __future__ import annotations

import argparse
import email.utils
import http.client
import json
import socket
import socketserver
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

#: Longer than any client under test waits.
_FOR_EVER = 30.0
_JSON = "application/json"


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

    def answer(self, status: int, body: bytes, kind: str = _JSON, **headers: str) -> None:
        headers = {"Connection": "close", **headers}  # said, so that nobody asks on it again
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


def head(status: int, length: int | str, kind: str = _JSON, **headers: str) -> bytes:
    """Return the bytes before a body."""
    lines = [f"HTTP/1.1 {status} {http.client.responses.get(status, 'Odd')}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"Content-Length: {length}"] if length != "" else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join([*lines, "X-Request-Id: req-7", ""]) + "\r\n").encode()


def reset(request: Request) -> None:
    """End the connection with RST instead of FIN."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    request.connection.close()


# ------------------------------------------------------------------ faults of the connection

BODY = json.dumps({"training_runs": [], "checkpoints": [], "padding": "x" * 500}).encode()


def silent(request: Request) -> None:
    time.sleep(_FOR_EVER)


def silent_in_headers(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    time.sleep(_FOR_EVER)


def silent_in_body(request: Request) -> None:
    request.send(head(200, len(BODY)) + BODY[:20])
    time.sleep(_FOR_EVER)


def dripping(request: Request) -> None:
    request.send(head(200, len(BODY)))
    for byte in BODY:
        request.send(bytes([byte]))
        time.sleep(0.1)


def close_before(request: Request) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def reset_before(request: Request) -> None:
    reset(request)


def reset_in_headers(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\nContent-")
    time.sleep(0.02)
    reset(request)


def reset_in_body(request: Request) -> None:
    request.send(head(200, len(BODY)) + BODY[:20])
    time.sleep(0.02)
    reset(request)


def cut(request: Request) -> None:
    """Close after as many bytes of the body as the fault's name says."""
    keep = int(request.fault.removeprefix("cut-"))
    request.send(head(200, len(BODY)) + BODY[:keep])


def length_too_long(request: Request) -> None:
    request.send(head(200, len(BODY) + 100) + BODY)


def length_too_short(request: Request) -> None:
    request.send(head(200, len(BODY) - 100) + BODY)


def length_absurd(request: Request) -> None:
    request.send(head(200, 10**15) + BODY)


def length_negative(request: Request) -> None:
    request.send(head(200, -5) + BODY)


def length_no_number(request: Request) -> None:
    request.send(head(200, "many") + BODY)


def chunks_cut(request: Request) -> None:
    request.send(head(200, "", Transfer_Encoding="chunked") + b"40\r\n" + BODY[:20])


def chunks_garbage(request: Request) -> None:
    request.send(head(200, "", Transfer_Encoding="chunked") + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n")


def not_http(request: Request) -> None:
    request.send(b"\x00\x01\x02 not http at all\r\n\r\n")


def header_flood(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\n" + b"X-Pad: " + b"x" * 70_000 + b"\r\n\r\n")


def gzip_garbage(request: Request) -> None:
    request.answer(200, b"\x1f\x8bnot gzip", Content_Encoding="gzip")


def huge(request: Request) -> None:
    """Send JSON without an end in sight."""
    request.send(head(200, "", Connection="close") + b'{"training_runs": [')
    row = b'{"training_run_id": "' + b"x" * 65_000 + b'"},'
    end = time.monotonic() + _FOR_EVER
    while time.monotonic() < end:
        request.send(row)


# ------------------------------------------------------------------ faults of the answer

ANSWERS: dict[str, tuple[int, str, bytes]] = {
    "json-empty": (200, _JSON, b""),
    "json-null": (200, _JSON, b"null"),
    "json-list": (200, _JSON, b"[]"),
    "json-number": (200, _JSON, b"3"),
    "json-string": (200, _JSON, b'"x"'),
    "json-cut": (200, _JSON, b'{"training_runs": [{"a"'),
    "json-no-members": (200, _JSON, b"{}"),
    "json-wrong-types": (
        200,
        _JSON,
        b'{"training_runs": 3, "checkpoints": {"a": 1}, "supported_models": null, "session_id": 7,'
        b' "request_id": {}, "cursor": "x", "sampling_session_id": [], "base_model": 3,'
        b' "sessions": 3, "data": 7, "tinker_path": 8, "training_run_id": [], "training_run_ids": 3}',
    ),
    "json-rows-of-nothing": (
        200,
        _JSON,
        b'{"training_runs": [null, 3, "x"], "checkpoints": [null], "supported_models": [3, []],'
        b' "sessions": [null, {}], "data": [null]}',
    ),
    "json-nan": (200, _JSON, b"NaN"),
    "json-deep": (200, _JSON, b"[" * 200_000),
    "json-no-utf8": (200, _JSON, b'{"training_runs": "\xff\xfe"}'),
    "json-big-number": (200, _JSON, b"9" * 6000),
    "text-200": (200, "text/plain", b"hello"),
    "html-200": (200, "text/html", b"<html><body>Welcome to nginx</body></html>"),
    "html-502": (502, "text/html", b"<html><h1>502 Bad Gateway</h1></html>"),
    "escape": (400, _JSON, b'{"detail": "\\u001b[31mred\\u0007 \\u202e"}'),
    "validation": (422, _JSON, b'{"detail": [{"loc": ["body", "x"], "msg": "field required"}]}'),
    "endpoint-missing": (404, _JSON, b'{"detail": "Not Found"}'),
    "key-echoed": (400, _JSON, b'{"detail": "bad key KEY"}'),
}

#: Bodies of the faults ``status-<code>-<kind>``.
BODIES = {
    "json": (_JSON, b'{"detail": "The server says so"}'),
    "text": ("text/plain", b"Something went wrong"),
    "html": ("text/html", b"<html><title>Oh no</title><h1>Oh no</h1></html>"),
    "none": ("", b""),
}

RETRY_AFTER: dict[str, Callable[[], str]] = {
    "zero": lambda: "0",
    "second": lambda: "1",
    "date": lambda: email.utils.formatdate(time.time() + 1, usegmt=True),
    "past": lambda: email.utils.formatdate(time.time() - 10**6, usegmt=True),
    "absurd": lambda: "999999999999",
    "negative": lambda: "-5",
    "garbage": lambda: "soon",
}


def scripted(request: Request) -> None:
    status, kind, body = ANSWERS[request.fault]
    key = request.headers.get("x-api-key", "").encode()
    request.answer(status, body.replace(b"KEY", key), kind)


def status(request: Request) -> None:
    _, code, name = request.fault.split("-")
    kind, body = BODIES[name]
    request.answer(int(code), body, kind)


def retry_after(request: Request) -> None:
    value = RETRY_AFTER[request.fault.removeprefix("retry-after-")]()
    request.answer(429, b'{"detail": "Slow down"}', Retry_After=value)


def refusing_twice(request: Request) -> None:
    """Answer 503 to the first two of the same request, then as the real service does."""
    if request.server.count(request) <= 2:
        request.answer(503, b'{"detail": "Starting"}', Retry_After="0", X_Should_Retry="true")
    else:
        request.pass_on()


def losing_once(request: Request) -> None:
    """Drop the first of the same reading request, then answer as the real service does."""
    if request.method == "GET" and request.server.count(request) == 1:
        request.connection.shutdown(socket.SHUT_RDWR)
    else:
        request.pass_on()


def true_cut(request: Request) -> None:
    """Cut the real answer at a thousandth of its body: ``true-cut-<thousandth>-<framing>``.

    Framing ``length`` tells how long it was to be; ``close`` leaves the end of the connection as
    the only mark of the end. Only what is asked last is cut.
    """
    _, _, place, framing = request.fault.split("-")
    last = ("/checkpoints", "/training_runs", "/retrieve_future", "/archive")
    code, body, kind = request.upstream()
    path = request.rest.split("?")[0]
    if not path.endswith(last) and "/training_runs/" not in path and "/files/" not in path:
        return request.answer(code, body, kind)
    keep = min(len(body) - 1, len(body) * int(place) // 1000)
    length = len(body) if framing == "length" else ""
    return request.send(head(code, length, kind, Connection="close") + body[: max(keep, 0)])


# ------------------------------------------------------------------ words that steer a terminal

#: Sequences with ESC, as the 8-bit controls, BEL, a change of direction, and what overwrites.
STEERING = "\x1b[666m A \x1b]0;title\x07 B \x9b6n C \x90q D \u202e E \x1bc F\b G\rH \x7f \u2066"
#: Members that the program itself goes on with.
_WORKING = (
    *("session_id", "request_id", "type", "model_id", "sampling_session_id", "cursor", "url"),
    *("tinker_path", "path", "checkpoint_type", "status"),
)


def evil(request: Request) -> None:
    """Give the true answer, its texts steering a terminal: ``evil-<member>``, or ``evil-all``.

    A member is the name that a JSON object has for a text or for what the text is a part of.
    ``evil-shown`` changes all but what a client works with, ``evil-none`` nothing; the members of
    all answers are told at ``/members``.
    """
    wanted = request.fault.removeprefix("evil-")
    code, body, kind = request.upstream()
    if code in range(300, 400):
        return request.answer(code, body, kind)
    try:
        value = json.loads(body)
    except ValueError:
        return request.answer(code, body, kind)
    request.server.members |= set(members(value))
    kind = kind.split("\r")[0]
    changed = steering(value, wanted, evil=wanted in ("all", "shown"))
    return request.answer(code, json.dumps(changed).encode(), kind)


def members(value: object) -> Iterator[str]:
    """Yield the names in *value* of what holds a text."""
    if isinstance(value, dict):
        for name, member in value.items():
            if isinstance(member, str):
                yield name
            yield from members(member)
    elif isinstance(value, list):
        for member in value:
            yield from members(member)


def steering(value: object, wanted: str, *, evil: bool) -> object:
    if isinstance(value, dict):
        kept = _WORKING if wanted == "shown" else ()
        return {
            name: member
            if name in kept or name.endswith(("_at", "time", "_start", "_end"))
            else steering(member, wanted, evil=evil or name == wanted)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [steering(member, wanted, evil=evil) for member in value]
    return value + STEERING if evil and isinstance(value, str) else value


def evil_error(request: Request) -> None:
    """Refuse in such words, in every place where an error has any."""
    words = STEERING.replace("\r", "")
    body = json.dumps({"detail": [{"loc": ["body", words], "msg": words}, words]}).encode()
    line = f"HTTP/1.1 400 {words}\r\nConnection: close\r\nX-Request-Id: {words}\r\nContent-Type: {_JSON}\r\n"
    ascii_only = line.encode("latin-1", "ignore")
    request.send(ascii_only + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)


# ------------------------------------------------------------------ redirects


def redirect(request: Request) -> None:
    places = {
        "redirect-loop": request.path,
        "redirect-other-host": f"http://localhost:{request.server.canary}/stolen",
        "redirect-file": "file:///etc/passwd",
        "redirect-nowhere": "",
        "redirect-nonsense": "ht!tp://[::bad",
    }
    place = places[request.fault]
    request.answer(302, b"", Location=place) if place else request.answer(302, b"")


# ------------------------------------------------------------------ futures


def future(request: Request) -> None:
    """Give true answers, except where the result of a long operation is asked for."""
    if not request.rest.endswith("/retrieve_future"):
        return request.pass_on()
    waiting = {"type": "try_again", "request_id": "1", "queue_state": "paused_capacity"}
    answers: dict[str, tuple[int, object]] = {
        "future-waits": (200, {**waiting, "queue_state_reason": "no capacity"}),
        "future-408": (408, {"detail": "Timeout waiting for result"}),
        "future-user": (200, {"error": "rank is too large", "category": "user"}),
        "future-server": (200, {"error": "worker died", "category": "server"}),
        "future-unknown": (200, {"error": "", "category": None}),
        "future-vanished": (404, {"detail": "Future not found"}),
        "future-expired": (410, {"detail": "gone"}),
        "future-wrong-shape": (200, {"sequences": 3, "path": 7, "model_id": []}),
        "future-list": (200, [1, 2]),
    }
    if request.fault == "future-silent":
        return silent(request)
    code, body = answers[request.fault]
    time.sleep(0.02)
    return request.answer(code, json.dumps(body).encode())


FAULTS: dict[str, Callable[[Request], None]] = {
    "silent": silent,
    "silent-in-headers": silent_in_headers,
    "silent-in-body": silent_in_body,
    "dripping": dripping,
    "close-before": close_before,
    "reset-before": reset_before,
    "reset-in-headers": reset_in_headers,
    "reset-in-body": reset_in_body,
    **{f"cut-{keep}": cut for keep in (0, 1, len(BODY) // 2, len(BODY) - 1)},
    "length-too-long": length_too_long,
    "length-too-short": length_too_short,
    "length-absurd": length_absurd,
    "length-negative": length_negative,
    "length-no-number": length_no_number,
    "chunks-cut": chunks_cut,
    "chunks-garbage": chunks_garbage,
    "not-http": not_http,
    "header-flood": header_flood,
    "gzip-garbage": gzip_garbage,
    "huge": huge,
    **dict.fromkeys(ANSWERS, scripted),
    **{f"retry-after-{name}": retry_after for name in RETRY_AFTER},
    "refusing-twice": refusing_twice,
    "losing-once": losing_once,
    **{
        f"redirect-{name}": redirect
        for name in ("loop", "other-host", "file", "nowhere", "nonsense")
    },
    **{
        f"future-{name}": future
        for name in (
            *("waits", "408", "user", "server", "unknown", "vanished", "expired"),
            *("wrong-shape", "list", "silent"),
        )
    },
}


# ------------------------------------------------------------------ the server


class Server(socketserver.ThreadingTCPServer):
    """Counts what it was asked; a port of 0 means any."""

    daemon_threads = True
    allow_reuse_address = True
    upstream = ""
    canary = 0
    context: ssl.SSLContext | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, str]] = []
        self.members: set[str] = set()
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
        elif request.path == "/members":
            request.answer(200, json.dumps(sorted(self.server.members)).encode())
            self.server.members.clear()
        elif request.fault == "evil-error":
            evil_error(request)
        elif request.fault.startswith("evil-"):
            evil(request)
        elif request.fault.startswith("status-"):
            status(request)
        elif request.fault.startswith("true-cut-"):
            true_cut(request)
        elif request.fault in FAULTS:
            FAULTS[request.fault](request)
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
