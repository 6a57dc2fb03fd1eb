"""Checks of generated text, and pass rates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinkex.exceptions import UsageError
from tinkex_lab.programs import Program
from tinkex_lab.results import ResultRow

#: Returns whether the text of a sample of the row passes.
Check = Callable[[ResultRow, str], bool]

#: Kind of check → metavar of its operand, after the colon.
KINDS = {"equals": "FIELD", "contains": "FIELD", "regex": "PATTERN", "exec": "COMMAND"}
FORMS = ", ".join(f"{kind}:{operand}" for kind, operand in KINDS.items())


def parse_check(spec: str, timeout: float) -> Check:
    """Parse *spec*, such as ``equals:answer``, as a check.

    :param timeout: seconds for each run of a program.
    :raises UsageError: *spec* is not valid.
    """
    kind, colon, operand = spec.partition(":")
    if kind not in KINDS or not colon or not operand:
        raise UsageError(f"invalid check {spec!r}", hint=f"Valid checks: {FORMS}.")
    if kind == "regex":
        return _matches(operand)
    if kind == "exec":
        return Program(operand, timeout)
    compare = _equals if kind == "equals" else _contains
    return lambda row, text: any(
        compare(text.strip(), reference.strip()) for reference in _references(row, operand)
    )


def _equals(text: str, reference: str) -> bool:
    return text == reference


def _contains(text: str, reference: str) -> bool:
    return reference in text


def _matches(pattern: str) -> Check:
    try:
        found = re.compile(pattern).search
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"{pattern!r} is not a valid regular expression: {error}",
            hint="See https://docs.python.org/3/library/re.html#regular-expression-syntax",
        ) from error
    return lambda row, text: found(text) is not None


def field_of(row: ResultRow, name: str) -> Any:
    """Return the member *name* of the prompt's row.

    :raises UsageError: the row has no such member, or it is null.
    """
    value = row.extra.get(name)
    if value is None:
        known = ", ".join(key for key, value in row.extra.items() if value is not None) or "none"
        what = (
            f"the field {name!r} is null" if name in row.extra else f"the row has no field {name!r}"
        )
        raise UsageError(
            f"{row.where}: {what}",
            hint=f"Available fields: {known}. 'run batch' copies fields from the prompts file.",
        )
    return value


def _references(row: ResultRow, name: str) -> list[str]:
    value = field_of(row, name)
    return list(map(as_text, value if isinstance(value, list) else [value]))


def as_text(value: Any) -> str:
    """Return *value* unchanged if it is a string, else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of the probability that one of *k* samples passes.

    It is 1 - C(n-c, k) / C(n, k) for c of n samples that pass (Chen et al. 2021, "Evaluating Large
    Language Models Trained on Code", arXiv:2107.03374, section 2.1).

    :param samples: number of samples, at least *k*.
    :param passed: number of samples that passed.
    """
    if samples - passed < k:
        return 1.0
    fail = 1.0
    for n in range(samples - passed + 1, samples + 1):
        fail *= 1 - k / n
    return 1 - fail


@dataclass
class Tally:
    """The outcomes of the rows of one group.

    :ivar outcomes: for each row, its number of samples and how many of them passed.
    :ivar truncated: number of samples that ended at the maximum number of tokens.
    """

    outcomes: list[tuple[int, int]] = field(default_factory=list)
    truncated: int = 0

    def add(self, row: ResultRow, passed: Sequence[bool]) -> None:
        """Count the samples of *row*."""
        self.outcomes.append((len(passed), sum(passed)))
        self.truncated += sum(s.stop_reason == "length" for s in row.sequences)

    @property
    def samples(self) -> int:
        """Number of samples of all rows."""
        return sum(n for n, _ in self.outcomes)

    def pass_at(self, k: int) -> float:
        """Return the mean of :func:`pass_at_k` over the rows."""
        return sum(pass_at_k(n, passed, k) for n, passed in self.outcomes) / len(self.outcomes)

    @property
    def truncation_rate(self) -> float:
        """Proportion of samples that ended at the maximum number of tokens."""
        return self.truncated / self.samples
