"""Sessions of training and sampling: open, list and search them, and download traces."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinkex.api.http import pagination, schema
from tinkex.api.http.concurrency import map_ordered, start_thread
from tinkex.api.http.pagination import Page
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import (
    PROTOCOL_VERSION,
    Request,
    Response,
    Transport,
    join_url,
)
from tinkex.api.paths import segment, segment_from_server
from tinkex.exceptions import (
    LimitReached,
    LocalError,
    NotFound,
    NotOffered,
    OperationFailed,
    ServerError,
    TargetExists,
    TinkexError,
    UsageError,
)
from tinkex.files import path_of, replacing

# Most commands open no session, and a list needs no code for searches and traces.
if TYPE_CHECKING:
    from tinkex.api.resources.session_info import SessionInfo, SessionQuery, SessionSummary
    from tinkex.api.transfer.progress import OnProgress

#: Seconds between two heartbeats.
HEARTBEAT = 10.0
#: Time limit of a heartbeat in seconds.
_HEARTBEAT_TIMEOUT = 10.0
#: Time limits in seconds of finishing a session: normally, and after Ctrl-C.
_FAREWELL = 1.0
_HASTY_FAREWELL = 0.5
_FINISH = "POST sessions/{id}/finish"
#: Session ids per page, and sessions per page of a search.
_PAGE_SIZE = 100
_SEARCH_PAGE_SIZE = 200
#: Seconds between two polls for a trace: the first, and the maximum after doubling, which is the
#: fixed interval of the official SDK. The trace of a short session is ready earlier.
FIRST_INTERVAL, INTERVAL = 0.5, 5.0

#: Messages of servers without capacity for another run or sampler: SkyRL, miles, hatchery.
_FULL = re.compile(
    r"maximum number of lora adapters|no free adapter slot|max \d+ concurrent sessions", re.I
)

Outcome = Literal["success", "errored", "interrupted"]


class Session:
    """An open session; a thread sends its heartbeats until :meth:`finish`."""

    def __init__(self, transport: Transport, session_id: str) -> None:
        self.session_id = session_id
        self._segment = segment_from_server(session_id)
        self._transport = transport
        self._finished = threading.Event()
        self._lock = threading.Lock()
        #: Models that no checkpoint needs; they are unloaded if the server cannot finish a session.
        self.unneeded: set[str] = set()
        #: The number of the next model.
        self.model_seq_id = 0
        #: The numbers of the next sampling sessions.
        self.sampler_seq_ids = itertools.count()
        start_thread(self._beat, "tinkex-heartbeat")

    def finish(self, outcome: Outcome = "success") -> None:
        """Report once to the service that the session has ended.

        If the service does not offer this, the models in ``unneeded`` are unloaded, because they
        would use capacity until the service ends the session. Each request takes at most a second.
        This method never raises.
        """
        with self._lock:
            if self._finished.is_set():
                return
            self._finished.set()
        seconds = _HASTY_FAREWELL if outcome == "interrupted" else _FAREWELL
        if _FINISH not in self._transport.missing:
            path = f"sessions/{self._segment}/finish"
            answer = self._send(Request("POST", path, {"reason": {"type": outcome}}), seconds)
            is_offered = answer is None or answer.ok or not isinstance(answer.error(), NotOffered)
            if is_offered:
                return
            self._transport.missing.add(_FINISH)
        for model_id in self.unneeded:
            self._send(Request("POST", "unload_model", {"model_id": model_id}), seconds)

    def _beat(self) -> None:
        request = Request("POST", "session_heartbeat", {"session_id": self.session_id})
        while not self._finished.wait(HEARTBEAT):
            answer = self._send(request, _HEARTBEAT_TIMEOUT)
            if answer is not None and answer.status == 410:
                return  # the service has closed the session

    def _send(self, request: Request, seconds: float) -> Response | None:
        """Send *request* once; return the response, or ``None`` if there was none."""
        try:
            return self._transport.once(request, Deadline("a response", seconds))
        except TinkexError:
            return None


@dataclass(frozen=True)
class Trace:
    """A downloaded trace of a session."""

    session_id: str
    path: Path
    size_bytes: int


class Sessions:
    """Opens sessions for the client, and lists those of the account."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._open: list[Session] = []

    def create(
        self,
        *,
        tags: Sequence[str] | None = None,
        user_metadata: Mapping[str, str] | None = None,
        deadline: Deadline | None = None,
    ) -> Session:
        """Open a session; messages from the service are passed to ``on_wait`` as notes.

        :param tags: labels; by default those of the settings.
        :param user_metadata: names and string values; some servers accept no other values.
        :param deadline: deadline of the operation that the session is opened for.
        :raises tinkex.exceptions.UsageError: a value in *user_metadata* is not a string.
        """
        settings = self._transport.settings
        body: dict[str, Any] = {
            "tags": list(settings.tags if tags is None else tags),
            "user_metadata": _texts(user_metadata or {}),  # strict servers reject null
            "sdk_version": PROTOCOL_VERSION,
        }
        if settings.project_id:
            body["project_id"] = settings.project_id
        deadline = deadline or self._transport.deadline("a session")
        answer = self._transport.call(Request("POST", "create_session", body), deadline).object()
        for name in ("info_message", "warning_message", "error_message"):
            message = answer.get(name)
            if message and isinstance(message, str):
                deadline.report(note=f"server: {message}")
        session = Session(self._transport, schema.text(answer, "session_id"))
        with self._lock:
            self._open = [known for known in self._open if not known._finished.is_set()]
            self._open.append(session)
        return session

    @contextmanager
    def begun(
        self, deadline: Deadline, *, user_metadata: Mapping[str, str] | None = None
    ) -> Iterator[Session]:
        """Open a session for use in the block; it is finished only if the block fails."""
        session = self.create(user_metadata=user_metadata, deadline=deadline)
        try:
            yield session
        except BaseException as error:
            session.finish(outcome_of(type(error)))
            raise

    def list(
        self, limit: int | None = 20, offset: int = 0, *, accessible: bool = False
    ) -> Page[str]:
        """Return the ids of sessions, newest first.

        :param limit: maximum number of ids; ``None`` or 0 for all.
        :param accessible: include sessions of other users that the key may read.
        """
        return pagination.walk(
            self._transport,
            Request("GET", "sessions", params=_scope(accessible), what="a list of sessions"),
            schema.identifier,
            self._transport.deadline("the list of sessions"),
            limit=pagination.positive_limit(limit, offset),
            offset=offset,
            page_size=_PAGE_SIZE,
            rows=schema.items,
        ).page()

    def get(self, session_id: str, *, accessible: bool = False) -> SessionInfo:
        """Return one session.

        :raises tinkex.exceptions.NotFound: there is no session with this id.
        """
        deadline = self._transport.deadline("information about the session")
        try:
            return self._get(session_id, accessible, deadline)
        except ServerError as error:
            if error.status != 500:
                raise
            # Some servers respond like this for an unknown session.
            ids: Sequence[str] = (session_id,)
            with suppress(TinkexError):
                ids = self.list(None, accessible=accessible)
            if session_id in ids:
                raise
            missing = NotFound(f"no session with the id {session_id!r}", status=404)
            missing.resource = "session"
            raise missing from error

    def get_many(
        self, session_ids: Sequence[str], *, accessible: bool = False
    ) -> dict[str, SessionInfo]:
        """Return the sessions *session_ids* by id; omit sessions that no longer exist."""
        deadline = self._transport.deadline("information about the sessions")

        def get(session_id: str) -> SessionInfo | None:
            segment_from_server(session_id)
            try:
                return self._get(session_id, accessible, deadline)
            except (NotFound, NotOffered):
                return None

        found = map_ordered(get, session_ids)
        return {session.session_id: session for session in found if session is not None}

    def search(
        self, query: SessionQuery | None = None, limit: int | None = 20
    ) -> Page[SessionSummary]:
        """Return the sessions that match *query*, newest first.

        :param query: conditions; by default all sessions of the caller.
        :param limit: maximum number of sessions; ``None`` or 0 for all.
        """
        from tinkex.api.resources.session_info import SessionQuery, SessionSummary

        limit = pagination.positive_limit(limit, 0)
        deadline = self._transport.deadline("the search results")
        body = (query or SessionQuery()).body()
        what = "session search"
        found: list[SessionSummary] = []
        cursor: Any = None
        while True:
            size = _SEARCH_PAGE_SIZE
            size = size if limit is None else min(size, limit - len(found))
            page = {**body, "limit": size, **({"cursor": cursor} if cursor else {})}
            # The POST only reads, so it may be retried.
            request = Request("POST", "sessions/search", page, repeatable=True, what=what)
            data = self._transport.call(request, deadline).object()
            found += map(SessionSummary.from_json, schema.items(data, "sessions"))
            before, cursor = cursor, schema.optional_mapping(data, "next_cursor")
            if not cursor or cursor == before or (limit is not None and len(found) >= limit):
                return Page(found[:limit], None if cursor else len(found))

    def trace_url(self, session_id: str) -> str:
        """Wait until the service has built the trace of a session; return its signed URL.

        :raises tinkex.exceptions.OperationFailed: the service could not build it.
        :raises tinkex.exceptions.TimedOut: it is not ready in time.
        """
        deadline = self._transport.deadline("the trace")
        path = f"sessions/{segment(session_id)}/trace_export"
        request = Request("GET", path, what="session traces, or has no session with this id")
        interval = FIRST_INTERVAL
        while True:
            data = self._call(request, deadline).object()
            status = schema.optional_text(data, "status")
            if status == "ready":
                return join_url("", schema.text(data, "url"))
            if status == "failed":
                why = schema.optional_text(data, "error") or "the service gave no reason"
                raise OperationFailed(f"the trace could not be built: {why}")
            if status != "pending":
                schema.refuse(f"unknown trace status {status!r}")
            deadline.pause(interval, "the service is building the trace")
            interval = min(2 * interval, INTERVAL)

    def export_trace(
        self,
        session_id: str,
        target: Path | None = None,
        *,
        force: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Trace:
        """Download a session's timeline as a Perfetto trace (https://ui.perfetto.dev).

        The file is either written completely or not changed.

        :param target: the file; by default ``<session id>.pftrace`` in the current directory.
        :param force: replace an existing file.
        :raises tinkex.exceptions.LocalError: the file exists, or cannot be written.
        """
        target = path_of(target or default_name(session_id))
        try:
            if target.is_dir():
                raise LocalError(
                    f"cannot write {target}: it is a directory", hint="Specify a file."
                )
            if target.exists() and not force:
                raise TargetExists(f"{target} already exists")
            size = self._download(self.trace_url(session_id), target, on_progress)
        except OSError as error:
            raise LocalError(f"cannot write {target}: {error.strerror}") from error
        return Trace(session_id, target, size)

    def finish_all(self, outcome: Outcome) -> None:
        """Finish all open sessions concurrently; each may take a second."""
        with self._lock:
            known, self._open = self._open, []
        finish = partial(Session.finish, outcome=outcome)
        try:
            list(map_ordered(finish, known))
        except LimitReached:  # also while Python 3.12 exits
            for session in known:
                session.finish(outcome)

    def _get(self, session_id: str, accessible: bool, deadline: Deadline) -> SessionInfo:
        from tinkex.api.resources.session_info import SessionInfo

        path = f"sessions/{segment(session_id)}"
        what = "sessions, or has no session with this id"
        request = Request("GET", path, params=_scope(accessible), what=what)
        return SessionInfo.from_json(session_id, self._call(request, deadline).object())

    def _call(self, request: Request, deadline: Deadline) -> Response:
        """Send *request*, which concerns one session."""
        try:
            return self._transport.call(request, deadline)
        except NotFound as error:
            error.resource = "session"
            raise

    def _download(self, url: str, target: Path, on_progress: OnProgress | None) -> int:
        from tinkex.api.transfer.progress import Progress
        from tinkex.api.transfer.streams import open_signed

        with replacing(target) as stream, open_signed(self._transport, url) as body:
            while block := body.read():
                stream.write(block)
                if on_progress is not None:
                    on_progress(Progress(body.received, body.expected, target.name))
            return stream.tell()


def explain_full(error: TinkexError) -> None:
    """Add a hint to *error* if it means that the server has no free capacity."""
    if _FULL.search(error.message):
        error.category = "server"
        error.hint = (
            "The server has no free capacity. Unload a run (POST unload_model), or wait: an idle "
            "session ends a few minutes after its last request."
        )


def _texts(user_metadata: Mapping[str, str]) -> dict[str, str]:
    for name, value in user_metadata.items():
        if not isinstance(value, str):
            raise UsageError(f"the value of {name!r} in user_metadata must be a string")
    return dict(user_metadata)


def _scope(accessible: bool) -> dict[str, str]:
    return {"access_scope": "accessible"} if accessible else {}


def default_name(session_id: str) -> str:
    """Return the default file name of a session's trace."""
    return "".join(c if c.isalnum() or c in "._:-" else "_" for c in session_id) + ".pftrace"


def outcome_of(kind: type[BaseException] | None) -> Outcome:
    """Return the outcome of a session whose block raised an exception of *kind*."""
    if kind is None or issubclass(kind, GeneratorExit):
        return "success"
    return "errored" if issubclass(kind, Exception) else "interrupted"
