"""Computes sampling requests inside the polls that ask for their results.

There is no worker thread. A poll runs its request for at most the length of a long poll; if that
was not enough, the unfinished work stays in memory and the next poll resumes it. Polls of several
requests take turns at the engine, and a poll that waits for room computes other requests. Nothing
is lost with the process: an unfinished request starts over from its stored seed and gives the same
result.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

from tinkex_local import engines
from tinkex_local.problems import OperationError, note_fault
from tinkex_local.state import operations, sampling
from tinkex_local.state.models import ModelError
from tinkex_local.state.service import Service

#: Longest time that one poll takes, in seconds; clients read for 45.
POLL_SECONDS = 20.0
#: Polls that are held for that long at once. More would occupy every thread of a server, so that
#: no heartbeat could be received.
MAX_POLLS = 64
#: Longest time that further polls take, in seconds.
CROWDED_SECONDS = 0.5
#: Requests computed in turns; others wait. Each holds a cache of attention states.
MAX_JOBS = 8
#: Seconds without a poll after which a half-finished request may be dropped for another.
IDLE_SECONDS = 30.0
#: Seconds that one request keeps the engine before another has its turn.
TURN_SECONDS = 0.1
#: Seconds that a poll computes another request while its own waits.
HELP_SECONDS = 0.5

CAPACITY = "Other requests are being computed; this one waits for its turn"


class _Job:
    """A request in the making."""

    def __init__(self, work: Generator[None, None, engines.SampleResult], began: float) -> None:
        self.work = work
        self.began = began  # by the clock of the service
        self.lock = threading.Lock()
        self.polled = time.monotonic()


class Runner:
    """Computes the sampling requests of one process."""

    def __init__(self, service: Service, engine_name: str = engines.DEFAULT) -> None:
        self._service = service
        self._engine_name = engine_name
        self._engine: engines.Engine | None = None
        self._turn = threading.Lock()  # one thread at a time computes
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._polls = 0

    def retrieve(self, request_id: str, seconds: float = POLL_SECONDS) -> dict[str, Any]:
        """Return the outcome of a request, or ``try_again`` after *seconds*.

        :raises Problem: the request is not known.
        """
        row = operations.find(self._service, request_id)
        if row["state"] != "pending":
            return operations.outcome(row)
        with self._poll(seconds) as deadline:
            job = self._enter(request_id, row, deadline)
            if job is None:
                return _try_again(request_id, "paused_capacity", CAPACITY)
            try:
                if job.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    try:
                        outcome = self._advance(request_id, job, deadline)
                    finally:
                        job.lock.release()
                    if outcome is not None:
                        return outcome
            finally:
                job.polled = time.monotonic()
        return _try_again(request_id, "active", None)

    @contextlib.contextmanager
    def _poll(self, seconds: float) -> Iterator[float]:
        """Count a poll while it is held; yield the moment when it has to end."""
        with self._changed:
            self._polls += 1
            longest = POLL_SECONDS if self._polls <= MAX_POLLS else CROWDED_SECONDS
        try:
            yield time.monotonic() + min(seconds, longest)
        finally:
            with self._changed:
                self._polls -= 1

    def _enter(self, request_id: str, row: dict[str, Any], deadline: float) -> _Job | None:
        """Return the job of a request, if there is room for it before *deadline*.

        A poll that has to wait computes a request that no other poll computes: the clients of those
        requests may be waiting behind it for a thread of the server.
        """
        while True:
            with self._changed:
                job = self._jobs.get(request_id)
                if job is None and len(self._jobs) >= MAX_JOBS:
                    self._drop_idle()
                if job is None and len(self._jobs) < MAX_JOBS:
                    job = self._jobs[request_id] = _Job(self._start(row), self._service.clock())
                if job is not None:
                    job.polled = time.monotonic()
                    return job
                left = deadline - time.monotonic()
                if left <= 0 or self._service.stopping.is_set():
                    return None
                other = self._lock_any()
                if other is None:
                    self._changed.wait(min(left, 1.0))
                    continue
            name, job = other
            try:
                self._advance(name, job, min(deadline, time.monotonic() + HELP_SECONDS))
            finally:
                job.lock.release()

    def _lock_any(self) -> tuple[str, _Job] | None:
        """Return the oldest job that no poll computes, with its lock taken."""
        for request_id, job in self._jobs.items():
            if job.lock.acquire(blocking=False):
                return request_id, job
        return None

    def _drop_idle(self) -> None:
        now = time.monotonic()
        for request_id, job in list(self._jobs.items()):
            if now - job.polled > IDLE_SECONDS and not job.lock.locked():
                del self._jobs[request_id]
                return

    def _start(self, row: dict[str, Any]) -> Generator[None, None, engines.SampleResult]:
        payload = operations.payload(row)
        spec = sampling.spec_from(payload)

        def work() -> Generator[None, None, engines.SampleResult]:
            model = self._service.models.find(payload["base_model"])
            if model is None:
                raise OperationError(f"The model {payload['base_model']} was removed")
            sampling.require_applicable(self._service, payload["checkpoint_id"])
            return (yield from self._loaded().sample(model, spec))

        return work()

    def _loaded(self) -> engines.Engine:
        if self._engine is None:
            try:
                self._engine = engines.load(self._engine_name)
            except (ImportError, LookupError) as error:
                message = f"the engine {self._engine_name} cannot be loaded: {error}"
                raise OperationError(message, "server") from error
        return self._engine

    def _advance(self, request_id: str, job: _Job, deadline: float) -> dict[str, Any] | None:
        """Compute until the outcome is known or *deadline*; the caller holds the job's lock."""
        row = operations.find(self._service, request_id)  # another poll may have finished it
        if row["state"] != "pending":
            return operations.outcome(row)
        while time.monotonic() < deadline and not self._service.stopping.is_set():
            if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                break
            try:
                finished = self._take_turn(job)
            finally:
                self._turn.release()
            if finished is not None:
                state, outcome = finished
                operations.finish(self._service, request_id, state, outcome, began=job.began)
                self._leave(request_id)
                return outcome
            time.sleep(0)  # let another thread have the lock
        return None

    def _take_turn(self, job: _Job) -> tuple[str, dict[str, Any]] | None:
        until = time.monotonic() + TURN_SECONDS
        try:
            while time.monotonic() < until:
                next(job.work)
        except StopIteration as stop:
            return "done", _as_dict(stop.value)
        except OperationError as error:
            return "failed", operations.failure(error)
        except ModelError as error:
            return "failed", operations.failure(OperationError(str(error), "server"))
        except Exception as error:  # ours or an engine's: it must not be asked for for ever
            note_fault("sampling", error)
            return "failed", operations.failure(OperationError("Internal error", "server"))
        return None

    def _leave(self, request_id: str) -> None:
        with self._changed:
            self._jobs.pop(request_id, None)
            self._changed.notify_all()


def _as_dict(result: engines.SampleResult) -> dict[str, Any]:
    return {
        "type": "sample",
        "sequences": [
            {
                "stop_reason": sequence.stop_reason,
                "tokens": sequence.tokens,
                "logprobs": sequence.logprobs,
            }
            for sequence in result.sequences
        ],
        "prompt_logprobs": result.prompt_logprobs,
        "topk_prompt_logprobs": result.topk_prompt_logprobs,
    }


def _try_again(request_id: str, state: str, reason: str | None) -> dict[str, Any]:
    return {
        "type": "try_again",
        "request_id": request_id,
        "queue_state": state,
        "queue_state_reason": reason,
    }
