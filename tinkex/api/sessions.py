"""API sessions: what training and sampling belong to, kept alive by a heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tinkex.api import reading
from tinkex.api.paths import served
from tinkex.api.transport import PROTOCOL_VERSION, Request, Transport
from tinkex.api.waiting import Deadline
from tinkex.exceptions import TinkexError

#: Seconds between two heartbeats.
HEARTBEAT = 10.0
#: Seconds that one may take.
_ANSWER = 10.0
#: Seconds that saying goodbye may take, and after Ctrl-C.
_FAREWELL = 1.0
_HASTY_FAREWELL = 0.5
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
        path = f"sessions/{self._segment}/finish"
        seconds = _HASTY_FAREWELL if outcome == "interrupted" else _FAREWELL
        self._say(Request("POST", path, {"reason": {"type": outcome}}), seconds)

    def _beat(self) -> None:
        failing_since: Deadline | None = None
        request = Request("POST", "session_heartbeat", {"session_id": self.session_id})
        while not self._over.wait(HEARTBEAT):
            status = self._say(request, _ANSWER)
            if status == 410:
                return  # the service has closed the session
            if status is not None and status < 300:
                failing_since = None
                continue
            failing_since = failing_since or self._transport.deadline("heartbeats", _WORRY)
            if failing_since.elapsed > _WORRY:
                failing_since.tell(note="the service has not answered for two minutes")
                failing_since = None

    def _say(self, request: Request, seconds: float) -> int | None:
        """Send *request* once and return the status, or ``None`` if there was no answer."""
        try:
            deadline = Deadline("an answer", seconds)
            return self._transport.once(request, deadline).status
        except TinkexError:
            return None


class Sessions:
    """The sessions of a client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
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
                deadline.tell(note=message)
        session = Session(self._transport, reading.text(answer, "session_id"))
        self._open.append(session)
        return session

    def finish_all(self, outcome: Outcome) -> None:
        """Finish every session that is still open."""
        while self._open:
            self._open.pop().finish(outcome)


def outcome_of(kind: type[BaseException] | None) -> Outcome:
    """Return how a session ended whose block was left by an exception of *kind*."""
    if kind is None or issubclass(kind, GeneratorExit):
        return "success"
    return "errored" if issubclass(kind, Exception) else "interrupted"
