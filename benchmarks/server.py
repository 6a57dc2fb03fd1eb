"""A server whose answers cost nothing: what is measured is the client.

Prints its address and serves until it is ended. The answers are those of the protocol for an
account with 20 runs of one checkpoint each.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COUNT = 20
TIME = "2026-01-01T00:00:00Z"


def checkpoint(number: int) -> dict[str, Any]:
    """Return the record of one checkpoint."""
    return {
        "checkpoint_id": "sampler_weights/final",
        "checkpoint_type": "sampler",
        "time": TIME,
        "tinker_path": f"tinker://run-{number}:train:0/sampler_weights/final",
        "size_bytes": 123456789,
        "public": False,
        "expires_at": None,
    }


def run(number: int) -> dict[str, Any]:
    """Return the record of one training run."""
    return {
        "training_run_id": f"run-{number}:train:0",
        "base_model": "Qwen/Qwen3-8B",
        "model_owner": "tml:organization_user:0",
        "is_lora": True,
        "corrupted": False,
        "lora_rank": 32,
        "last_request_time": TIME,
        "last_checkpoint": None,
        "last_sampler_checkpoint": checkpoint(number),
        "user_metadata": None,
    }


CURSOR = {"offset": 0, "limit": 20, "total_count": COUNT}
ANSWERS: dict[str, Any] = {
    "healthz": {"status": "ok"},
    "client/config": {"pjwt_auth_enabled": False},
    "client/dynamic_config": {},
    "create_session": {
        "type": "create_session",
        "session_id": "session-0",
        "info_message": None,
        "warning_message": None,
        "error_message": None,
    },
    "session_heartbeat": {"type": "session_heartbeat"},
    "sessions/session-0/finish": {},
    "telemetry": {"status": "accepted"},
    "get_server_capabilities": {"supported_models": [{"model_name": "Qwen/Qwen3-8B"}]},
    "training_runs": {"training_runs": [run(n) for n in range(COUNT)], "cursor": CURSOR},
    "checkpoints": {"checkpoints": [checkpoint(n) for n in range(COUNT)], "cursor": CURSOR},
}
BODIES = {f"/api/v1/{path}": json.dumps(answer).encode() for path, answer in ANSWERS.items()}


class Handler(BaseHTTPRequestHandler):
    """Answers from the table."""

    protocol_version = "HTTP/1.1"
    # The header and the body leave in one packet.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer; what is not in the table is a 404 as the protocol has it."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = BODIES.get(self.path.partition("?")[0])
        self.send_response(404 if body is None else 200)
        body = body if body is not None else b'{"detail": "Not Found"}'
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log with ``--log`` only: which requests a client makes."""
        if "--log" in sys.argv:
            sys.stderr.write(format % args + "\n")


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
