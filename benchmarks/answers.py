"""What the servers of the benchmarks answer alike, as the protocol has it."""

from __future__ import annotations

from typing import Any

BASE_MODEL = "Qwen/Qwen3-8B"

#: Path below ``/api/v1/`` → answer: what clients ask on the way to what is measured.
SESSION: dict[str, Any] = {
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
}
