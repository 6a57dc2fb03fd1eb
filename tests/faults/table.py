"""Writes the tables of the manual from test results.

A test records what came of it as a property; the option ``--fault-table``, ``--write-table`` or
``--kill-table`` names the file that all of it goes to.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.writes import WRITERS

#: Row, column, and what was found, with a count where the table counts.
Cells = dict[str, dict[str, Counter[str]]]
_TROUBLES = {
    "full": "Free-page tests",
    "files": "Free-inode tests",
    "read-only": "Read-only tests",
}


class Recorder:
    """Collects what tests recorded for one table, and writes it when they are over."""

    def __init__(self, table: str, path: Path) -> None:
        self._table, self._path = table, path
        self._cells: Cells = defaultdict(lambda: defaultdict(Counter))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == self._table:
                row, column, found, count = value  # type: ignore[misc]
                self._cells[row][column][found if report.passed else "FAILED"] += int(count)

    def pytest_sessionfinish(self) -> None:
        if self._cells:
            with self._path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(TABLES[self._table](self._cells))


def faults(cells: Cells) -> Iterator[list[str]]:
    """Yield for each fault how many commands reported it, and which did not need to."""
    yield ["Fault", "Reported", "Recovers", "Succeeds"]
    places = {fault: place for place, fault in enumerate(FAULTS, 1)}  # connections come before
    ordered = sorted(cells, key=lambda f: (f.startswith("status "), places.get(f, 0), f))
    for fault in ordered:
        commands = cells[fault]
        failed = [name for name, found in commands.items() if "FAILED" in found]
        reported, recovers, succeeds = (
            sorted(name for name, found in commands.items() if outcome in found)
            for outcome in ("reported", "recovers", "succeeds")
        )
        counts = [str(len(reported) or ""), str(len(recovers) or ""), ", ".join(succeeds)]
        yield [fault, *([f"FAILED: {', '.join(failed)}", "", ""] if failed else counts)]


def writes(cells: Cells) -> Iterator[list[str]]:
    """Yield for each command that writes how often it met which trouble."""
    yield ["Command", "Output", *_TROUBLES.values(), "Outcome"]
    for name, writer in WRITERS.items():
        tries = [_counted(cells[name][trouble]) for trouble in _TROUBLES]
        yield [name, writer.what, *tries, "continues" if writer.goes_on else "reported"]


def kills(cells: Cells) -> Iterator[list[str]]:
    """Yield for each command how often it was killed, and how often it got another signal."""
    yield ["Command", "Killed (-9)", "Interrupted or terminated"]
    for name, found in cells.items():
        yield [name, _counted(found["kills"]), _counted(found["signals"])]


def _counted(found: Counter[str]) -> str:
    return "FAILED" if "FAILED" in found else str(found.total() or "")


TABLES: dict[str, Callable[[Cells], Iterator[list[str]]]] = {
    "fault": faults,
    "write": writes,
    "kill": kills,
}
