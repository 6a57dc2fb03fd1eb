"""A server that fails in the way the first segment of the path names.

Run as a program; prints its port. ``http://127.0.0.1:PORT/<fault>`` is the base URL.
"""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: fault → status, content type, body
ANSWERS: dict[str, tuple[int, str, bytes]] = {
    "empty": (200, "application/json", b""),
    "text": (200, "text/plain", b"hello"),
    "html": (200, "text/html", b"<html><body>Welcome to nginx</body></html>"),
    "null": (200, "application/json", b"null"),
    "list": (200, "application/json", b"[]"),
    "number": (200, "application/json", b"3"),
    "string": (200, "application/json", b'"x"'),
    "broken": (200, "application/json", b'{"training_runs": [{"a"'),
    "shape": (
        200,
        "application/json",
        b'{"training_runs": 3, "checkpoints": {"a": 1}, "supported_models": null, "session_id": 7,'
        b' "request_id": {}, "cursor": "x", "sampling_session_id": [], "base_model": 3}',
    ),
    "nan": (200, "application/json", b"NaN"),
    "deep": (200, "application/json", b"[" * 200_000),
    "utf8": (200, "application/json", b'{"training_runs": "\xff\xfe"}'),
    "unauthorized": (401, "application/json", b'{"detail": "Invalid API key"}'),
    "billing": (402, "application/json", b'{"detail": "Billing problem"}'),
    "forbidden": (403, "application/json", b'{"detail": "Not yours"}'),
    "nothing": (404, "application/json", b'{"detail": "Not Found"}'),
    "unknown": (404, "application/json", b'{"detail": "No such thing here"}'),
    "teapot": (418, "text/plain", b"short and stout"),
    "validation": (
        422,
        "application/json",
        b'{"detail": [{"loc": ["body", "x"], "msg": "field required"}]}',
    ),
    "crash": (500, "text/plain", b"Internal Server Error"),
    "gateway": (502, "text/html", b"<html><h1>502 Bad Gateway</h1></html>"),
    "escape": (400, "application/json", b'{"detail": "\\u001b[31mred\\u0007"}'),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        fault = self.path.split("/")[1]
        if fault == "slow":
            time.sleep(8)
            return self._drop()
        if fault == "reset":
            return self._drop()
        if fault == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n")
            self.wfile.write(b'Content-Type: application/json\r\n\r\n{"training_runs": [')
            return self._drop()
        if fault == "garbage":
            self.wfile.write(b"\x00\x01\x02 not http at all\r\n\r\n")
            return self._drop()
        if fault == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        status, kind, body = ANSWERS[fault]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def _drop(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Timer(300, server.shutdown).start()  # never outlives its tests for long
    print(server.server_address[1], flush=True)
    server.serve_forever()
    sys.exit(0)


if __name__ == "__main__":
    main()
