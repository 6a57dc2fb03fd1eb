"""Selects the part of a matrix that ``make test`` runs; ``make test-faults`` runs all of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def sample(cases: Iterable[tuple[A, B]], times: int) -> list[tuple[A, B]]:
    """Return the cases in which each second member meets *times* first ones, always the same ones.

    It meets those that have met the fewest so far, so that the first members share the work: of C
    commands and F faults each fault meets *times* commands, and each command about *times* · F / C
    faults.
    """
    partners: dict[B, list[A]] = defaultdict(list)
    for first, second in cases:
        partners[second].append(first)
    met: Counter[A] = Counter()
    chosen = []
    for second, firsts in partners.items():
        for first in sorted(firsts, key=lambda each: met[each])[:times]:
            met[first] += 1
            chosen.append((first, second))
    return chosen
