"""How the interactive shell reads a line."""

from __future__ import annotations

import shlex

import pytest

from tinkex.cli.lines import Line, commands, is_continued, parse, unfinished
from tinkex.exceptions import UsageError


@pytest.mark.parametrize(
    "text",
    [
        "run list",
        "  run   list  ",
        "run --prompt 'a b'",
        "run --prompt \"a 'b' c\"",
        r'run --prompt "a \"b\" c \\ \n"',
        r"run --prompt a\ b\'c",
        "a''b",
        "''",
        'x"y"z',
        "",
    ],
)
def test_words_are_those_of_the_standard_library(text):
    assert parse(text) == Line(shlex.split(text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a b # c | d > e", Line(["a", "b"])),
        ("a b#c", Line(["a", "b#c"])),
        ("# all", Line([])),
        ("a 'x | y > z'", Line(["a", "x | y > z"])),
        (r"a x\|y \> z", Line(["a", "x|y", ">", "z"])),
        ("a | head -3 | wc -l", Line(["a"], pipe="head -3 | wc -l")),
        ("a|grep 'x y'", Line(["a"], pipe="grep 'x y'")),
        ("a > f", Line(["a"], target="f")),
        ("a>f b", Line(["a", "b"], target="f")),
        ("a >> 'my file'", Line(["a"], target="my file", append=True)),
        ("a 2 > f", Line(["a", "2"], target="f")),
        ("a $HOME *", Line(["a", "$HOME", "*"])),
    ],
)
def test_operators_count_outside_of_quotes(text, line):
    assert parse(text) == line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run \\\n  --prompt a \\\n\\\n  -q", ["run", "--prompt", "a", "-q"]),
        ("run --pro\\\nmpt 'a \\\nb' \"c\\\nd\"", ["run", "--prompt", "a \\\nb", "cd"]),
        ("run 'a\nb'", ["run", "a\nb"]),
    ],
)
def test_a_backslash_joins_the_next_line(text, words):
    assert parse(text) == Line(words)
    assert list(commands(text)) == [text]


@pytest.mark.parametrize(
    ("text", "continued"),
    [
        *[("run \\", True), ("run a\\", True), ('run "a\\', True), ("\\", True)],
        *[
            ("run", False),
            ("run \\\\", False),
            ("run 'a\\", False),
            ("run # \\", False),
            ("", False),
        ],
    ],
)
def test_a_line_goes_on_behind_a_backslash(text, continued):
    assert is_continued(text) is continued


def test_several_commands_in_one_text():
    text = "# all\nversion # one \\\ntinkex run list \\\n --json\n\n model list | head \\\n -1\n"
    found = [parse(command) for command in commands(text)]
    assert [line.words for line in found if line.words] == [
        ["version"],
        ["tinkex", "run", "list", "--json"],
        ["model", "list"],
    ]
    assert found[-1].pipe == "head \\\n -1"


@pytest.mark.parametrize(
    "text",
    [
        *["'a", 'a "b', "a > 'b", "|", "| wc", "a |", "a || b", "a |& b", "> f", "a >"],
        *["a > | wc", "a > f > g", "a > f | wc", "a 2> f", "a 2>> f", "a >&2", "a > ''"],
    ],
)
def test_what_cannot_be_read_is_an_error(text):
    with pytest.raises(UsageError, match="Cannot read the line"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "words", "current", "start", "after"),
    [
        ("", [], "", 0, ""),
        ("run", [], "run", 0, ""),
        ("run ", ["run"], "", 4, ""),
        ("run 'a b", ["run"], "a b", 4, ""),
        ("run 'a b' --x", ["run", "a b"], "--x", 10, ""),
        ("run | he", [], "", 8, "|"),
        ("run > fi", [], "fi", 6, ">"),
        ("run # x", ["run"], "", 7, ""),
    ],
)
def test_a_line_up_to_the_cursor(text, words, current, start, after):
    found = unfinished(text)
    assert (found.words, found.current, found.start, found.after) == (words, current, start, after)
