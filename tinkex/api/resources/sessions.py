"""API sessions: what training and sampling belong to, kept alive by a heartbeat; and old ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tinkex.api.http import pagination, schema
from tinkex.api.http.capabilities import FINISH
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import PROTOCOL_VERSION, Request, Response, Transport
from tinkex.api.paths import served
from tinkex.exceptions import NotFound, NotOffered, TinkexError
from tinkex.files import path_of

if TYPE_CHECKING:
    from tinkex.api.http.pagination import Page
    from tinkex.api.resources.pastsessions import SessionInfo, SessionQuery, SessionSummary
    from tinkex.api.resources.traces import Trace
    from tinkex.api.transfer.progress import OnProgress

#: Seconds between two heartbeats.
HEARTBEAT = 10.0
#: Seconds that one may take.
_ANSWER = 10.0
#: Seconds that saying goodbye may take, and after Ctrl-C.
_FAREWELL = 1.0
_HASTY_FAREWELL = 0.5
#: Sessions that are asked for, or finished, at the same time.
_CONCURRENCY = 8
#: Seconds without a successful heartbeat before somebody is told.
_WORRY = 120.0

Outcome = Literal["success", "errored", "interrupted"]


class Session:
    """An open session of the service; a thread sends its heartbeats until :meth:`finish`.

    :ivar session_id: the service's id.
    """

    def __init__(self, transport: Transport, session_id: str) -> None:
        self.session_id = session_id
        self._segment = served(session_id)
        self._transport = transport
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._models = 0
        self._samplers = 0
        threading.Thread(target=self._beat, name="tinkex-heartbeat", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether it was finished here."""
        return self._over.is_set()

    @property
    def model_seq_id(self) -> int:
        """The number of the next model; advance it with :meth:`model_accepted`."""
        return self._models

    def model_accepted(self) -> None:
        """Count a model that the service has accepted."""
        self._models += 1

    def next_sampler(self) -> int:
        """Return the number for another sampling session."""
        with self._lock:
            self._samplers += 1
            return self._samplers - 1

    def finish(self, outcome: Outcome = "success") -> None:
        """Tell the service that the session is over; servers without a word for it ignore it.

        Never raises and never takes long.
        """
        with self._lock:
            if self._over.is_set():
                return
            self._over.set()
        known = self._transport.capabilities
        if known.lacks(FINISH):
            return
        path = f"sessions/{self._segment}/finish"
        seconds = _HASTY_FAREWELL if outcome == "interrupted" else _FAREWELL
        answer = self._say(Request("POST", path, {"reason": {"type": outcome}}), seconds)
        if answer is not None and not answer.ok and isinstance(answer.error(), NotOffered):
            known.missing(FINISH)

    def _beat(self) -> None:
        failing_since: Deadline | None = None
        request = Request("POST", "session_heartbeat", {"session_id": self.session_id})
        while not self._over.wait(HEARTBEAT):
            answer = self._say(request, _ANSWER)
            if answer is not None and answer.status == 410:
                return  # the service has closed the session
            if answer is not None and answer.ok:
                failing_since = None
                continue
            failing_since = failing_since or self._transport.deadline("heartbeats", _WORRY)
            if failing_since.elapsed > _WORRY:
                # Whatever becomes of the telling, the session has to live on.
                with suppress(Exception):
                    failing_since.report(note="the service has not answered for two minutes")
                failing_since = None

    def _say(self, request: Request, seconds: float) -> Response | None:
        """Send *request* once and return the answer, or ``None`` if there was none."""
        try:
            deadline = Deadline("an answer", seconds)
            return self._transport.once(request, deadline)
        except TinkexError:
            return None


class Sessions:
    """The sessions of a client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._open: list[Session] = []

    def create(
        self,
        *,
        tags: Sequence[str] | None = None,
        user_metadata: Mapping[str, Any] | None = None,
        deadline: Deadline | None = None,
    ) -> Session:
        """Open a session; messages of the service go to ``on_wait`` as notes.

        :param tags: labels; those of the settings by default.
        :param user_metadata: anything to find the session by.
        :param deadline: the operation that the session is opened for.
        """
        settings = self._transport.settings
        body: dict[str, Any] = {
            "tags": list(settings.tags if tags is None else tags),
            "user_metadata": None if user_metadata is None else dict(user_metadata),
            "sdk_version": PROTOCOL_VERSION,
        }
        if settings.project_id:
            body["project_id"] = settings.project_id
        deadline = deadline or self._transport.deadline("a session")
        answer = self._transport.call(Request("POST", "create_session", body), deadline).object()
        for name in ("info_message", "warning_message", "error_message"):
            message = answer.get(name)
            if message and isinstance(message, str):
                deadline.report(note=message)
        session = Session(self._transport, schema.text(answer, "session_id"))
        with self._lock:
            self._open = [known for known in self._open if not known.is_over]
            self._open.append(session)
        return session

    @contextmanager
    def begun(
        self, deadline: Deadline, *, user_metadata: Mapping[str, Any] | None = None
    ) -> Iterator[Session]:
        """Open a session for what the block makes; it is finished only if the block fails."""
        session = self.create(user_metadata=user_metadata, deadline=deadline)
        try:
            yield session
        except BaseException as error:
            session.finish(outcome_of(type(error)))
            raise

    def list(
        self, limit: int | None = 20, offset: int = 0, *, accessible: bool = False
    ) -> Page[str]:
        """Return the ids of sessions, the newest first.

        :param limit: how many at most; ``None`` and 0 mean all.
        :param accessible: also those of others that the key may see.
        """
        from tinkex.api.resources import pastsessions

        limit = pagination.positive_limit(limit, offset)
        deadline = self._transport.deadline("the list of sessions")
        return pastsessions.list_sessions(
            self._transport, deadline, limit, offset, accessible=accessible
        )

    def get(self, session_id: str, *, accessible: bool = False) -> SessionInfo:
        """Return what belongs to one session.

        :raises tinkex.exceptions.NotFound: there is none of that id.
        """
        from tinkex.api.resources import pastsessions

        deadline = self._transport.deadline("the session")
        return pastsessions.get_session(
            self._transport, deadline, session_id, accessible=accessible
        )

    def get_many(
        self, session_ids: Sequence[str], *, accessible: bool = False
    ) -> dict[str, SessionInfo]:
        """Return what belongs to each of *session_ids*; those that are gone are left out."""
        from tinkex.api.resources import pastsessions

        deadline = self._transport.deadline("the sessions")

        def get(session_id: str) -> SessionInfo | None:
            served(session_id)
            try:
                return pastsessions.get_session(
                    self._transport, deadline, session_id, accessible=accessible
                )
            except (NotFound, NotOffered):
                return None

        found = map_ordered(get, session_ids, workers=_CONCURRENCY)
        return {session.session_id: session for session in found if session is not None}

    def search(
        self, query: SessionQuery | None = None, limit: int | None = 20
    ) -> Page[SessionSummary]:
        """Return the sessions that *query* matches, the newest first.

        :param query: what to look for; by default all of one's own.
        :param limit: how many at most; ``None`` and 0 mean all.
        """
        from tinkex.api.resources import pastsessions

        limit = pagination.positive_limit(limit, 0)
        deadline = self._transport.deadline("the search")
        query = query or pastsessions.SessionQuery()
        return pastsessions.search_sessions(self._transport, deadline, query, limit)

    def trace_url(self, session_id: str) -> str:
        """Wait until the service has built the trace of a session; return its signed address.

        :raises tinkex.exceptions.OperationFailed: it could not be built.
        """
        from tinkex.api.resources import traces

        deadline = self._transport.deadline("the trace")
        return traces.trace_url(self._transport, deadline, session_id)

    def export_trace(
        self,
        session_id: str,
        target: Path | None = None,
        *,
        force: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Trace:
        """Fetch the timeline of a session as a Perfetto trace (https://ui.perfetto.dev).

        :param target: the file; by default ``<session id>.pftrace`` in the current directory.
        :param force: replace a file that is there.
        """
        from tinkex.api.resources import traces

        target = path_of(target or traces.default_name(session_id))
        traces.refuse_existing(target, force=force)
        url = self.trace_url(session_id)
        return traces.fetch(
            self._transport, url, session_id, target, force=force, on_progress=on_progress
        )

    def finish_all(self, outcome: Outcome) -> None:
        """Finish every session that is still open, side by side: each may take its second."""
        with self._lock:
            known, self._open = self._open, []
        try:
            list(map_ordered(lambda session: session.finish(outcome), known))
        except RuntimeError:  # Python 3.12 starts no thread for what is called at its exit
            for session in known:
                session.finish(outcome)


def outcome_of(kind: type[BaseException] | None) -> Outcome:
    """Return how a session ended whose block was left by an exception of *kind*."""
    if kind is None or issubclass(kind, GeneratorExit):
        return "success"
    return "errored" if issubclass(kind, Exception) else "interrupted"
