"""Computes requests during the polls for their results.

There is no worker thread. A poll computes its request for at most the length of a long poll;
unfinished work stays in memory and the next poll resumes it. Polls of several requests use the
engine in turn, and a poll that waits for a slot computes other requests. If the process ends, an
unfinished sample starts over with its stored seed and gives the same result.

The requests of a run in training are computed in the order of their numbers, one at a time: a poll
for one of them first computes those before it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from tinkex_local.engines.choice import Engines
from tinkex_local.engines.work import STEPS, Outcome, Work, Worker
from tinkex_local.problems import OperationError, note_fault
from tinkex_local.state import operations, sessions
from tinkex_local.state.models import ModelError
from tinkex_local.state.service import Service

#: Maximum duration of a poll in seconds; the read timeout of clients is 45.
POLL_SECONDS = 20.0
#: Maximum number of concurrent polls of that length. More would use all threads of a server, so
#: that it could not receive heartbeats.
MAX_POLLS = 64
#: Maximum duration of further polls in seconds.
CROWDED_SECONDS = 0.5
#: Maximum number of requests computed in turn; others wait. Each has an attention cache.
MAX_JOBS = 8
#: Seconds without a poll after which an unfinished request may be replaced by another.
IDLE_SECONDS = 30.0
#: Seconds that one request uses the engine before the next.
TURN_SECONDS = 0.1
#: Seconds that a poll spends on another request while its own waits.
HELP_SECONDS = 0.5

#: Seconds that a request waits for one with a lower number, after the last arrival of any; clients
#: send the first request of a batch last.
GAP_SECONDS = 30.0

CAPACITY = "Other requests are being processed; this request is queued"


class _Job:
    """A request that is being computed.

    :ivar ended: its outcome, until that is recorded.
    """

    def __init__(self, row: dict[str, Any], work: Work, began: float) -> None:
        self.row = row
        self.work = work
        self.began = began  # by the service's clock
        self.ended: Outcome | OperationError | None = None
        self.lock = threading.Lock()
        self.polled = time.monotonic()


class Runner:
    """Computes the requests of this process."""

    def __init__(self, service: Service, engines: Engines) -> None:
        self._service = service
        self._worker = Worker(service, engines)
        self.engines = engines
        self._turn = threading.Lock()  # only one thread computes at a time
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        #: Work of dropped jobs, to be closed by a thread that has the turn.
        self._dropped: list[Work] = []
        self._polls = 0

    def retrieve(self, request_id: str, seconds: float = POLL_SECONDS) -> dict[str, Any]:
        """Compute and return the outcome of a request, or ``try_again`` after *seconds*.

        :raises Problem: the request is unknown.
        """
        row = operations.find(self._service, request_id)
        if row["state"] != "pending":
            return dict(row["result"])
        sessions.keep_alive(self._service, row["scope"])
        with self._poll(seconds) as deadline:
            while True:
                reason = self._progress(row, deadline)
                row = operations.find(self._service, request_id)
                if row["state"] != "pending":
                    return dict(row["result"])
                if time.monotonic() >= deadline or self._service.stopping.is_set():
                    state = "active" if reason is None else "paused_capacity"
                    return _try_again(request_id, state, reason)

    def arrived(self) -> None:
        """Wake up polls that wait for a request with a lower number."""
        with self._changed:
            self._changed.notify_all()

    def _progress(self, row: dict[str, Any], deadline: float) -> str | None:
        """Compute a request or an earlier one; return the reason if it must wait."""
        if row["kind"] != "sample":
            first = operations.first_pending(self._service, row["scope"])
            if first is None:  # another poll has just finished it
                return None
            row = first
            gap = operations.missing(self._service, row["scope"], row["seq"])
            if gap is not None:
                self._wait_for(gap, row, deadline)
                return None
        job = self._enter(row, deadline)
        if job is None:
            return CAPACITY
        try:
            if job.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                try:
                    self._advance(job, deadline)
                finally:
                    job.lock.release()
        finally:
            job.polled = time.monotonic()
        return None

    def _wait_for(self, number: int, row: dict[str, Any], deadline: float) -> None:
        """Wait until request *number* may have arrived; fail *row*, the next one, after a time."""
        since = operations.last_arrival(self._service, row["scope"])
        if self._service.clock() - since < GAP_SECONDS:
            with self._changed:  # held by arrived(), too, so that none is missed
                if operations.missing(self._service, row["scope"], row["seq"]) is not None:
                    self._changed.wait(max(0.0, min(deadline - time.monotonic(), 1.0)))
            return
        error = OperationError(
            f"Request {number} for this model has not arrived, so request {row['seq']} was not "
            "processed"
        )
        with self._turn:
            self._fail(row, error, began=self._service.clock())

    @contextlib.contextmanager
    def _poll(self, seconds: float) -> Iterator[float]:
        """Count an open poll; yield the time when it must end."""
        with self._changed:
            self._polls += 1
            longest = POLL_SECONDS if self._polls <= MAX_POLLS else CROWDED_SECONDS
        try:
            yield time.monotonic() + min(seconds, longest)
        finally:
            with self._changed:
                self._polls -= 1

    def _enter(self, row: dict[str, Any], deadline: float) -> _Job | None:
        """Return the job of a request, if a slot is free before *deadline*.

        A poll that has to wait computes a request without a poll: its client may be waiting for a
        thread of the server.
        """
        request_id = row["request_id"]
        while True:
            with self._changed:
                job = self._jobs.get(request_id)
                if job is None and len(self._jobs) >= MAX_JOBS:
                    self._drop_idle()
                if job is None and len(self._jobs) < MAX_JOBS:
                    work = self._worker.start(row)
                    job = self._jobs[request_id] = _Job(row, work, self._service.clock())
                if job is not None:
                    job.polled = time.monotonic()
                    return job
                left = deadline - time.monotonic()
                if left <= 0 or self._service.stopping.is_set():
                    return None
                free = (item for item in self._jobs.values() if item.lock.acquire(blocking=False))
                other = next(free, None)  # the oldest, with its lock acquired
                if other is None:
                    self._changed.wait(min(left, 1.0))
                    continue
            try:
                self._advance(other, min(deadline, time.monotonic() + HELP_SECONDS))
            finally:
                other.lock.release()

    def _drop_idle(self) -> None:
        """Drop the oldest job that has no poll; it starts over if it is polled again."""
        now = time.monotonic()
        for name, job in list(self._jobs.items()):
            if now - job.polled > IDLE_SECONDS and job.ended is None and not job.lock.locked():
                self._dropped.append(job.work)
                del self._jobs[name]
                return

    def _advance(self, job: _Job, deadline: float) -> None:
        """Compute until the outcome is recorded or *deadline* passes; the caller holds the lock."""
        request_id = job.row["request_id"]
        if operations.find(self._service, request_id)["state"] != "pending":
            self._drop(job)  # another poll or process has finished it
            return
        while time.monotonic() < deadline and not self._service.stopping.is_set():
            if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                break
            try:
                while self._dropped:
                    self._dropped.pop().close()
                if job.ended is None:
                    job.ended = self._take_turn(job)
                if job.ended is not None:
                    self._record(job, job.ended)
                    return
            finally:
                self._turn.release()
            time.sleep(0)  # let another thread acquire the lock

    def _take_turn(self, job: _Job) -> Outcome | OperationError | None:
        until = time.monotonic() + TURN_SECONDS
        try:
            next(job.work)
            while time.monotonic() < until:
                next(job.work)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
        except OperationError as error:
            return error
        except ModelError as error:
            return OperationError(str(error), "server")
        except MemoryError:
            return OperationError("Not enough memory for this request", "server")
        except Exception as error:  # a bug here or in an engine: clients must not poll forever
            note_fault(job.row["kind"], error)
            return OperationError("Internal error", "server")
        except BaseException:  # Ctrl-C: the next poll starts over
            self._drop(job)
            raise
        return None

    def _record(self, job: _Job, ended: Outcome | OperationError) -> None:
        """Record an outcome; if that fails, the next poll tries it again."""
        if isinstance(ended, OperationError):
            self._fail(job.row, ended, began=job.began)
            self._drop(job)
            return
        request_id, data = job.row["request_id"], ended.data
        try:
            with self._service.store.transaction():
                try:
                    state, result = "done", ended.result()
                except OperationError as error:
                    state, result, data = "failed", operations.failure(error), None
                operations.finish(
                    self._service, request_id, state, result, began=job.began, data=data
                )
        except BaseException:
            if ended.is_repeatable:
                ended.clean_up(False)
                self._drop(job)
            raise
        ended.clean_up(True)
        self._drop(job)

    def _fail(self, row: dict[str, Any], error: OperationError, *, began: float) -> None:
        """Record a failure, also for steps that depend on it; the caller has the turn."""
        with self._service.store.transaction():
            outcome = operations.failure(error)
            operations.finish(self._service, row["request_id"], "failed", outcome, began=began)
            if row["kind"] == "forward_backward":
                why = f"Not processed, because the earlier request {row['seq']} failed: {error}"
                operations.fail_rest(self._service, row["scope"], row["seq"], STEPS, why)
        if row["kind"] in STEPS:
            self._worker.discard_gradients(row["scope"])

    def _drop(self, job: _Job) -> None:
        with self._changed:
            self._jobs.pop(job.row["request_id"], None)
            self._changed.notify_all()


def _try_again(request_id: str, state: str, reason: str | None) -> dict[str, Any]:
    return {
        "type": "try_again",
        "request_id": request_id,
        "queue_state": state,
        "queue_state_reason": reason,
    }
