"""Which checkpoints of an account are meant: by run, kind, age and visibility; and their order."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from tinkex.api.paths import KINDS
from tinkex.api.resources.records import Checkpoint
from tinkex.exceptions import UsageError

T = TypeVar("T")

#: Words for a kind of checkpoint, the service's and those of paths → the service's.
TYPES = {**KINDS, **{word: word for word in KINDS.values()}}


@dataclass(frozen=True)
class Selection:
    """What is asked of a checkpoint; ``None`` asks nothing.

    :ivar run_id: id of its run, or a pattern with ``*``, ``?`` or ``[…]``.
    :ivar checkpoint_type: ``training``, ``sampler`` or ``external``.
    :ivar before: it was saved before this moment.
    :ivar after: it was saved at this moment or after it.
    :ivar public: whether everybody may use it.
    :raises UsageError: there is no such type.
    """

    run_id: str | None = None
    checkpoint_type: str | None = None
    before: datetime | None = None
    after: datetime | None = None
    public: bool | None = None

    def __post_init__(self) -> None:
        if self.checkpoint_type is not None:
            object.__setattr__(self, "checkpoint_type", type_called(self.checkpoint_type))

    @property
    def one_run(self) -> str | None:
        """The id of the only run that is meant, unless it is a pattern."""
        return None if self.run_id is None or is_pattern(self.run_id) else self.run_id

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Tell whether *checkpoint* is meant."""
        return (
            (self.run_id is None or fnmatch.fnmatchcase(checkpoint.run_id, self.run_id))
            and self.checkpoint_type in (None, type_of(checkpoint))
            and (self.before is None or checkpoint.time < self.before)
            and (self.after is None or checkpoint.time >= self.after)
            and self.public in (None, checkpoint.public)
        )


def is_pattern(text: str) -> bool:
    """Tell whether *text* is a pattern rather than an id."""
    return any(character in text for character in "*?[")


def type_called(word: str) -> str:
    """Return the type that *word* means, the service's word or that of paths.

    :raises UsageError: it means none.
    """
    if word not in TYPES:
        raise UsageError(
            f"no type of checkpoint is called {word!r}", hint="training, sampler or external"
        )
    return TYPES[word]


def type_of(checkpoint: Checkpoint) -> str:
    """Return the kind of *checkpoint* in the service's words, whichever words its list has."""
    return TYPES.get(checkpoint.checkpoint_type, checkpoint.checkpoint_type)


def ordered(things: Iterable[T], field: str, *, descending: bool = False) -> list[T]:
    """Return *things* by their attribute *field*; those without a value come last.

    :raises UsageError: they have no such attribute, or its values cannot be compared.
    """

    def value(thing: T) -> Any:
        return getattr(thing, field)

    known = list(things)
    try:
        with_value = [thing for thing in known if value(thing) is not None]
        without = [thing for thing in known if value(thing) is None]
        return sorted(with_value, key=value, reverse=descending) + without
    except (AttributeError, TypeError) as error:
        raise UsageError(f"cannot sort by {field!r}") from error


def total_size(checkpoints: Sequence[Checkpoint]) -> int | None:
    """Return how many bytes *checkpoints* take together; ``None`` if the size of one is unknown."""
    sizes = [checkpoint.size_bytes for checkpoint in checkpoints]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None
