"""Which streams may be drawn on."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from tinkex.cli.progress import Display
from tinkex.cli.terminal import can_move, wants_colour
from tinkex.testing import invoke


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "terminal", "colour", "moves"),
    [
        ({}, True, True, True),
        ({}, False, False, False),
        ({"NO_COLOR": "1"}, True, False, True),
        ({"NO_COLOR": ""}, True, True, True),
        ({"TERM": "dumb"}, True, False, False),
        ({"CLICOLOR_FORCE": "1"}, False, True, False),
        ({"CLICOLOR_FORCE": "0"}, False, False, False),
        ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, True, False, True),
        ({"CLICOLOR_FORCE": "1", "TERM": "dumb"}, True, True, False),
    ],
)
def test_colour_and_changing_lines(monkeypatch, environment, terminal, colour, moves):
    for name in ("NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Tty() if terminal else io.StringIO()
    assert wants_colour(stream) is colour
    assert can_move(stream) is moves
    if terminal:
        assert Display(stream)._console().no_color is not colour


def test_help_on_a_dumb_terminal_has_no_escapes(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("PAGER", "cat")
    assert "\x1b" not in invoke(["version", "--help"], terminal=True).stdout
    assert "\x1b" not in invoke(["version", "--help"]).stdout


def test_help_on_a_dumb_terminal_waits_for_no_key(tmp_path):
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho a pager\n")
    pager.chmod(0o755)
    ours, theirs = pty.openpty()
    environ = {**os.environ, "PAGER": str(pager)}
    shown = {}
    for terminal in ("xterm", "dumb"):
        subprocess.run(
            [sys.executable, "-m", "tinkex", "help", "version"],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            env={**environ, "TERM": terminal},
            check=True,
            timeout=30,
        )
        shown[terminal] = os.read(ours, 65536)
    assert b"a pager" in shown["xterm"]
    assert b"a pager" not in shown["dumb"]
    assert b"usage: tinkex version" in shown["dumb"]
