"""Filters and sort orders for checkpoints, and retention policies that delete them.

A retention plan is made without any request. The checkpoints of one run and one type are a
*group*; the rules are applied to each group separately, so that many sampler checkpoints do not
displace training checkpoints.
"""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import TypeVar

from tinkex.api.paths import KINDS
from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.exceptions import UsageError

T = TypeVar("T")

#: Names of checkpoint types, from the service or from paths → the service's name.
TYPES = {**KINDS, **{word: word for word in KINDS.values()}}

#: Why bulk commands skip a checkpoint.
UNKNOWN = "unknown checkpoint type or creation time"

_STEP = re.compile(r"(\d+)\Z", re.ASCII)


@dataclass(frozen=True)
class Selection:
    """Conditions that a checkpoint must meet; ``None`` means no condition.

    :ivar run_id: id of its run, or a pattern with ``*``, ``?`` or ``[…]``.
    :ivar before: saved before this time.
    :ivar after: saved at this time or later.
    :ivar expires_before: has an expiry time before this time.
    :raises UsageError: there is no such type.
    """

    run_id: str | None = None
    checkpoint_type: str | None = None
    before: datetime | None = None
    after: datetime | None = None
    public: bool | None = None
    expires_before: datetime | None = None

    def __post_init__(self) -> None:
        if self.checkpoint_type is not None:
            object.__setattr__(self, "checkpoint_type", type_called(self.checkpoint_type))

    @property
    def one_run(self) -> str | None:
        """The id of the only selected run; ``None`` if several may match."""
        return None if self.run_id is None or is_pattern(self.run_id) else self.run_id

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Return whether *checkpoint* meets all conditions; an unknown time never does."""
        saved, expires, limit = checkpoint.time, checkpoint.expires_at, self.expires_before
        return (
            (self.run_id is None or fnmatch.fnmatchcase(checkpoint.run_id, self.run_id))
            and self.checkpoint_type in (None, checkpoint.checkpoint_type)
            and self.public in (None, checkpoint.public)
            and (self.before is None or (saved is not None and saved < self.before))
            and (self.after is None or (saved is not None and saved >= self.after))
            and (limit is None or (expires is not None and expires < limit))
        )


def is_pattern(text: str) -> bool:
    """Return whether *text* is a pattern rather than an id."""
    return any(character in text for character in "*?[")


def type_called(word: str) -> str:
    """Return the checkpoint type that *word* means for the service or in paths.

    :raises UsageError: there is no such type.
    """
    if word not in TYPES:
        hint = "Valid types: training, sampler, external."
        raise UsageError(f"unknown checkpoint type {word!r}", hint=hint)
    return TYPES[word]


def ordered(things: Sequence[T], field: str, *, descending: bool = False) -> list[T]:
    """Return *things* sorted by their attribute *field*; those without a value come last.

    :raises UsageError: the attribute does not exist, or its values cannot be compared.
    """

    value = attrgetter(field)
    try:
        with_value = [thing for thing in things if value(thing) is not None]
        without = [thing for thing in things if value(thing) is None]
        return sorted(with_value, key=value, reverse=descending) + without
    except (AttributeError, TypeError) as error:
        raise UsageError(f"cannot sort by {field!r}") from error


def time_of(checkpoint: Checkpoint) -> datetime:
    """Return when *checkpoint* was saved, for sorting; an unknown time is the oldest."""
    return checkpoint.time or datetime.min.replace(tzinfo=UTC)


def total_size(checkpoints: Sequence[Checkpoint]) -> int | None:
    """Return the total size of *checkpoints* in bytes; ``None`` if a size is unknown."""
    sizes = [checkpoint.size_bytes for checkpoint in checkpoints]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


@dataclass(frozen=True)
class Policy:
    """Retention rules. A checkpoint is deleted only if no given rule keeps it.

    :ivar keep_last: keep this many of the newest checkpoints of each group.
    :ivar keep_every: keep checkpoints whose step is a multiple of this, and those without a step.
    :ivar older_than: keep checkpoints that are not older than this.
    :ivar include_published: also delete published checkpoints.
    :ivar include_newest: also delete the newest checkpoint of a group.
    :raises UsageError: no rule is given, or a number is below 1.
    """

    keep_last: int | None = None
    keep_every: int | None = None
    older_than: timedelta | None = None
    include_published: bool = False
    include_newest: bool = False

    def __post_init__(self) -> None:
        rules = (self.keep_last, self.keep_every, self.older_than)
        if all(rule is None for rule in rules):
            raise UsageError("at least one retention rule is required")
        if any(number is not None and number < 1 for number in (self.keep_last, self.keep_every)):
            raise UsageError("keep_last and keep_every must be at least 1")


@dataclass(frozen=True)
class Decision:
    """The decision on one checkpoint: whether to delete it, and a short reason."""

    checkpoint: Checkpoint
    goes: bool
    reason: str


def plan(checkpoints: Iterable[Checkpoint], policy: Policy, now: datetime) -> list[Decision]:
    """Return a decision for each of *checkpoints*, sorted by group, newest first.

    The newest is the one saved last; among several saved at the same time, the one with the largest
    step. A checkpoint whose type or creation time is unknown is kept and counts as the oldest.

    :param now: the time from which ages are computed.
    """
    groups: dict[tuple[str, str], list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        groups[checkpoint.run_id, checkpoint.checkpoint_type].append(checkpoint)
    decisions = []
    for key in sorted(groups):
        newest_first = sorted(groups[key], key=_age_key, reverse=True)
        for place, checkpoint in enumerate(newest_first):
            why = _kept_because(checkpoint, place, policy, now)
            decisions.append(Decision(checkpoint, why is None, why or _gone_because(policy)))
    return decisions


def step_of(checkpoint: Checkpoint) -> int | None:
    """Return the step of *checkpoint*: the digits at the end of its name, or ``None``.

    ``0100``, ``step-0100`` and ``epoch2_step100`` are all step 100; ``final`` has none.
    """
    found = _STEP.search(checkpoint.tinker_path)
    # Python refuses to convert thousands of digits, and a name may be that long.
    return int(found[1][-18:]) if found else None


def _age_key(checkpoint: Checkpoint) -> tuple[bool, datetime, int, str]:
    step, known = step_of(checkpoint), checkpoint.is_known
    return known, time_of(checkpoint), -1 if step is None else step, checkpoint.tinker_path


def _kept_because(checkpoint: Checkpoint, place: int, policy: Policy, now: datetime) -> str | None:
    """Return why *checkpoint*, at *place* in its group, is kept; ``None`` if it is deleted."""
    if not checkpoint.is_known:
        return UNKNOWN
    if checkpoint.public and not policy.include_published:
        return "published"
    if place == 0 and not policy.include_newest:
        return "newest of its run and type"
    if policy.keep_last is not None and place < policy.keep_last:
        return f"among the last {policy.keep_last}"
    if policy.older_than is not None and now - time_of(checkpoint) <= policy.older_than:
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
    """Format *span* as in the options: ``7d``, ``1h30m``."""
    seconds = round(span.total_seconds())
    words = ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        words += f"{count}{unit}" if count else ""
    return words or "0s"
