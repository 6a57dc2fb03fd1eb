"""What holds for every test: it ends, and it leaves the environment as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

_READ = ("TINKE", "HF_", "HUGGING_FACE_", "CLIFF_", "XDG_", "HOME")


def _ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_READ)}


_at_first = _ours()
# A shell ignores it for what it starts in the background, and programs under test inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hang-after", type=float, default=300, help="seconds; 0: never")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that hangs; tests therefore need no clock to say "this must not wait"."""

    def hangs(*_: object) -> None:
        pytest.fail(f"hangs: not done after {limit:g} s")

    limit = item.config.getoption("--hang-after")
    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Compare the environment when the last fixture of a file has gone."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        assert _ours() == _at_first, "a test of this file has changed the environment for good"
    return result
