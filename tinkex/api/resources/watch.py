"""What happens to a training run, seen by asking again and again."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import sleep
from typing import TYPE_CHECKING

from tinkex.api.paths import TinkerPath
from tinkex.api.resources import listing
from tinkex.api.resources.records import Checkpoint
from tinkex.api.resources.runs import TrainingRun, ask_for_run
from tinkex.exceptions import OperationFailed, TimedOut, TinkexError

if TYPE_CHECKING:
    from tinkex.api.client import ServiceClient

#: Longest pause in seconds after connections were lost, unless the interval is longer.
LONGEST_PAUSE = 60.0
_FOR_EVER = timedelta(days=36500).total_seconds()


class WaitedOut(TimedOut):
    """What was waited for has not happened in the time that was given for it."""


@dataclass(frozen=True)
class Snapshot:
    """A run and its checkpoints as they were at one moment.

    :ivar checkpoints: path → checkpoint, in the service's order.
    :ivar at: the moment, by the service's clock if it tells the time.
    """

    run: TrainingRun
    checkpoints: dict[str, Checkpoint]
    at: datetime


@dataclass(frozen=True)
class Change:
    """Something that has become different.

    :ivar time: when, as far as the service tells; else when it was seen.
    :ivar event: ``run`` (how it was at first), ``checkpoint``, ``removed``, ``published``,
        ``unpublished``, ``request``, ``corrupted``.
    :ivar subject: the path of a checkpoint, or the id of the run.
    """

    time: datetime
    event: str
    subject: str


@dataclass(frozen=True)
class Condition:
    """What is waited for.

    :ivar checkpoint: name of a checkpoint, ``kind/name``, or a pattern; ``*`` alone means any
        that was not there at first.
    :ivar idle: no request for this long.
    """

    checkpoint: str | None = None
    idle: timedelta | None = None

    def met(self, first: Snapshot, now: Snapshot) -> str | None:
        """Return what fulfils the condition: a path, or the id of the run; else ``None``."""
        if self.checkpoint is not None:
            there = now.checkpoints
            if self.checkpoint == "*":
                there = {p: c for p, c in there.items() if p not in first.checkpoints}
            return next((path for path in there if self._names(path)), None)
        last = now.run.last_request_time
        if self.idle is not None and last is not None and now.at - last >= self.idle:
            return now.run.training_run_id
        return None

    def _names(self, path: str) -> bool:
        parsed = TinkerPath.from_string(path)
        pattern = self.checkpoint or ""
        return any(fnmatch.fnmatchcase(n, pattern) for n in (parsed.name, parsed.checkpoint_id))


def snapshots(
    client: ServiceClient,
    run_id: str,
    *,
    interval: float,
    limit: float | None = None,
    on_trouble: Callable[[TinkexError, float], None],
    on_pause: Callable[[], None] = lambda: None,
) -> Iterator[Snapshot]:
    """Yield how the run is, now and then every *interval* seconds.

    Once it was seen, errors that may pass are told and waited out, longer from time to time.

    :param interval: seconds between two looks.
    :param limit: seconds in all; ``None`` means without end.
    :param on_trouble: is called with an error and the seconds until the next look.
    :param on_pause: is called before each pause.
    :raises WaitedOut: *limit* has passed.
    :raises tinkex.exceptions.TinkexError: the first look failed, or an error that does not pass.
    """
    transport = client._transport
    whole = transport.deadline("the run", limit or _FOR_EVER)
    seen, lost = False, 0
    while True:
        pause = interval
        left = whole.seconds - whole.elapsed
        if left <= 0:
            raise WaitedOut("the time to wait is over")
        try:
            snapshot = _look(client, run_id, min(transport.settings.timeout, left))
        except TinkexError as error:
            if whole.elapsed >= whole.seconds:  # the look had less time than it needed
                continue
            if not seen or error.category != "server":
                raise
            lost += 1
            pause = max(interval, min(interval * 2.0 ** min(lost, 16), LONGEST_PAUSE))
            on_trouble(error, pause)
        else:
            seen, lost = True, 0
            yield snapshot
        on_pause()
        sleep(max(0.0, min(pause, whole.seconds - whole.elapsed)))


def changes(before: Snapshot | None, now: Snapshot) -> list[Change]:
    """Return what has changed since *before*, the earliest first.

    :param before: ``None`` means that all there is has changed.
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
            found.append(Change(checkpoint.time, "checkpoint", path))
        if checkpoint.public != (old[path].public if path in old else False):
            event = "published" if checkpoint.public else "unpublished"
            found.append(Change(now.at, event, path))
    found += [Change(now.at, "removed", path) for path in old if path not in now.checkpoints]
    if run.corrupted and not (before and before.run.corrupted):
        found.append(Change(now.at, "corrupted", subject))
    return sorted(found, key=lambda change: change.time)


def check_usable(snapshot: Snapshot) -> None:
    """Refuse a run that cannot go on.

    :raises OperationFailed: it is corrupted.
    """
    if snapshot.run.corrupted:
        raise OperationFailed(
            f"the training run {snapshot.run.training_run_id} is corrupted and cannot go on",
            hint="Its checkpoints can still be used: start a new run from the last good one.",
            category="user",
        )


def _look(client: ServiceClient, run_id: str, seconds: float) -> Snapshot:
    deadline = client._transport.deadline("the run", seconds)
    answer = ask_for_run(client._transport, run_id, deadline)
    run = TrainingRun.from_json(answer.object())
    found = listing.of_run(client._transport, run_id, deadline)
    # The times of requests are the service's: a wrong clock here must not end a wait.
    at = answer.date or datetime.now(UTC)
    return Snapshot(run, {c.tinker_path: c for c in found}, at)
