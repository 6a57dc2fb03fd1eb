"""The examples of a data set: read, tokenized, counted, and divided into batches."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tinkex.api import ExampleBuilder, read_supervised_rows
from tinkex.exceptions import LocalError, UsageError
from tinkex.files import user_path

if TYPE_CHECKING:
    from tinkex.api import SupervisedExample


@dataclass(frozen=True)
class DataSet:
    """A file of examples.

    :ivar name: name of the file.
    :ivar digest: SHA-256 of its content.
    :ivar rows: number of its rows.
    :ivar places: for each example, the place of its row.
    """

    name: str
    digest: str
    rows: int
    examples: Sequence[SupervisedExample]
    places: Sequence[str] = field(repr=False)

    @classmethod
    def read(
        cls,
        name: str,
        builder: ExampleBuilder,
        layout: str | None = None,
    ) -> DataSet:
        """Read the file *name* and tokenize it.

        :param layout: one of ``SupervisedRow.LAYOUTS``, or ``None`` to detect it for each row.
        :raises LocalError: it cannot be read.
        :raises UsageError: a row is invalid, or the file has no rows.
        """
        examples: list[SupervisedExample] = []
        places: list[str] = []
        rows = 0
        try:
            with user_path(name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                for row in read_supervised_rows(file, name, layout):
                    found = builder.build(row)
                    examples += found
                    places += [row.where] * len(found)
                    rows += 1
        except OSError as error:
            raise LocalError(f"cannot read {name}: {error.strerror}") from error
        if not examples:
            raise UsageError(f"there are no rows in {name}", hint="Write one JSON object per line.")
        return cls(name, digest, rows, examples, places)

    @cached_property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(len(example.tokens) for example in self.examples)

    @cached_property
    def trained_tokens(self) -> int:
        """Number of trained tokens."""
        return sum(example.num_trained for example in self.examples)

    @property
    def truncated(self) -> int:
        """Number of truncated examples."""
        return sum(example.is_truncated for example in self.examples)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest example."""
        return max(len(example.tokens) for example in self.examples)


@dataclass(frozen=True)
class Batches:
    """The batches of several epochs, in an order that depends on *seed* and the epoch alone.

    :ivar count: number of examples.
    :ivar size: number of examples of each batch; the last one of an epoch may be smaller.
    """

    count: int
    size: int
    epochs: int
    seed: int = 0

    @property
    def per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return math.ceil(self.count / self.size)

    @property
    def steps(self) -> int:
        """Number of batches in total."""
        return self.per_epoch * self.epochs

    def starting_at(self, step: int) -> Iterator[list[int]]:
        """Yield the indices of the examples of each batch from *step*, from 0, to the end."""
        for epoch in range(step // self.per_epoch, self.epochs):
            order = list(range(self.count))
            random.Random(f"{self.seed}:{epoch}").shuffle(order)  # noqa: S311
            first = step % self.per_epoch if epoch == step // self.per_epoch else 0
            for start in range(first * self.size, self.count, self.size):
                yield order[start : start + self.size]
