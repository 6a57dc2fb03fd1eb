"""Records of sessions, and the conditions of a search for sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tinkex.api.http import schema
from tinkex.exceptions import UsageError

#: Name of a status → its form in the service's search.
STATUSES: Mapping[str, Mapping[str, Any]] = {
    "active": {"type": "active"},
    "cancelled": {"type": "cancelled"},
    "failed": {"type": "failed"},
    "finished": {"type": "client_finished"},
    "success": {"type": "client_finished", "reasons": ["success"]},
    "errored": {"type": "client_finished", "reasons": ["errored"]},
    "interrupted": {"type": "client_finished", "reasons": ["interrupted"]},
}


@dataclass(frozen=True)
class SessionInfo:
    """A session, with the training runs and sampling sessions started in it."""

    session_id: str
    display_name: str | None = None
    training_run_ids: tuple[str, ...] = ()
    sampler_ids: tuple[str, ...] = ()
    user_metadata: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, session_id: str, data: Any) -> SessionInfo:
        """Create the session *session_id* from its JSON form *data*."""
        session = schema.mapping(data, "session")
        ids: dict[str, Any] = {
            name: tuple(map(schema.identifier, schema.items(session, name)))
            for name in ("training_run_ids", "sampler_ids")
        }
        return schema.read(cls, session, "session", session_id=session_id, **ids)


@dataclass(frozen=True)
class SessionSummary:
    """A session found by a search.

    :ivar created_at: UTC.
    :ivar owner: its owner, as the service reports it.
    :ivar status: ``active``, ``cancelled``, ``failed``, the outcome that its client reported
        (``success``, ``errored``, ``interrupted``), or ``None`` if unknown.
    :ivar message: explanation of the status.
    :ivar checkpoints_count: number of checkpoints of its runs.
    """

    session_id: str
    created_at: datetime | None = None
    owner: str | None = None
    project_id: str | None = None
    status: str | None = None
    message: str | None = None
    checkpoints_count: int = 0
    checkpoint_storage_bytes: int | None = None
    display_name: str | None = None
    user_metadata: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, data: Any) -> SessionSummary:
        """Create a session from its JSON form *data*."""
        session = schema.mapping(data, "sessions")
        status, message = _status(schema.optional_mapping(session, "status"))
        return schema.read(cls, session, "sessions", lenient=True, status=status, message=message)


@dataclass(frozen=True)
class SessionQuery:
    """Conditions of a search; a session must meet all of them.

    :ivar display_name: words in the display name; case is ignored.
    :ivar session_id: a session id; with a display name, either may match.
    :ivar user_metadata: names and values in the metadata.
    :ivar project_ids: any of these projects.
    :ivar owners: URNs of up to ten users; without them, and without *accessible*, the caller.
    :ivar accessible: all sessions that the key may read.
    :ivar statuses: any of ``active``, ``cancelled``, ``failed``, ``finished`` (by its client),
        ``success``, ``errored``, ``interrupted``.
    """

    display_name: str | None = None
    session_id: str | None = None
    user_metadata: Mapping[str, str] = field(default_factory=dict)
    project_ids: Sequence[str] = ()
    owners: Sequence[str] = ()
    accessible: bool = False
    statuses: Sequence[str] = ()

    def body(self) -> dict[str, Any]:
        """Return the members of the request body.

        :raises UsageError: the service does not offer these conditions.
        """
        if self.owners and self.accessible:
            raise UsageError("pass either owners or accessible, not both")
        owner: dict[str, Any] = {"type": "accessible" if self.accessible else "own"}
        if self.owners:
            owner = {"type": "user", "owner_urns": list(self.owners)}
        unknown = [status for status in self.statuses if status not in STATUSES]
        if unknown:
            hint = f"Valid statuses: {', '.join(STATUSES)}."
            raise UsageError(f"unknown session status {unknown[0]!r}", hint=hint)
        body = {
            "session_id": self.session_id,
            "display_name": self.display_name,
            "user_metadata": dict(self.user_metadata),
            "project_ids": list(self.project_ids) or None,
            "statuses": [dict(STATUSES[status]) for status in self.statuses] or None,
            "owner": owner,
        }
        return {name: value for name, value in body.items() if value is not None}


def _status(data: schema.Json | None) -> tuple[str | None, str | None]:
    """Return the name and the message of a tagged status."""
    if data is None:
        return None, None
    kind = schema.optional_text(data, "type")
    message = schema.optional_text(data, "message") or schema.optional_text(data, "detail")
    if kind == "client_finished":
        reason = schema.optional_mapping(data, "reason") or {}
        kind = schema.optional_text(reason, "type") or "finished"
    return kind, message
