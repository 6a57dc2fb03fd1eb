"""Responses that the servers of all benchmarks share."""

from __future__ import annotations

from typing import Any

BASE_MODEL = "Qwen/Qwen3-8B"

#: Path below ``/api/v1/`` → answer: requests of clients before the measured ones.
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
