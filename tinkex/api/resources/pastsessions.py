"""Sessions that there are or were: lists, one of them, and the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tinkex.api.http import pagination, schema
from tinkex.api.http.pagination import Page, Walk
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import segment
from tinkex.exceptions import NotFound, UsageError

#: Session ids that are asked for at once.
PAGE_SIZE = 100
#: Sessions that a search may return at once.
SEARCH_PAGE = 200

#: Names of states → how the service's search calls them.
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
    """A session and what belongs to it.

    :ivar session_id: its id.
    :ivar display_name: a name for people.
    :ivar training_run_ids: the training runs that were started in it.
    :ivar sampler_ids: its sampling sessions.
    :ivar user_metadata: what its maker attached.
    """

    session_id: str
    display_name: str | None = None
    training_run_ids: tuple[str, ...] = ()
    sampler_ids: tuple[str, ...] = ()
    user_metadata: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, session_id: str, data: Any) -> SessionInfo:
        """Read the answer about the session *session_id*.

        :raises tinkex.exceptions.InvalidResponse: *data* is no such answer.
        """
        session = schema.mapping(data, "session")
        return cls(
            session_id,
            schema.optional_text(session, "display_name"),
            tuple(_ids(session, "training_run_ids")),
            tuple(_ids(session, "sampler_ids")),
            schema.optional_mapping(session, "user_metadata"),
        )


@dataclass(frozen=True)
class SessionSummary:
    """A session as the search finds it.

    :ivar session_id: its id.
    :ivar created_at: when it was opened, UTC.
    :ivar owner: whose it is, in the service's words.
    :ivar project_id: the project it belongs to.
    :ivar status: ``active``, ``cancelled``, ``failed``, how its client finished it (``success``,
        ``errored``, ``interrupted``), or ``None`` if nobody knows.
    :ivar message: what the service or the client says about the status.
    :ivar checkpoints_count: checkpoints that its runs have.
    :ivar checkpoint_storage_bytes: bytes of these, if told.
    :ivar display_name: a name for people.
    :ivar user_metadata: what its maker attached.
    """

    session_id: str
    created_at: datetime
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
        """Read one session of the search.

        :raises tinkex.exceptions.InvalidResponse: *data* is not one.
        """
        session = schema.mapping(data, "sessions")
        status, message = _status(schema.optional_mapping(session, "status"))
        return cls(
            session_id=schema.text(session, "session_id"),
            created_at=schema.time(session, "created_at"),
            owner=schema.optional_text(session, "owner"),
            project_id=schema.optional_text(session, "project_id"),
            status=status,
            message=message,
            checkpoints_count=schema.optional_int(session, "checkpoints_count") or 0,
            checkpoint_storage_bytes=schema.optional_int(session, "checkpoint_storage_bytes"),
            display_name=schema.optional_text(session, "display_name"),
            user_metadata=schema.optional_mapping(session, "user_metadata"),
        )


@dataclass(frozen=True)
class SessionQuery:
    """What a search looks for; every condition that is given must hold.

    :ivar display_name: words that the display name has, in any case.
    :ivar session_id: an id; with a display name, either may match.
    :ivar user_metadata: pairs that the metadata has.
    :ivar project_ids: any of these projects.
    :ivar owners: URNs of up to ten users; ``None`` with *accessible* unset: one's own sessions.
    :ivar accessible: those of everybody that one may see.
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
        """Return the members of the request.

        :raises UsageError: conditions that the service does not know.
        """
        if self.owners and self.accessible:
            raise UsageError("either some owners or everybody, not both")
        if len(self.owners) > 10:
            raise UsageError("a search takes at most 10 owners")
        owner: dict[str, Any] = {"type": "accessible" if self.accessible else "own"}
        if self.owners:
            owner = {"type": "user", "owner_urns": list(self.owners)}
        unknown = [status for status in self.statuses if status not in STATUSES]
        if unknown:
            raise UsageError(f"no status is called {unknown[0]!r}", hint=", ".join(STATUSES))
        body = {
            "session_id": self.session_id,
            "display_name": self.display_name,
            "user_metadata": dict(self.user_metadata),
            "project_ids": list(self.project_ids) or None,
            "statuses": [dict(STATUSES[status]) for status in self.statuses] or None,
            "owner": owner,
        }
        return {name: value for name, value in body.items() if value is not None}


def list_sessions(
    transport: Transport, deadline: Deadline, limit: int | None, offset: int, *, accessible: bool
) -> Page[str]:
    """Return ids of sessions, the newest first."""

    def fetch(size: int, start: int) -> tuple[list[str], int | None]:
        params: dict[str, Any] = {"limit": size, "offset": start}
        if accessible:
            params["access_scope"] = "accessible"
        request = Request("GET", "sessions", params=params, what="a list of sessions")
        data = transport.call(request, deadline).object()
        return _ids(data, "sessions"), pagination.total_count(data)

    return Walk(fetch, limit, offset, PAGE_SIZE).page()


def get_session(
    transport: Transport, deadline: Deadline, session_id: str, *, accessible: bool = False
) -> SessionInfo:
    """Return the session *session_id* and what belongs to it."""
    params = {"access_scope": "accessible"} if accessible else {}
    path = f"sessions/{segment(session_id)}"
    request = Request("GET", path, params=params, what="sessions, or has none of this id")
    try:
        answer = transport.call(request, deadline)
    except NotFound as error:
        error.hint = "See 'tinkex session list'."
        raise
    return SessionInfo.from_json(session_id, answer.object())


def search_sessions(
    transport: Transport, deadline: Deadline, query: SessionQuery, limit: int | None
) -> Page[SessionSummary]:
    """Return up to *limit* (``None``: all) sessions that *query* matches, the newest first."""
    body = query.body()
    found: list[SessionSummary] = []
    cursor: Any = None
    while True:
        size = SEARCH_PAGE if limit is None else min(SEARCH_PAGE, limit - len(found))
        page = {**body, "limit": size, **({"cursor": cursor} if cursor else {})}
        # It is a POST that changes nothing.
        request = Request(
            "POST", "sessions/search", page, repeatable=True, what="a search for sessions"
        )
        data = transport.call(request, deadline).object()
        found += [SessionSummary.from_json(item) for item in schema.items(data, "sessions")]
        before, cursor = cursor, schema.optional_mapping(data, "next_cursor")
        if not cursor or cursor == before or (limit is not None and len(found) >= limit):
            break
    total = None if cursor else len(found)
    return Page(found if limit is None else found[:limit], total)


def _ids(data: schema.Json, name: str) -> list[str]:
    ids = schema.items(data, name)
    if not all(isinstance(item, str) for item in ids):
        schema.refuse(f"no list of ids as {name!r}")
    return ids


def _status(data: schema.Json | None) -> tuple[str | None, str | None]:
    """Return the one word and the explanation of a tagged status."""
    if data is None:
        return None, None
    kind = schema.optional_text(data, "type")
    message = schema.optional_text(data, "message") or schema.optional_text(data, "detail")
    if kind == "client_finished":
        reason = schema.optional_mapping(data, "reason") or {}
        kind = schema.optional_text(reason, "type") or "finished"
    return kind, message
