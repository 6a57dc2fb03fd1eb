"""Tables on terminals of every width, and values of formats without types."""

from __future__ import annotations

import argparse

import pytest

from tinkex.cli.formatters import (
    CSVFormatter,
    JSONFormatter,
    ShellFormatter,
    TableFormatter,
    ValueFormatter,
)
from tinkex.columns import Flag, Size
from tinkex.testing import _Stream

PATH = "tinker://" + "x" * 60
NAMES = ("checkpoint_id", "size_bytes", "public", "tinker_path")
ROW = ("weights/a", Size(1500), Flag(True), PATH)


def options(formatter, **values) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    formatter.add_argument_group(parser)
    return argparse.Namespace(**vars(parser.parse_args([])) | {"columns": []} | values)


def table(width, monkeypatch, notes=None, **values):
    monkeypatch.setenv("COLUMNS", str(width))
    stream = _Stream(terminal=True)
    formatter = TableFormatter()
    droppable = ("public", "size_bytes", "checkpoint_id")
    parsed = options(
        formatter, droppable=droppable, note=([] if notes is None else notes).append, **values
    )
    formatter.emit_list(NAMES, [ROW], stream, parsed)
    return stream.getvalue()


@pytest.mark.parametrize("width", [10, 40, 72, 80, 90, 120, 200])
def test_path_is_whole_at_every_width_and_lines_fit_where_they_can(width, monkeypatch):
    notes: list[str] = []
    text = table(width, monkeypatch, notes)
    assert PATH in text
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width
    assert bool(notes) == ("1.5 kB" not in text or "yes" not in text)


def test_wide_terminal_shows_all_with_headings_in_words(monkeypatch):
    text = table(200, monkeypatch)
    assert "| Checkpoint | Size   | Public | Path " in text
    assert "| weights/a  | 1.5 kB | yes    | " in text


def test_chosen_columns_are_never_dropped(monkeypatch):
    assert "1.5 kB" in table(40, monkeypatch, columns=list(NAMES))


def test_too_wide_for_a_frame(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = _Stream(terminal=True)
    formatter = TableFormatter()
    formatter.emit_one(NAMES, ROW, stream, options(formatter))
    assert stream.getvalue().splitlines()[1:] == [
        "Size        1.5 kB",
        "Public      yes",
        f"Path        {PATH}",
    ]


def test_empty_list(monkeypatch):
    stream = _Stream()
    formatter = TableFormatter()
    formatter.emit_list(NAMES, [], stream, options(formatter))
    assert stream.getvalue().strip() == ""


def test_empty_list_is_said_and_lacks_no_columns(monkeypatch):
    stream, said = _Stream(), []
    formatter = TableFormatter()
    chosen = options(formatter)
    chosen.note, chosen.droppable, chosen.nothing = said.append, NAMES, "There are none."
    monkeypatch.setenv("COLUMNS", "10")
    formatter.emit_list(NAMES, [], stream, chosen)
    assert (stream.getvalue(), said) == ("", ["There are none."])
    chosen.print_empty = True
    formatter.emit_list(NAMES, [], stream, chosen)
    assert "+--" in stream.getvalue()


def test_escape_sequences_stay_out_of_tables(monkeypatch):
    stream = _Stream()
    formatter = TableFormatter()
    formatter.emit_list(("name",), [("\x1b[31mred",)], stream, options(formatter))
    assert "\x1b" not in stream.getvalue()


def test_words_of_formats_without_types():
    stream = _Stream()
    formatter = ValueFormatter()
    formatter.emit_list(NAMES, [("a", Size(None), Flag(False), None)], stream, options(formatter))
    assert stream.getvalue() == "a null false null\n"
    stream = _Stream()
    csv = CSVFormatter()
    csv.emit_list(
        NAMES, [("a", Size(1), Flag(False), None)], stream, options(csv, quote_mode="minimal")
    )
    assert stream.getvalue().splitlines()[1] == "a,1,false,"


def test_shell_values_are_quoted():
    stream = _Stream()
    shell = ShellFormatter()
    shell.emit_one(("a_name", "b"), ("$(id) 'x'", Flag(True)), stream, options(shell))
    assert stream.getvalue() == "a_name='$(id) '\"'\"'x'\"'\"''\nb=true\n"


def test_the_table_has_the_options_of_cliffs_with_the_same_defaults():
    from cliff.formatters.table import TableFormatter as CliffTable

    def options(formatter: object) -> list[tuple[object, ...]]:
        parser = argparse.ArgumentParser(add_help=False)
        formatter.add_argument_group(parser)
        return [(a.option_strings, a.dest, a.default, a.type, a.nargs) for a in parser._actions]

    assert options(TableFormatter()) == options(CliffTable())


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


def shown(rows, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    stream = _Stream(terminal=True)
    TableFormatter().emit_list(("name", "status"), rows, stream, options(TableFormatter()))
    return stream.getvalue()


def test_wide_letters_count_as_the_two_places_that_they_take(monkeypatch):
    names = ["学習率の探索", "sweep lr"]
    rows = [(name, "active") for name in names]
    assert "+--------------+--------+" in shown(rows, 25, monkeypatch)  # the frame just fits
    first, second = shown(rows, 24, monkeypatch).splitlines()[1:]
    assert first == "学習率の探索  active"
    assert second == "sweep lr      active"
    (line,) = shown([("e\u0301tude", "active")], 10, monkeypatch).splitlines()[1:]
    assert line == "e\u0301tude  active"
