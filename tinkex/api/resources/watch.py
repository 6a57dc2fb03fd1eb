"""Follow a training run by polling: snapshots, the changes between them, conditions to wait for."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import sleep

from tinkex.api.http.transport import Transport
from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.api.resources.checkpoints import list_of_run
from tinkex.api.resources.runs import TrainingRun, request_run
from tinkex.exceptions import OperationFailed, TimedOut, TinkexError

#: Longest pause in seconds after failed polls, unless the interval is longer.
LONGEST_PAUSE = 60.0
_FOREVER = timedelta(days=36500).total_seconds()


class WaitedOut(TimedOut):
    """The time limit passed before the condition was met."""


@dataclass(frozen=True)
class Snapshot:
    """A run and its checkpoints at one time.

    :ivar checkpoints: path → checkpoint, in the service's order.
    :ivar at: the time of the poll, by the service's clock if reported.
    """

    run: TrainingRun
    checkpoints: dict[str, Checkpoint]
    at: datetime


@dataclass(frozen=True)
class Change:
    """A difference between two snapshots.

    :ivar time: when it happened, if reported, otherwise when it was detected.
    :ivar event: ``run`` (the first snapshot), ``checkpoint``, ``removed``, ``published``,
        ``unpublished``, ``request``, ``corrupted``.
    :ivar subject: the path of a checkpoint, or the id of the run.
    """

    time: datetime
    event: str
    subject: str


@dataclass(frozen=True)
class Condition:
    """A condition to wait for.

    :ivar checkpoint: name of a checkpoint, ``kind/name``, or a pattern; ``*`` alone means any that
        is not in the first snapshot.
    :ivar idle: time without a request.
    """

    checkpoint: str | None = None
    idle: timedelta | None = None

    def met(self, first: Snapshot, now: Snapshot) -> str | None:
        """Return the path or run id that meets the condition, or ``None``."""
        if self.checkpoint is not None:
            known = first.checkpoints if self.checkpoint == "*" else {}
            paths = (path for path in now.checkpoints if path not in known)
            return next((path for path in paths if self._matches(path)), None)
        last = now.run.last_request_time
        if self.idle is not None and last is not None and now.at - last >= self.idle:
            return now.run.training_run_id
        return None

    def _matches(self, path: str) -> bool:
        pattern, parts = self.checkpoint or "", path.split("/")
        return any(fnmatch.fnmatchcase("/".join(parts[-n:]), pattern) for n in (1, 2))


def snapshots(
    transport: Transport,
    run_id: str,
    *,
    interval: float,
    limit: float | None = None,
    on_trouble: Callable[[TinkexError, float], None],
) -> Iterator[Snapshot]:
    """Yield snapshots; see :meth:`tinkex.api.ServiceClient.watch`.

    :raises WaitedOut: *limit* has passed.
    """
    whole = transport.deadline("the run", limit or _FOREVER)
    failures: int | None = None  # consecutive failed polls
    while (left := whole.seconds - whole.elapsed) > 0:
        pause = interval
        try:
            snapshot = _poll(transport, run_id, min(transport.settings.timeout, left))
        except TinkexError as error:
            if whole.elapsed >= whole.seconds:  # the time limit ended the poll
                break
            if failures is None or error.category != "server":
                raise
            failures += 1
            pause = max(interval, min(interval * 2.0 ** min(failures, 16), LONGEST_PAUSE))
            on_trouble(error, pause)
        else:
            failures = 0
            yield snapshot
        sleep(max(0.0, min(pause, whole.seconds - whole.elapsed)))
    raise WaitedOut("the time limit has passed")


def changes(before: Snapshot | None, now: Snapshot) -> list[Change]:
    """Return the changes since *before*, earliest first.

    :param before: ``None`` for the first snapshot: everything is new.
    """
    run = now.run
    subject, last = run.training_run_id, run.last_request_time or now.at
    found = []
    if before is None:
        found.append(Change(last, "run", subject))
    elif run.last_request_time not in (None, before.run.last_request_time):
        found.append(Change(last, "request", subject))
    old = before.checkpoints if before else {}
    for path, checkpoint in now.checkpoints.items():
        if path not in old:
            found.append(Change(checkpoint.time or now.at, "checkpoint", path))
        if checkpoint.public != (old[path].public if path in old else False):
            event = "published" if checkpoint.public else "unpublished"
            found.append(Change(now.at, event, path))
    found += [Change(now.at, "removed", path) for path in old if path not in now.checkpoints]
    if run.corrupted and not (before and before.run.corrupted):
        found.append(Change(now.at, "corrupted", subject))
    return sorted(found, key=lambda change: change.time)


def check_usable(snapshot: Snapshot) -> None:
    """Raise an error if the run is corrupted.

    :raises OperationFailed: the run is corrupted.
    """
    if snapshot.run.corrupted:
        raise OperationFailed(
            f"the training run {snapshot.run.training_run_id} is corrupted and cannot continue",
            hint="Start a new run from the last usable checkpoint.",
            category="user",
        )


def _poll(transport: Transport, run_id: str, seconds: float) -> Snapshot:
    deadline = transport.deadline("information about the run", seconds)
    answer = request_run(transport, run_id, deadline)
    run = TrainingRun.from_json(answer.object())
    found = list_of_run(transport, run_id, deadline)
    # Request times are by the service's clock: a wrong local clock must not end a wait.
    at = answer.date or datetime.now(UTC)
    return Snapshot(run, {c.tinker_path: c for c in found}, at)
