"""Sessions: what groups the runs and samplers of one client."""

from __future__ import annotations

import json
import sqlite3
import uuid
from typing import Any

from tinkex_local import bodies
from tinkex_local.problems import Problem, bad_request, not_found
from tinkex_local.service import Service


def create(service: Service, body: bodies.CreateSession) -> dict[str, Any]:
    """Open a session."""
    session_id, now = str(uuid.uuid4()), service.clock()
    service.store.insert(
        "sessions",
        id=session_id,
        created=now,
        tags=json.dumps(body.tags),
        user_metadata=_dumped(body.user_metadata),
        display_name=body.display_name,
        heartbeat=now,
    )
    return {
        "type": "create_session",
        "session_id": session_id,
        "info_message": None,
        "warning_message": None,
        "error_message": None,
    }


def heartbeat(service: Service, session_id: str) -> dict[str, Any]:
    """Note that the client of a session is alive.

    :raises Problem: there is no such session (404), or it was finished (410).
    """
    if find(service, session_id)["finished"] is not None:
        raise Problem(410, f"Session {session_id!r} is finished")
    service.store.write(
        "UPDATE sessions SET heartbeat = ? WHERE id = ?", service.clock(), session_id
    )
    return {"type": "session_heartbeat"}


def finish(service: Service, session_id: str, body: bodies.FinishSession) -> None:
    """Close a session; the first call decides the reason.

    :raises Problem: there is no such session.
    """
    find(service, session_id)
    service.store.write(
        "UPDATE sessions SET finished = ?, reason = ? WHERE id = ? AND finished IS NULL",
        service.clock(),
        body.reason.type,
        session_id,
    )


def find(service: Service, session_id: str) -> sqlite3.Row:
    """Return the row of a session.

    :raises Problem: there is none.
    """
    row = service.store.row("SELECT * FROM sessions WHERE id = ?", session_id)
    if row is None:
        raise not_found("session", session_id)
    return row


def require_open(service: Service, session_id: str) -> None:
    """Check that a session may get runs and samplers.

    :raises Problem: it does not exist or is finished.
    """
    if find(service, session_id)["finished"] is not None:
        raise bad_request(f"Session {session_id!r} is finished")


def listing(service: Service, limit: int, offset: int) -> dict[str, Any]:
    """Return the ids of the sessions, the newest first."""
    rows = service.store.rows(
        "SELECT id FROM sessions ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?", limit, offset
    )
    return {"sessions": [row["id"] for row in rows]}


def info(service: Service, session_id: str) -> dict[str, Any]:
    """Return what belongs to a session.

    :raises Problem: there is none.
    """
    session = find(service, session_id)
    metadata = session["user_metadata"]
    ids = {
        table: [
            row["id"]
            for row in service.store.rows(
                f"SELECT id FROM {table} WHERE session_id = ? ORDER BY created, rowid",  # noqa: S608
                session_id,
            )
        ]
        for table in ("runs", "samplers")
    }
    return {
        "training_run_ids": ids["runs"],
        "sampler_ids": ids["samplers"],
        "user_metadata": None if metadata is None else json.loads(metadata),
        "display_name": session["display_name"],
    }


def _dumped(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
