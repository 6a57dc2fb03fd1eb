"""A service whose checkpoints are files on this machine, sent by the kernel (``sendfile``).

Prints its address. ``--directory`` contains ``a.tar``, ``a.tar.gz``, and a directory for each
checkpoint in separate files; ``--rate`` limits each connection to so many MiB/s. It does not use
tinkex.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_BLOCK = 1024 * 1024
_EXPIRES = "2036-01-01T00:00:00Z"


class Handler(BaseHTTPRequestHandler):
    """Returns signed URLs, and the files with ranges and entity tags."""

    protocol_version = "HTTP/1.1"
    # Head and body are two packets: the second must not wait for the acknowledgement of the first.
    disable_nagle_algorithm = True
    root = Path()
    rate = 0.0

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Respond as in the protocol."""
        words = self.path.partition("?")[0].strip("/").split("/")
        host = f"http://{self.headers['Host']}/stored/"
        if words[0] == "stored":
            self._send(self.root.joinpath(*words[1:]))
        elif words[-1] == "external_weights_urls":
            names = sorted(file.name for file in (self.root / words[-2]).iterdir())
            urls = {name: f"{host}{words[-2]}/{name}" for name in names}
            self._json({"urls": urls, "expires": _EXPIRES})
        elif words[-1] == "archive":
            self._json({"url": host + words[-2], "expires": _EXPIRES})
        else:
            self._json({"detail": "Not Found"}, 404)

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, path: Path) -> None:
        size = path.stat().st_size
        start, end = 0, size
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else size
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.name}-{size}"')
        self.end_headers()
        self.wfile.flush()
        began, at = time.monotonic(), start
        with path.open("rb") as file:
            while at < end:
                try:
                    at += os.sendfile(
                        self.connection.fileno(), file.fileno(), at, min(_BLOCK, end - at)
                    )
                except ConnectionError:
                    self.close_connection = True
                    return
                if self.rate:
                    ahead = (at - start) / self.rate - (time.monotonic() - began)
                    time.sleep(max(0.0, ahead))


def main() -> None:
    """Serve until the process is terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="MiB/s for each connection")
    options = parser.parse_args()
    Handler.root, Handler.rate = options.directory, options.rate * 1024 * 1024
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    # A client may open as many connections at once as it likes.
    server.socket.listen(1024)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
