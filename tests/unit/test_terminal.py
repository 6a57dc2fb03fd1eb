"""Which streams may be drawn on."""

from __future__ import annotations

import io

import pytest

from tinkex.progress import Display
from tinkex.terminal import can_move, wants_colour
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
