"""Profiles of Hypothesis: short in every run, long with ``make fuzz``, which records its counts."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick",
    max_examples=60,
    deadline=None,
    derandomize=True,  # a run of all tests depends on nothing but the tree
    suppress_health_check=list(HealthCheck),
    database=None,
)
settings.register_profile(
    "long", parent=settings.get_profile("quick"), max_examples=10_000, derandomize=False
)
settings.load_profile("quick")

_COUNT = "examples"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--fuzz-examples", type=int, metavar="N", help="inputs for each property")
    group.addoption("--fuzz-table", metavar="FILE", help="write how many inputs were tried")


def pytest_configure(config: pytest.Config) -> None:
    wanted = config.getoption("--fuzz-examples")
    if wanted:
        settings.register_profile(
            "wanted", parent=settings.get_profile("long"), max_examples=wanted
        )
        settings.load_profile("wanted")
    path = config.getoption("--fuzz-table")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Counts(Path(path)))


class _Counts:
    """Writes how many inputs each property was tried with."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        counts = [value for name, value in report.user_properties if name == _COUNT]
        if report.when == "teardown" and counts:
            name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            self._rows[name] = str(counts[0])

    def pytest_sessionfinish(self) -> None:
        with self._path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["Property", "Inputs"])
            writer.writerows(sorted(self._rows.items()))


@pytest.fixture
def tried(record_property):
    """Return a function that a property calls for every input it is tried with."""
    count = 0

    def one_more() -> None:
        nonlocal count
        count += 1

    yield one_more
    record_property(_COUNT, count)
