"""The search for sessions, the newest first."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from tinkex_local import bodies
from tinkex_local.problems import bad_request
from tinkex_local.service import OWNER, Service
from tinkex_local.times import iso

#: Seconds without a heartbeat after which nobody knows whether a session still runs.
ALIVE_SECONDS = 300.0

_SESSIONS = "SELECT * FROM sessions ORDER BY created DESC, rowid DESC"
#: What a session has; asked for those on the page only, since each time all runs are read.
_CHECKPOINTS = """
SELECT count(*) AS count, coalesce(sum(size), 0) AS size
FROM checkpoints JOIN runs ON runs.id = checkpoints.run_id
WHERE runs.session_id = ? AND listed AND (expires IS NULL OR expires > ?)
"""


def search(service: Service, body: bodies.SearchSessions) -> dict[str, Any]:
    """Return a page of the sessions that match.

    :raises Problem: the cursor is none of ours.
    """
    rows = iter(service.store.rows(_SESSIONS))
    if body.cursor is not None:
        _skip(rows, body.cursor)
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


def _skip(rows: Any, cursor: bodies.SearchCursor) -> None:
    for row in rows:
        if row["id"] == cursor.last_session_id:
            return
    raise bad_request("The cursor is not known")


def _matches(row: sqlite3.Row, body: bodies.SearchSessions, now: float) -> bool:
    if body.owner.type == "user" and OWNER not in (body.owner.owner_urns or []):
        return False
    if body.project_ids is not None and OWNER not in body.project_ids:
        return False  # the one project that there is
    by_id = body.session_id is not None and row["id"] == body.session_id
    by_name = body.display_name is not None and _has_words(row["display_name"], body.display_name)
    if (body.session_id or body.display_name) and not (by_id or by_name):
        return False
    metadata = json.loads(row["user_metadata"] or "null") or {}
    if any(metadata.get(key) != value for key, value in body.user_metadata.items()):
        return False
    status = _status(row, now)
    return body.statuses is None or any(_is(status, query) for query in body.statuses)


def _has_words(name: str | None, words: str) -> bool:
    return all(word in (name or "").lower() for word in words.lower().split())


def _is(status: dict[str, Any] | None, query: bodies.StatusQuery) -> bool:
    if status is None or status["type"] != query.type:
        return False
    return query.reasons is None or status.get("reason", {}).get("type") in query.reasons


def _status(row: sqlite3.Row, now: float) -> dict[str, Any] | None:
    if row["finished"] is not None:
        return {"type": "client_finished", "reason": {"type": row["reason"]}, "detail": None}
    return {"type": "active"} if now - row["heartbeat"] < ALIVE_SECONDS else None


def _summary(service: Service, row: sqlite3.Row, now: float) -> dict[str, Any]:
    metadata = row["user_metadata"]
    held = service.store.row(_CHECKPOINTS, row["id"], now)
    assert held is not None, "an aggregate has a row"
    return {
        "session_id": row["id"],
        "created_at": iso(row["created"]),
        "owner": OWNER,
        "project_id": OWNER,
        "status": _status(row, now),
        "checkpoints_count": held["count"],
        "display_name": row["display_name"],
        "user_metadata": None if metadata is None else json.loads(metadata),
        "checkpoint_storage_bytes": held["size"],
    }
