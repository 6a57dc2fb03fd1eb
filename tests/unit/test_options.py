"""Durations, moments and other option values, and help on terminals."""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from tinkex import options
from tinkex.exceptions import UsageError
from tinkex.options import parse_duration, parse_moment

NOW = datetime(2026, 11, 22, 15, 30, 20, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("45m", timedelta(minutes=45)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(weeks=2)),
        ("1y", timedelta(days=365)),
        ("1h30m", timedelta(minutes=90)),
        ("1d 12h", timedelta(hours=36)),
        ("1.5d", timedelta(hours=36)),
        (" 7D ", timedelta(days=7)),
        ("100y", timedelta(days=36500)),
    ],
)
def test_a_duration(text: str, expected: timedelta):
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "d", "7", "-7d", "7 days", "0d", "101y", "9" * 5000 + "d", "7dd", "٧d", "nan", "P7D"],
)
def test_other_texts_are_refused_with_an_example(text: str):
    with pytest.raises(UsageError) as caught:
        parse_duration(text)

    assert "7d" in (caught.value.hint or "")
    assert len(str(caught.value)) < 120


def test_a_bare_number_has_the_unit_that_the_caller_gives():
    assert parse_duration("3600", bare="s") == timedelta(hours=1)
    with pytest.raises(UsageError):
        parse_duration("0", bare="s")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T10:20", datetime(2026, 11, 1, 10, 20, tzinfo=UTC)),
        ("2026-11-01 10:20:30Z", datetime(2026, 11, 1, 10, 20, 30, tzinfo=UTC)),
        ("2026-11-01T10:20+02:00", datetime(2026, 11, 1, 8, 20, tzinfo=UTC)),
        ("3d", NOW - timedelta(days=3)),
        ("3d ago", NOW - timedelta(days=3)),
        ("1h30m", NOW - timedelta(minutes=90)),
        ("now", NOW),
        ("today", datetime(2026, 11, 22, tzinfo=UTC)),
        ("Yesterday", datetime(2026, 11, 21, tzinfo=UTC)),
    ],
)
def test_a_moment(text: str, expected: datetime):
    assert parse_moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["3d", "in 3d", "72h"])
def test_a_duration_ahead_is_from_now_on(text: str):
    assert parse_moment(text, NOW, ahead=True) == NOW + timedelta(days=3)
    with pytest.raises(UsageError) as caught:
        parse_moment("3d ago", NOW, ahead=True)
    assert "a time from now (3d, 12h)" in (caught.value.hint or "")


def test_today_is_the_day_in_utc():
    evening_in_new_york = datetime(2026, 11, 21, 22, tzinfo=timezone(timedelta(hours=-5)))
    assert parse_moment("today", evening_in_new_york) == datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow?", "2026-13-01", "2026-02-30", "last week", "5000y", "0001-01-01T00:00+10:00"],
)
def test_other_texts_are_no_moments(text: str):
    with pytest.raises(UsageError) as caught:
        parse_moment(text, NOW)

    assert "2026-11-01" in (caught.value.hint or "")


def test_an_error_names_the_option_and_gives_an_example():
    parser = options.Parser(prog="tinkex x", command="x")
    parser.add_argument("--ttl", type=options.duration(bare="s"))
    parser.add_argument("--since", type=options.moment)

    assert parser.parse_args(["--ttl", "60"]).ttl == timedelta(minutes=1)
    assert parser.parse_args(["--since", "2026-01-02"]).since == datetime(2026, 1, 2, tzinfo=UTC)
    for words in (["--ttl", "x"], ["--since", "x"]):
        with pytest.raises(UsageError, match=rf"{words[0]}.*Use") as caught:
            parser.parse_args(words)
        assert not isinstance(caught.value, argparse.ArgumentTypeError)


def test_help_on_a_dumb_terminal_waits_for_no_key_and_has_no_escapes(tmp_path):
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
    assert b"\x1b" not in shown["dumb"]
    assert b"usage: tinkex version" in shown["dumb"]
