"""Progress and waits on standard error."""

from __future__ import annotations

import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.until import until
from tinkex.api import Wait
from tinkex.cli import progress
from tinkex.testing import _Stream

WAIT = Wait("sampling", 5.0, queue_state="paused_capacity", reason="busy", retry_in=2)


def test_a_wait_for_a_silent_server_is_shown(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "TICK", 0.02)
    monkeypatch.setattr(progress, "PATIENCE", 0.1)
    stream = _Stream(terminal=True)
    display = progress.Display(stream)
    display.expect("the service")
    until(lambda: re.search(r"Waiting for the service: \d+ s", stream.getvalue()))
    display.clear()


def test_reasons():
    assert progress.reason_of(Wait("sampling", 3.2, queue_state="active")) == ""
    assert progress.reason_of(WAIT) == " (paused_capacity: busy, retrying in 2 s)"


CAPABLE = pytest.mark.parametrize(
    ("terminal", "quiet", "term", "shown"),
    [
        (True, False, "xterm", True),
        (False, False, "xterm", False),
        (True, True, "xterm", False),
        (True, False, "dumb", False),
    ],
)


@CAPABLE
def test_wait_is_shown_on_a_capable_terminal_only(monkeypatch, terminal, quiet, term, shown):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(progress, "TICK", 0.02)
    stream = _Stream(terminal=terminal)
    display = progress.Display(stream, quiet=quiet)
    display.wait(WAIT)
    if shown:
        until(lambda: re.search(r"Waiting for sampling: \d+ s", stream.getvalue()))
    display.clear()
    if not shown:
        assert stream.getvalue() == ""


def test_notes_are_printed_everywhere_without_control_characters():
    stream = _Stream()
    progress.Display(stream).wait(Wait("a session", 0, note="maintenance \x1b[2J at noon"))
    assert stream.getvalue() == "maintenance \ufffd[2J at noon\n"


@CAPABLE
def test_counts_are_shown_on_a_capable_terminal_only(monkeypatch, terminal, quiet, term, shown):
    monkeypatch.setenv("TERM", term)
    stream = _Stream(terminal=terminal)
    display = progress.Display(stream, quiet=quiet)
    assert display.draws is shown
    for done in (1, 40):
        display.count("Deleting", done, 40)
    display.clear()
    assert ("Deleting" in stream.getvalue() and "40/40" in stream.getvalue()) is shown


def test_threads_that_wait_at_once_share_one_line(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    display = progress.Display(_Stream(terminal=True))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that what can overlap does

    def wait(_: int) -> None:
        for _ in range(30):
            display.wait(WAIT)
            display.clear()

    try:
        with ThreadPoolExecutor(8) as workers:
            list(workers.map(wait, range(8)))
    finally:
        sys.setswitchinterval(interval)
    display.clear()
    assert [t.name for t in threading.enumerate() if t.name == "tinkex-display"] == []
