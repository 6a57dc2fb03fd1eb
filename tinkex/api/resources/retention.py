"""Which checkpoints may go, and why the others stay: a plan, made without asking anybody.

The checkpoints of one run and one kind are a *line*; rules hold for each line on its own, so
that many sampler checkpoints do not push training checkpoints out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tinkex.api.paths import TinkerPath
from tinkex.api.resources.records import Checkpoint
from tinkex.api.resources.selection import type_of
from tinkex.exceptions import UsageError

_STEP = re.compile(r"(\d+)\Z", re.ASCII)


@dataclass(frozen=True)
class Policy:
    """What is kept. A checkpoint goes only if every rule given lets it go.

    :ivar keep_last: keep this many of the newest of each line.
    :ivar keep_every: keep those whose step is a multiple of this; those without a step as well.
    :ivar older_than: keep what is not older than this.
    :ivar include_published: published ones may go, too.
    :ivar include_newest: the newest of a line may go, too.
    """

    keep_last: int | None = None
    keep_every: int | None = None
    older_than: timedelta | None = None
    include_published: bool = False
    include_newest: bool = False

    def check(self) -> None:
        """Refuse a policy that says nothing or makes no sense.

        :raises UsageError: no rule is given, or a number is below 1.
        """
        rules = (self.keep_last, self.keep_every, self.older_than)
        if all(rule is None for rule in rules):
            raise UsageError(
                "nothing says which checkpoints may go",
                hint="Give --keep-last, --keep-every or --older-than.",
            )
        if any(number is not None and number < 1 for number in (self.keep_last, self.keep_every)):
            raise UsageError("at least 1 must be kept")


@dataclass(frozen=True)
class Decision:
    """What becomes of one checkpoint.

    :ivar goes: whether it may go.
    :ivar reason: why it goes or stays, in a few words.
    """

    checkpoint: Checkpoint
    goes: bool
    reason: str


def plan(checkpoints: Iterable[Checkpoint], policy: Policy, now: datetime) -> list[Decision]:
    """Return a decision for each of *checkpoints*: line by line, each from the newest on.

    The newest is the one saved last; of those saved at the same moment, the one with the larger
    step.

    :param now: the present, for ages.
    :raises UsageError: see :meth:`Policy.check`.
    """
    policy.check()
    lines: dict[tuple[str, str], list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        lines[checkpoint.run_id, type_of(checkpoint)].append(checkpoint)
    decisions = []
    for key in sorted(lines):
        newest_first = sorted(lines[key], key=_age_key, reverse=True)
        for place, checkpoint in enumerate(newest_first):
            why = _kept_because(checkpoint, place, policy, now)
            decisions.append(Decision(checkpoint, why is None, why or _gone_because(policy)))
    return decisions


def step_of(checkpoint: Checkpoint) -> int | None:
    """Return the step of *checkpoint*: the digits at the end of its name, if there are any.

    ``0100``, ``step-0100`` and ``epoch2_step100`` are all of step 100; ``final`` has none.
    """
    found = _STEP.search(TinkerPath.from_string(checkpoint.tinker_path).name)
    # Python refuses numbers of thousands of digits; a name is shorter, but not by much.
    return int(found[1][-18:]) if found else None


def _age_key(checkpoint: Checkpoint) -> tuple[datetime, int, str]:
    step = step_of(checkpoint)
    return checkpoint.time, -1 if step is None else step, checkpoint.tinker_path


def _kept_because(checkpoint: Checkpoint, place: int, policy: Policy, now: datetime) -> str | None:
    """Return why *checkpoint*, in *place* from the newest of its line, stays; or ``None``."""
    if checkpoint.public and not policy.include_published:
        return "published"
    if place == 0 and not policy.include_newest:
        return "newest of its run and type"
    if policy.keep_last is not None and place < policy.keep_last:
        return f"among the last {policy.keep_last}"
    if policy.older_than is not None and now - checkpoint.time <= policy.older_than:
        return f"not older than {in_words(policy.older_than)}"
    if policy.keep_every is None:
        return None
    step = step_of(checkpoint)
    if step is None:
        return "no step in its name"
    return f"step {step}" if step % policy.keep_every == 0 else None


def _gone_because(policy: Policy) -> str:
    reasons = []
    if policy.older_than is not None:
        reasons.append(f"older than {in_words(policy.older_than)}")
    if policy.keep_last is not None:
        reasons.append(f"not among the last {policy.keep_last}")
    if policy.keep_every is not None:
        reasons.append(f"step not a multiple of {policy.keep_every}")
    return ", ".join(reasons)


def in_words(span: timedelta) -> str:
    """Return *span* as a person types it: ``7d``, ``1h30m``."""
    seconds = round(span.total_seconds())
    words = ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        words += f"{count}{unit}" if count else ""
    return words or "0s"
