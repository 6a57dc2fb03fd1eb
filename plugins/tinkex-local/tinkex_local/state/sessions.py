"""Sessions, which group the runs and samplers of a client."""

from __future__ import annotations

import json
import sqlite3
import uuid
from typing import Any

from tinkex_local.problems import Problem, bad_request
from tinkex_local.state.service import OWNER, Service
from tinkex_local.state.store import as_json, from_json, iso
from tinkex_local.wire import bodies


def create(service: Service, body: bodies.CreateSession) -> dict[str, Any]:
    """Open a session."""
    session_id, now = str(uuid.uuid4()), service.clock()
    service.store.insert(
        "sessions",
        id=session_id,
        created=now,
        tags=json.dumps(body.tags),
        user_metadata=as_json(body.user_metadata),
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


#: Seconds after a heartbeat in which polls need not be recorded.
POLLS_KEEP_ALIVE = 30.0


def heartbeat(service: Service, body: bodies.SessionHeartbeat) -> dict[str, Any]:
    """Record a heartbeat of a session.

    :raises Problem: the session does not exist (404), or it was finished (410).
    """
    if service.find("session", body.session_id)["finished"] is not None:
        raise Problem(410, f"Session {body.session_id!r} is finished")
    query = "UPDATE sessions SET heartbeat = ? WHERE id = ?"
    service.store.write(query, service.clock(), body.session_id)
    return {"type": "session_heartbeat"}


def keep_alive(service: Service, scope: str) -> None:
    """Record that a client polls for a request of *scope*, a run or a sampler."""
    kind, _, name = scope.partition(" ")
    table = {"run": "runs", "sampler": "samplers"}[kind]
    row = service.store.row(
        f"SELECT sessions.* FROM sessions JOIN {table} ON session_id = sessions.id "  # noqa: S608
        f"WHERE {table}.id = ?",
        name,
    )
    now = service.clock()
    if row is not None and now - row["heartbeat"] > POLLS_KEEP_ALIVE:
        query = "UPDATE sessions SET heartbeat = ? WHERE id = ?"
        service.store.write(query, now, row["id"])


def finish(service: Service, session_id: str, body: bodies.FinishSession) -> None:
    """Finish a session; the reason of the first call is kept.

    :raises Problem: the session does not exist.
    """
    service.find("session", session_id)
    service.store.write(
        "UPDATE sessions SET finished = ?, reason = ? WHERE id = ? AND finished IS NULL",
        service.clock(),
        body.reason.type,
        session_id,
    )


def require_open(service: Service, session_id: str) -> None:
    """Check that a session accepts new runs and samplers.

    :raises Problem: it does not exist or is finished.
    """
    if service.find("session", session_id)["finished"] is not None:
        raise bad_request(f"Session {session_id!r} is finished")


def listing(service: Service, limit: int, offset: int) -> dict[str, Any]:
    """Return the ids of the sessions, the newest first."""
    rows = service.store.rows(
        "SELECT id FROM sessions ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?", limit, offset
    )
    return {"sessions": [row["id"] for row in rows]}


def info(service: Service, session_id: str) -> dict[str, Any]:
    """Return the runs and samplers of a session.

    :raises Problem: it does not exist.
    """
    session = service.find("session", session_id)
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
        "user_metadata": from_json(session["user_metadata"]),
        "display_name": session["display_name"],
    }


#: Seconds without a heartbeat after which a session no longer counts as active.
ALIVE_SECONDS = 300.0

_SESSIONS = "SELECT * FROM sessions ORDER BY created DESC, rowid DESC"
#: Totals of a session; queried only for sessions on the page, because each query reads all runs.
_CHECKPOINTS = """
SELECT count(*) AS count, coalesce(sum(size), 0) AS size
FROM checkpoints JOIN runs ON runs.id = checkpoints.run_id
WHERE runs.session_id = ? AND listed AND (expires IS NULL OR expires > ?)
"""


def search(service: Service, body: bodies.SearchSessions) -> dict[str, Any]:
    """Return a page of the sessions that match.

    :raises Problem: the cursor is unknown.
    """
    rows = iter(service.store.rows(_SESSIONS))
    if body.cursor is not None:
        last = body.cursor.last_session_id
        if all(row["id"] != last for row in rows):  # so that those after it remain
            raise bad_request("Unknown cursor")
    now = service.clock()
    found: list[sqlite3.Row] = []
    for row in rows:
        if _matches(row, body, now):
            found.append(row)
        if len(found) > body.limit:
            break
    page = found[: body.limit]
    cursor = None
    if len(found) > body.limit:
        cursor = {"last_created_at": iso(page[-1]["created"]), "last_session_id": page[-1]["id"]}
    return {"sessions": [_summary(service, row, now) for row in page], "next_cursor": cursor}


def _matches(row: sqlite3.Row, body: bodies.SearchSessions, now: float) -> bool:
    if body.owner.type == "user" and OWNER not in (body.owner.owner_urns or []):
        return False
    if body.project_ids is not None and OWNER not in body.project_ids:
        return False  # the only project
    by_id = body.session_id is not None and row["id"] == body.session_id
    words = (body.display_name or "").lower().split()
    by_name = words != [] and all(word in (row["display_name"] or "").lower() for word in words)
    if (body.session_id or body.display_name) and not (by_id or by_name):
        return False
    metadata = from_json(row["user_metadata"]) or {}
    if any(metadata.get(key) != value for key, value in body.user_metadata.items()):
        return False
    status = _status(row, now)
    return body.statuses is None or any(_is(status, query) for query in body.statuses)


def _is(status: dict[str, Any] | None, query: bodies.StatusQuery) -> bool:
    if status is None or status["type"] != query.type:
        return False
    return query.reasons is None or status.get("reason", {}).get("type") in query.reasons


def _status(row: sqlite3.Row, now: float) -> dict[str, Any] | None:
    if row["finished"] is not None:
        return {"type": "client_finished", "reason": {"type": row["reason"]}, "detail": None}
    return {"type": "active"} if now - row["heartbeat"] < ALIVE_SECONDS else None


def _summary(service: Service, row: sqlite3.Row, now: float) -> dict[str, Any]:
    held = service.store.row(_CHECKPOINTS, row["id"], now)
    assert held is not None, "an aggregate query returns a row"
    return {
        "session_id": row["id"],
        "created_at": iso(row["created"]),
        "owner": OWNER,
        "project_id": OWNER,
        "status": _status(row, now),
        "checkpoints_count": held["count"],
        "display_name": row["display_name"],
        "user_metadata": from_json(row["user_metadata"]),
        "checkpoint_storage_bytes": held["size"],
    }
