"""Tables at every width, values in formats without types, links, and lists that are spooled."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import tempfile

import pytest
import responses

from tinkex.cli.formatters import (
    CSVFormatter,
    JSONFormatter,
    ShellFormatter,
    TableFormatter,
    ValueFormatter,
    YAMLFormatter,
    can_redraw,
    spooled,
    wants_colour,
)
from tinkex.cli.progress import console
from tinkex.columns import Flag, Presentation, Size, plain_text
from tinkex.exceptions import LocalError
from tinkex.settings import DEFAULT_BASE_URL
from tinkex.testing import _Stream, invoke

PATH = "tinker://" + "x" * 60
NAMES = ("checkpoint_id", "size_bytes", "public", "tinker_path")
ROW = ("weights/a", Size(1500), Flag(True), PATH)


def options(formatter, **values) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    formatter.add_argument_group(parser)
    return argparse.Namespace(**vars(parser.parse_args([])) | {"columns": []} | values)


def table(width, monkeypatch, rows=(ROW,), names=NAMES, **values):
    """Return the table of *rows* on a terminal, and the notes about it."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    stream = _Stream(terminal=True)
    formatter = TableFormatter()
    shown = Presentation(droppable=("public", "size_bytes", "checkpoint_id"), empty="No rows.")
    formatter.emit_list(names, rows, stream, options(formatter, presentation=shown, **values))
    return stream.getvalue(), shown.notes


@pytest.mark.parametrize("width", [10, 40, 72, 80, 90, 120, 200])
def test_path_is_whole_at_every_width_and_lines_fit_where_they_can(width, monkeypatch):
    text, notes = table(width, monkeypatch)
    assert PATH in text
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width
    assert bool(notes) == ("1.5 kB" not in text or "yes" not in text)
    if width == 40:
        hidden = "Checkpoint, Size, Public"
        assert notes == [f"Hidden (terminal too narrow): {hidden}; -f json shows all."]


def test_wide_terminal_shows_all_with_headings_in_words(monkeypatch):
    text, notes = table(200, monkeypatch)
    assert "| Checkpoint | Size   | Public | Path " in text
    assert "| weights/a  | 1.5 kB | yes    | " in text
    assert notes == []
    # Chosen columns are never hidden.
    assert "1.5 kB" in table(40, monkeypatch, columns=list(NAMES))[0]
    assert "\x1b" not in table(80, monkeypatch, [("\x1b[31mred",)], ("name",))[0]


def test_too_wide_for_a_frame(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = _Stream(terminal=True)
    formatter = TableFormatter()
    formatter.emit_one(NAMES, ROW, stream, options(formatter))
    assert stream.getvalue().splitlines()[1:] == [
        "Size        1.5 kB",
        "Public      yes",
        f"Path        {PATH}",
    ]


def test_empty_list_is_a_note_about_the_rows_only(monkeypatch):
    assert table(10, monkeypatch, rows=[]) == ("", ["No rows."])
    assert "+--" in table(200, monkeypatch, rows=[], print_empty=True)[0]


def listed(formatter, rows, names=NAMES, **values) -> str:
    stream = _Stream()
    formatter.emit_list(names, rows, stream, options(formatter, **values))
    return stream.getvalue()


def test_words_of_formats_without_types():
    row = ("a", Size(None), Flag(False), None)
    assert listed(ValueFormatter(), [row]) == "a null false null\n"
    assert listed(CSVFormatter(), [row], quote_mode="minimal").splitlines()[1] == "a,,false,"


CELLS = ('back\\slash "quoted", C:\\', "line\nbreak\r\nand\ttab", {"note": 'he said "hi"\nC:\\tmp'})


@pytest.mark.parametrize("mode", ["all", "minimal", "none", "nonnumeric"])
def test_csv_readers_get_what_the_server_sent(mode):
    text = listed(CSVFormatter(), [CELLS], NAMES[:3], quote_mode=mode)
    heads, (first, second, third) = csv.reader(io.StringIO(text, newline=""))
    assert (heads, first, second, json.loads(third)) == (list(NAMES[:3]), *CELLS)


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb"])
def test_a_row_in_the_value_format_is_one_line(text):
    assert listed(ValueFormatter(), [(text, text)], ("x", "y")) == "a\\nb a\\nb\n"
    stream, formatter = _Stream(), ValueFormatter()
    formatter.emit_one(("x", "y"), (text, 1), stream, options(formatter))
    assert stream.getvalue() == "a\\nb\n1\n"


@pytest.mark.parametrize("noindent", [True, False])
def test_json_has_null_for_infinity_and_nan(noindent):
    row = (float("inf"), {"a": [float("nan"), -1e999, 1.5]})
    expected = {"x": None, "y": {"a": [None, None, 1.5]}}
    assert json.loads(listed(JSONFormatter(), [row], "xy", noindent=noindent)) == [expected]
    stream, formatter = _Stream(), JSONFormatter()
    formatter.emit_one("xy", row, stream, options(formatter, noindent=noindent))
    assert json.loads(stream.getvalue()) == expected
    assert "Infinity" not in stream.getvalue()
    assert plain_text(list(row)) == '[null, {"a": [null, null, 1.5]}]'


def test_shell_values_are_quoted():
    stream = _Stream()
    shell = ShellFormatter()
    shell.emit_one(("a_name", "b"), ("$(id) 'x'", Flag(True)), stream, options(shell))
    assert stream.getvalue() == "a_name='$(id) '\"'\"'x'\"'\"''\nb=true\n"


ROWS = [
    ("a", 1, None, True, {"k": [1, {"x": "é\n"}], "e": {}}),
    ('quote " and \u2028', -1.5, "", False, []),
    ("", 0, "line\nbreak", None, [[], {}]),
]


@pytest.mark.parametrize("noindent", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("width", [0, 1, 5])
def test_json_row_by_row_is_cliffs_to_the_letter(noindent: bool, count: int, width: int):
    from cliff.formatters.json_format import JSONFormatter as CliffJSON

    names = ["name", "size", "note é", "public", "more"][:width]
    rows = [row[:width] for row in ROWS[:count]]
    arguments = argparse.Namespace(noindent=noindent)
    ours, theirs = _Stream(), _Stream()

    JSONFormatter().emit_list(names, iter(rows), ours, arguments)
    CliffJSON().emit_list(names, iter(rows), theirs, arguments)

    assert ours.getvalue() == theirs.getvalue()


def test_wide_letters_take_two_columns(monkeypatch):
    def shown(width, *cells):
        rows = [(cell, "active") for cell in cells]
        return table(width, monkeypatch, rows, ("name", "status"))[0]

    names = ["学習率の探索", "sweep lr"]
    assert "+--------------+--------+" in shown(25, *names)  # the frame just fits
    first, second = shown(24, *names).splitlines()[1:]
    assert first == "学習率の探索  active"
    assert second == "sweep lr      active"
    (line,) = shown(10, "e\u0301tude").splitlines()[1:]
    assert line == "e\u0301tude  active"


# ---------------------------------------------------------------------- what fits

WIDE = "tinker://run/weights/" + "x" * 40
TEXT_NAMES = ("name", "note", "user_metadata", "tinker_path")
TEXT_ROW = ("first", "a note of several words", None, WIDE)


def limited(width: int, names=TEXT_NAMES, row=TEXT_ROW, droppable=(), **values) -> list[str]:
    stream, formatter = _Stream(), TableFormatter()
    shown = Presentation(droppable=droppable)
    values |= {"max_width": width, "presentation": shown}
    formatter.emit_list(names, [row], stream, options(formatter, **values))
    return [*stream.getvalue().splitlines(), *shown.notes]


def test_max_width_hides_columns_until_the_rest_fits():
    assert limited(70, droppable=("user_metadata", "note", "name")) == [
        f"+{'-' * 63}+",
        f"| Path{' ' * 58}|",
        f"+{'-' * 63}+",
        f"| {WIDE} |",
        f"+{'-' * 63}+",
        # A hidden column without values is not missed.
        "Hidden (terminal too narrow): Name, Note; -f json shows all.",
    ]


@pytest.mark.parametrize(
    ("width", "note"),
    [(35, ["a note of several words"]), (27, ["a note of", "several words"]), (9, None)],
)
def test_max_width_wraps_texts_between_words_only(width, note):
    lines = limited(width, ("name", "note"), ("first", "a note of several words"))
    if note is None:  # no width for the longest words
        assert lines == ["Name   Note", "first  a note of several words"]
    else:
        assert [line[10:-2].rstrip() for line in lines[3:-1]] == note
        assert max(map(len, lines)) <= width


def test_max_width_wraps_the_values_of_one_object_between_words():
    stream, formatter = _Stream(), TableFormatter()
    row = ("a note of several words", "tinker://r/weights/x")
    formatter.emit_one(("note", "tinker_path"), row, stream, options(formatter, max_width=32))
    assert stream.getvalue().splitlines()[3:-1] == [
        "| Note  | a note of several    |",
        "|       | words                |",
        "| Path  | tinker://r/weights/x |",
    ]


def test_fit_width_is_the_width_of_the_terminal_off_a_terminal_too(monkeypatch):
    monkeypatch.setenv("COLUMNS", "27")
    names, row = ("name", "note"), ("first", "a note of several words")
    assert limited(0, names, row, fit_width=True) == limited(27, names, row)


SHORT = {"tinker_path": ("Name", lambda paths: [path[-5:] for path in paths])}


@pytest.mark.parametrize(
    ("width", "heads", "hidden"),
    [
        (100, "note | tinker_path", ""),
        (68, "tinker_path", "Note"),
        (40, "Name | Note", "Path"),
        (20, "Name", "Note, Path"),
    ],
)
def test_a_path_too_wide_for_the_table_is_shown_by_its_short_name(
    width, heads, hidden, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    stream, formatter = _Stream(terminal=True), TableFormatter()
    shown = Presentation(droppable=("note", "tinker_path"))
    shown.short = SHORT
    row = ("a note of words", WIDE)
    formatter.emit_list(TEXT_NAMES[1::2], [row], stream, options(formatter, presentation=shown))

    names = heads.replace("note", "Note").replace("tinker_path", "Path").split(" | ")
    assert stream.getvalue().splitlines()[1].strip("| ").split() == " | ".join(names).split()
    assert (WIDE in stream.getvalue()) == ("Path" in names)
    assert [note.split(": ")[1].split(";")[0] for note in shown.notes] == [hidden][: bool(hidden)]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.123456, 0.1235), (-3.0971999, -3.097), (123456.789, 123457), (0.0, 0), (1e-5, 1e-05)],
)
def test_numbers_are_rounded_in_tables_and_raw_elsewhere(value, shown):
    assert limited(0, ("loss",), (value,))[3] == f"| {shown:>4} |"
    assert listed(ValueFormatter(), [(value,)], ("loss",)) == f"{value}\n"


def test_yaml_is_in_the_order_of_json():
    names, row = ("b", "a"), (Size(1500), {"z": 1, "y": [Flag(True).machine_readable()]})
    assert listed(YAMLFormatter(), [row], names) == (
        "- b: 1500\n  a:\n    z: 1\n    y:\n    - true\n"
    )
    stream, formatter = _Stream(), YAMLFormatter()
    formatter.emit_one(names, row, stream, options(formatter))
    assert stream.getvalue() == "b: 1500\na:\n  z: 1\n  y:\n  - true\n"


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_headings_are_in_colour_on_a_terminal_that_has_colours(environ, monkeypatch):
    for name, value in {"COLUMNS": "80", "TERM": "xterm", **environ}.items():
        monkeypatch.setenv(name, value)
    stream, formatter = _Stream(terminal=True), TableFormatter()
    formatter.emit_list(("size_bytes", "is_lora"), [(1, "x")], stream, options(formatter))
    formatter.emit_one(("size_bytes", "is_lora"), ("|", "x"), stream, options(formatter))
    coloured = re.findall(r"\x1b\[1;36m(.*?)\x1b\[0m", stream.getvalue())
    assert coloured == ([] if environ else ["Size", "LoRA", "Field", "Size", "LoRA"])


# ---------------------------------------------------------------------- terminals and links


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
def test_colour_and_redrawing(monkeypatch, environment, terminal, colour, moves):
    for name in ("NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = _Stream(terminal=terminal)
    assert wants_colour(stream) is colour
    assert can_redraw(stream) is moves
    if terminal:
        assert console(stream).no_color is not colour


RUN = "0d3:train:0"
SAVED = {"checkpoint_id": "weights/0001", "checkpoint_type": "training"}
SAVED |= {"time": "2026-01-01T00:00:00Z", "tinker_path": f"tinker://{RUN}/weights/0001"}
INFO = {"training_run_id": RUN, "base_model": "m", "model_owner": "me", "is_lora": True}
INFO |= {"lora_rank": 32, "corrupted": False, "last_request_time": "2026-01-01T00:00:00Z"}
PAGE = "https://tinker.thinkingmachines.ai/training_runs/0d3%3Atrain%3A0"


def info(*words: str, terminal: bool = True, url: str = DEFAULT_BASE_URL, **environ: str) -> str:
    environ = {"TINKER_API_KEY": "tml-1", "TERM": "xterm", "TINKER_BASE_URL": url} | environ
    with responses.RequestsMock() as server:
        path = re.compile(f"{re.escape(url)}/api/v1/training_runs/.*")
        server.get(path, json=INFO | {"last_checkpoint": SAVED})
        done = invoke(["run", "info", RUN, *words], terminal=terminal, environ=environ)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("columns", ["200", "40"])
def test_the_run_is_a_link_and_its_paths_are_not(columns: str):
    linked = info(COLUMNS=columns)

    assert linked.count("\x1b]8;;") == 2
    assert f"\x1b]8;;{PAGE}\x1b\\{RUN}\x1b]8;;\x1b\\" in linked
    assert re.sub(r"\x1b]8;;.*?\x1b\\|\x1b\[[\d;]*m", "", linked) == info(
        COLUMNS=columns, NO_COLOR="1"
    )


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), {"terminal": False}),
        (("-f", "table"), {"terminal": False, "CLICOLOR_FORCE": "1"}),
        ((), {"NO_COLOR": "1"}),
        ((), {"TERM": "dumb"}),
        (("-f", "json"), {}),
        (("-f", "plain"), {}),
        ((), {"url": "https://elsewhere.example"}),
    ],
)
def test_no_link(words: tuple[str, ...], options: dict[str, str]):
    shown = info(*words, **options)

    assert "\x1b]" not in shown
    assert RUN in shown


# ---------------------------------------------------------------------- spooled output

TEXT = "tinker://run/weights/é\n\r\n\udc80\u2028" * 100_000


@pytest.mark.parametrize("text", [TEXT, "a\r\nb\n"])
def test_nothing_is_written_before_the_end(text):
    stdout = io.StringIO(newline="")
    with spooled(stdout) as stream:
        stream.write(text)
        assert stdout.getvalue() == ""
    assert stdout.getvalue() == text


def test_a_failure_writes_nothing():
    stdout = io.StringIO()
    with pytest.raises(ZeroDivisionError), spooled(stdout) as stream:
        stream.write(f"half of it {1 / 0}")
    assert stdout.getvalue() == ""


def test_a_full_disk_is_reported_and_nothing_written(monkeypatch):
    def full(**options):
        return open("/dev/full", "w+", encoding="utf-8", errors="surrogatepass")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    stdout = io.StringIO()
    with pytest.raises(LocalError, match="No space left on device"), spooled(stdout) as stream:
        stream.write(TEXT)
    assert stdout.getvalue() == ""
