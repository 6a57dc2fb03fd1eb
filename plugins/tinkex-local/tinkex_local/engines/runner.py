"""Computes sampling requests during the polls for their results.

There is no worker thread. A poll computes its request for at most the length of a long poll;
unfinished work stays in memory and the next poll resumes it. Polls of several requests use the
engine in turn, and a poll that waits for a slot computes other requests. If the process ends, an
unfinished request starts over with its stored seed and gives the same result.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

from tinkex_local.engines import DEFAULT, GROUP, Engine, SampleResult
from tinkex_local.problems import OperationError, note_fault
from tinkex_local.state import operations, sampling
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

CAPACITY = "Other requests are being computed; this one waits for its turn"


class _Job:
    """A request that is being computed."""

    def __init__(self, work: Generator[None, None, SampleResult], began: float) -> None:
        self.work = work
        self.began = began  # by the service's clock
        self.lock = threading.Lock()
        self.polled = time.monotonic()


def load(name: str) -> Engine:
    """Create the engine *name*.

    :raises LookupError: there is no such engine.
    """
    if name == DEFAULT:  # finding an entry point reads the metadata of every installed distribution
        from tinkex_local.engines.onnx import OnnxEngine

        return OnnxEngine()
    from importlib.metadata import entry_points

    for entry_point in entry_points(group=GROUP, name=name):
        engine: Engine = entry_point.load()()
        return engine
    raise LookupError(f"no engine named {name!r}")


class Runner:
    """Computes the sampling requests of this process."""

    def __init__(self, service: Service, engine_name: str = DEFAULT) -> None:
        self._service = service
        self._engine_name = engine_name
        self._engine: Engine | None = None
        self._turn = threading.Lock()  # only one thread computes at a time
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._polls = 0

    def retrieve(self, request_id: str, seconds: float = POLL_SECONDS) -> dict[str, Any]:
        """Compute and return the outcome of a request, or ``try_again`` after *seconds*.

        :raises Problem: the request is unknown.
        """
        row = operations.find(self._service, request_id)
        if row["state"] != "pending":
            return dict(row["result"])
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
        """Count an open poll; yield the time when it must end."""
        with self._changed:
            self._polls += 1
            longest = POLL_SECONDS if self._polls <= MAX_POLLS else CROWDED_SECONDS
        try:
            yield time.monotonic() + min(seconds, longest)
        finally:
            with self._changed:
                self._polls -= 1

    def _enter(self, request_id: str, row: dict[str, Any], deadline: float) -> _Job | None:
        """Return the job of a request, if a slot is free before *deadline*.

        A poll that has to wait computes a request without a poll: its client may be waiting for a
        thread of the server.
        """
        while True:
            with self._changed:
                job = self._jobs.get(request_id)
                if job is None and len(self._jobs) >= MAX_JOBS:
                    now = time.monotonic()
                    for name, held in list(self._jobs.items()):
                        if now - held.polled > IDLE_SECONDS and not held.lock.locked():
                            del self._jobs[name]
                            break
                if job is None and len(self._jobs) < MAX_JOBS:
                    job = self._jobs[request_id] = _Job(self._start(row), self._service.clock())
                if job is not None:
                    job.polled = time.monotonic()
                    return job
                left = deadline - time.monotonic()
                if left <= 0 or self._service.stopping.is_set():
                    return None
                free = (item for item in self._jobs.items() if item[1].lock.acquire(blocking=False))
                other = next(free, None)  # the oldest, with its lock acquired
                if other is None:
                    self._changed.wait(min(left, 1.0))
                    continue
            name, job = other
            try:
                self._advance(name, job, min(deadline, time.monotonic() + HELP_SECONDS))
            finally:
                job.lock.release()

    def _start(self, row: dict[str, Any]) -> Generator[None, None, SampleResult]:
        payload = row["payload"]
        spec = sampling.spec_from(payload)

        def work() -> Generator[None, None, SampleResult]:
            model = self._service.models.find(payload["base_model"])
            if model is None:
                raise OperationError(f"The model {payload['base_model']} was removed")
            sampling.require_applicable(self._service, payload["checkpoint_id"])
            return (yield from self._loaded().sample(model, spec))

        return work()

    def _loaded(self) -> Engine:
        if self._engine is None:
            try:
                self._engine = load(self._engine_name)
            except (ImportError, LookupError) as error:
                message = f"the engine {self._engine_name} cannot be loaded: {error}"
                raise OperationError(message, "server") from error
        return self._engine

    def _advance(self, request_id: str, job: _Job, deadline: float) -> dict[str, Any] | None:
        """Compute until the outcome is known or *deadline* passes; the caller holds the lock."""
        row = operations.find(self._service, request_id)  # another poll may have finished it
        if row["state"] != "pending":
            return dict(row["result"])
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
                with self._changed:
                    self._jobs.pop(request_id, None)
                    self._changed.notify_all()
                return outcome
            time.sleep(0)  # let another thread acquire the lock
        return None

    def _take_turn(self, job: _Job) -> tuple[str, dict[str, Any]] | None:
        until = time.monotonic() + TURN_SECONDS
        try:
            while time.monotonic() < until:
                next(job.work)
        except StopIteration as stop:
            return "done", {"type": "sample", **asdict(stop.value)}
        except OperationError as error:
            return "failed", operations.failure(error)
        except ModelError as error:
            return "failed", operations.failure(OperationError(str(error), "server"))
        except Exception as error:  # a bug here or in an engine: clients must not poll forever
            note_fault("sampling", error)
            return "failed", operations.failure(OperationError("Internal error", "server"))
        return None


def _try_again(request_id: str, state: str, reason: str | None) -> dict[str, Any]:
    return {
        "type": "try_again",
        "request_id": request_id,
        "queue_state": state,
        "queue_state_reason": reason,
    }
