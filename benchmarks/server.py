"""A server with precomputed responses, so that only the client is measured.

Prints its address and serves until it is terminated. The answers are those of the protocol for an
account with ``--count`` runs of one checkpoint each (20 by default); lists are encoded once, before
the first request. The list of a single run has :data:`OF_RUN` checkpoints; deletions are accepted
and change nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from answers import BASE_MODEL, SESSION

TIME = "2026-01-01T00:00:00Z"
#: Number of checkpoints of a run, with the names 0000, 0001, …
OF_RUN = 100


def checkpoint(number: int, name: str = "final") -> dict[str, Any]:
    """Return the record of one checkpoint."""
    return {
        "checkpoint_id": f"sampler_weights/{name}",
        "checkpoint_type": "sampler",
        "time": TIME,
        "tinker_path": f"tinker://run-{number}:train:0/sampler_weights/{name}",
        "size_bytes": 123456789,
        "public": False,
        "expires_at": None,
    }


def run(number: int) -> dict[str, Any]:
    """Return the record of one training run."""
    return {
        "training_run_id": f"run-{number}:train:0",
        "base_model": BASE_MODEL,
        "model_owner": "tml:organization_user:0",
        "is_lora": True,
        "corrupted": False,
        "lora_rank": 32,
        "last_request_time": TIME,
        "last_checkpoint": None,
        "last_sampler_checkpoint": checkpoint(number),
        "user_metadata": None,
    }


ANSWERS: dict[str, Any] = SESSION | {
    "get_server_capabilities": {"supported_models": [{"model_name": BASE_MODEL}]},
}
API = "/api/v1/"
BODIES = {API + path: json.dumps(answer).encode() for path, answer in ANSWERS.items()}
_OF_RUN = re.compile(API + r"training_runs/run-(\d+):train:0/checkpoints")
#: Records of each list, encoded.
LISTS: dict[str, list[bytes]] = {}


def page(name: str, query: str) -> bytes:
    """Return the page of the list *name* that *query* requests."""
    records, asked = LISTS[name], parse_qs(query)
    limit, offset = (int(asked.get(key, [default])[0]) for key, default in _DEFAULTS)
    cursor = {"offset": offset, "limit": limit, "total_count": len(records)}
    body = b", ".join(records[offset : offset + limit])
    return b'{"%s": [%s], "cursor": %s}' % (name.encode(), body, json.dumps(cursor).encode())


_DEFAULTS = (("limit", "20"), ("offset", "0"))


class Handler(BaseHTTPRequestHandler):
    """Responds from the table."""

    protocol_version = "HTTP/1.1"
    # The header and the body leave in one packet.
    wbufsize = -1
    disable_nagle_algorithm = True
    log = False
    wait = 0.0

    def do_GET(self) -> None:
        """Respond from the table, or with a 404 as in the protocol."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        if self.wait:
            time.sleep(self.wait)
        if path.removeprefix(API) in LISTS:
            body: bytes | None = page(path.removeprefix(API), query)
        elif self.command == "DELETE":
            body = b"{}"
        elif of_run := _OF_RUN.fullmatch(path):  # read before a deletion
            rows = [checkpoint(int(of_run[1]), f"{n:04}") for n in range(OF_RUN)]
            body = json.dumps({"checkpoints": rows}).encode()
        else:
            body = BODIES.get(path)
        self.send_response(404 if body is None else 200)
        body = body if body is not None else b'{"detail": "Not Found"}'
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log with ``--log`` only: which requests a client makes."""
        if self.log:
            sys.stderr.write(format % args + "\n")


def main() -> None:
    """Serve until the process is terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="length of the lists")
    parser.add_argument("--log", action="store_true", help="log requests on standard error")
    parser.add_argument("--wait", type=float, default=0, help="seconds before each response")
    options = parser.parse_args()
    Handler.log, Handler.wait = options.log, options.wait
    for name, record in (("training_runs", run), ("checkpoints", checkpoint)):
        LISTS[name] = [json.dumps(record(number)).encode() for number in range(options.count)]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # A client may open as many connections at once as it likes.
    server.socket.listen(1024)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
