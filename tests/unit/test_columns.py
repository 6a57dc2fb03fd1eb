"""Values for people and for programs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tinkex import columns


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_999, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_size(size, text):
    column = columns.Size(size)
    assert column.human_readable() == text
    assert column.machine_readable() == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (46, "1 minute ago"),
        (3 * 3600 + 5, "3 hours ago"),
        (86400, "1 day ago"),
        (40 * 86400, "1 month ago"),
        (800 * 86400, "2 years ago"),
        (-10, "in seconds"),
        (-7200, "in 2 hours"),
    ],
)
def test_relative(seconds, text):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert columns.relative(now - timedelta(seconds=seconds), now) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2001, 1, 1, 3, 0, tzinfo=timezone(timedelta(hours=2))), "2001-01-01T01:00:00Z"),
        (datetime(2001, 1, 1, 1, 0), "2001-01-01T01:00:00Z"),
        ("2001-01-01T01:00:00Z", "2001-01-01T01:00:00Z"),
        ("2001-01-01T03:00:00.25+02:00", "2001-01-01T01:00:00.250000Z"),
        ("2001-01-01 01:00:00", "2001-01-01T01:00:00Z"),
        ("2001-01-01", "2001-01-01T00:00:00Z"),
    ],
)
def test_time_takes_datetimes_and_what_servers_send_and_is_utc_for_programs(value, text):
    column = columns.Time(value)

    assert column.machine_readable() == text
    assert column.human_readable().endswith(" years ago")


@pytest.mark.parametrize("value", [None, "", "soon", "0001-01-01T00:00:00+09:00"])
def test_time_shows_what_is_no_time_as_it_is(value):
    column = columns.Time(value)

    assert (column.machine_readable(), column.human_readable()) == (value, value or "")


def test_times_sort_whatever_they_were_made_of():
    new, old = columns.Time("2026-01-02T00:00:00Z"), columns.Time(datetime(2026, 1, 1, tzinfo=UTC))

    assert sorted([new, old]) == [old, new]


@pytest.mark.parametrize("name", ["Size", "Dollars", "Time", "Flag", "Structure"])
def test_every_column_type_says_what_it_takes(name):
    assert ":param value: " in (getattr(columns, name).__doc__ or "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (columns.Flag(True), "true"),
        (columns.Size(1500), "1500"),
        ({"a": 1}, '{"a": 1}'),
        ("a\tb\x1b[0m", "a\ufffdb\ufffd[0m"),
    ],
)
def test_plain_text(value, text):
    assert columns.plain_text(value) == text


@pytest.mark.parametrize(
    "text",
    [
        *("« Bonjour\u00a0! »", "東京\u3000大阪", "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"),
        *("\U0001fae8 is of Unicode 15, and \U00020000", "soft\u00adhyphen, \ufeff and \u2060"),
    ],
)
def test_printable_leaves_the_letters_of_all_languages_alone(text):
    assert columns.printable(text) == text
    assert columns.plain_text(text) == text


@pytest.mark.parametrize("steers", "\x00\x1b\x7f\x9b\u2028\u2029\u202e\u2066\ud800")
def test_printable_replaces_terminal_controls(steers):
    assert columns.printable(f"a{steers}\nb\u00a0", keep="\n") == "a\ufffd\nb\u00a0"


def test_printable_takes_cr_lf_for_one_line_break():
    assert columns.printable("a\r\nb\rc", keep="\n") == "a\r\nb\ufffdc"
    assert columns.printable("a\r\nb") == "a\ufffdb"


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("tinker_path", "Path"),
        ("user_metadata", "User metadata"),
        ("base_url", "Base URL"),
        ("budget_usd", "Budget USD"),
    ],
)
def test_headings_are_words(name, heading):
    assert columns.heading(name) == heading
