"""The table of faults and commands in the manual, written from what the tests found."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.writes import WRITERS

OUTCOMES = ("told", "recovers", "succeeds")
#: Names of the properties that a test of the matrix records.
FAULT, COMMAND, OUTCOME = "fault", "fault-command", "fault-outcome"


class Recorder:
    """Collects what the tests of the matrix recorded, and writes it when they are over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cells: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = dict(report.user_properties)
        if report.when != "call" or FAULT not in known:
            return
        outcome = known.get(OUTCOME, "") if report.passed else "FAILED"
        self._cells[str(known[FAULT])][str(known[COMMAND])][str(outcome)] += 1

    def pytest_sessionfinish(self) -> None:
        if not self._cells:
            return
        with self._path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["Fault", "Told", "Recovers", "Succeeds"])
            for fault in sorted(self._cells, key=_place):
                writer.writerow([fault, *_row(self._cells[fault])])


def _row(commands: dict[str, Counter[str]]) -> list[str]:
    """Return how many commands told the fault, and which did not need to."""
    failed = [name for name, outcomes in commands.items() if "FAILED" in outcomes]
    if failed:
        return [f"FAILED: {', '.join(failed)}", "", ""]
    with_outcome = {
        outcome: sorted(name for name, found in commands.items() if outcome in found)
        for outcome in OUTCOMES
    }
    told = len(with_outcome["told"])
    recovered = len(with_outcome["recovers"])
    return [
        str(told) if told else "",
        str(recovered) if recovered else "",
        ", ".join(with_outcome["succeeds"]),
    ]


def _place(fault: str) -> tuple[int, str]:
    """Connections first, statuses last, the others in the order in which the server has them."""
    if fault.startswith("status "):
        return 1000, fault
    names = list(FAULTS)
    return (names.index(fault), "") if fault in names else (-1, fault)


# ------------------------------------------------------------------ what cannot be written

#: Names of the properties that a test of the writers records.
WRITER, TROUBLE, TRIES = "writer", "writer-trouble", "writer-tries"
_TROUBLES = {
    "full": "Full after so many pages",
    "files": "Full after so many files",
    "read-only": "Read-only",
}


class WriteRecorder:
    """Collects what the tests of writers recorded, and writes it when they are over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cells: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = {name: str(value) for name, value in report.user_properties}
        if report.when == "call" and WRITER in known:
            tries = known[TRIES] if report.passed else "FAILED"
            self._cells[known[WRITER]][known[TROUBLE]] = tries

    def pytest_sessionfinish(self) -> None:
        if not self._cells:
            return
        with self._path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["Command", "What it writes", *_TROUBLES.values(), "Outcome"])
            for name, wanted in WRITERS.items():
                cells = [self._cells[name].get(trouble, "") for trouble in _TROUBLES]
                outcome = "goes on" if wanted.goes_on else "told"
                writer.writerow([name, wanted.what, *cells, outcome])


# ------------------------------------------------------------------ kills

KILLS, SIGNALS = "kills", "signals"


class KillRecorder:
    """Counts how often each command was killed or told to end, and writes it in the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: dict[str, Counter[str]] = {KILLS: Counter(), SIGNALS: Counter()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for how, value in report.user_properties:
            if how in self._counts:
                name, _, count = str(value).rpartition(": ")
                self._counts[how][name] += int(count) if report.passed else 0

    def pytest_sessionfinish(self) -> None:
        if not self._counts[KILLS]:
            return
        with self._path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["Command", "Killed (-9)", "Interrupted or terminated"])
            for name in self._counts[KILLS]:
                signals = self._counts[SIGNALS][name]
                writer.writerow([name, self._counts[KILLS][name], signals or ""])
