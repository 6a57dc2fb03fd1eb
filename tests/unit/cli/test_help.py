"""What ``--help`` prints: short pages, in groups, with what is particular to a command first."""

from __future__ import annotations

import re

import pytest

from tinkex.cli.app import TinkexApp
from tinkex.testing import invoke

COMMANDS = sorted(TinkexApp().command_manager.commands)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def shown(*words: str) -> str:
    """Return what a terminal of 80 columns shows."""
    done = invoke(words, terminal=True, environ={"PAGER": "cat", "TERM": "dumb"})
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("words", "limit"),
    [("version", 15), ("checkpoint list", 45), *((name, 60) for name in COMMANDS)],
)
def test_the_help_of_a_command_is_short_and_80_columns_wide(words, limit):
    lines = shown(*words.split(), "--help").splitlines()
    assert len(lines) < limit
    assert [line for line in lines if len(line) > 80] == []


def test_the_options_of_a_command_come_first_and_the_others_are_one_line():
    text = shown("checkpoint", "list", "--help")
    assert text.startswith("usage: tinkex checkpoint list [options]\n\nList checkpoints.\n\n")
    assert text.index("  --limit <int>") < text.index("  -h, --help")
    pointer = "Output (-f, --json, …) and global options (--profile, …): tinkex help options"
    assert f"\n\n{pointer}\n\n" in text
    assert "--base-url" not in text
    assert "--noindent" not in text


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("run info", "tinkex run info [options] <run_id>"),
        ("help", "tinkex help [options] [<command>...]"),
        ("checkpoint publish", "tinkex checkpoint publish [options] <tinker_path>..."),
        ("config set", "tinkex config set [options] <setting> <value>"),
    ],
)
def test_the_usage_line_has_the_arguments(words, usage):
    assert shown(*words.split(), "--help").splitlines()[0] == f"usage: {usage}"


@pytest.mark.parametrize("words", ["complete", "help"])
def test_a_command_without_formats_points_to_the_global_options_only(words):
    assert "\nGlobal options (--profile, …): tinkex help options\n" in shown(words, "--help")


def test_help_options_has_the_options_that_many_commands_have():
    text = shown("help", "options")
    glossed = {
        option for line in text.splitlines() for option in re.findall(r"^  (--?\S+?),? ", line)
    }
    for name in TinkexApp().command_manager.commands:
        folded = (
            TinkexApp().command_manager.load(name)(TinkexApp(), None, name).get_parser(name).folded
        )
        options = {action.option_strings[0] for group in folded for action in group._group_actions}
        assert options <= glossed, name
    assert re.search(r"csv, json, .*shell, table,", " ".join(text.split()))
    for words in ("output formatter", "CSV Formatter", "whether to", "defaults to"):
        assert words not in text  # of cliff


def test_the_program_s_help_is_in_groups_with_one_line_for_each_command():
    lines = shown("--help").splitlines()
    headings = [line[:-1] for line in lines if re.fullmatch(r"[a-z]+:", line)]
    assert headings == [
        *("options", "checkpoints", "sampling", "runs", "account", "settings", "plugins", "others")
    ]
    group, heading = {}, ""
    for line in lines[lines.index("checkpoints:") :]:
        if line.endswith(":"):
            heading = line
        elif line:
            assert re.match("  [a-z]", line), "a summary is too long for one line"
            group[re.split(" {2,}", line)[1]] = heading
    assert sorted(group) == COMMANDS
    assert group["run list"] == "runs:"
    assert group["run"] == group["run batch"] == group["model list"] == "sampling:"
    assert group["local serve"] == group["plugin list"] == "plugins:"


@pytest.mark.parametrize("noun", ["checkpoint", "run", "config"])
def test_the_help_of_a_noun_lists_its_commands_with_a_line_for_each(noun):
    text = shown(noun, "--help")
    for name in COMMANDS:
        if name.startswith(f"{noun} "):
            assert re.search(rf"(?m)^  {name} +[A-Z]", text), name


def test_in_the_shell_help_names_lines_as_they_are_typed_there():
    done = invoke([], stdin="help version\nhelp options\n")
    assert "usage: version [options]" in done.stdout
    assert "(--profile, …): help options\n" in done.stdout
    assert "usage: <command> [options]" in done.stdout


@pytest.mark.parametrize(("no_color", "bold"), [("", "\x1b[1musage:\x1b[0m"), ("1", "usage:")])
def test_headings_of_help_are_bold_on_a_terminal_unless_no_color_is_set(no_color, bold):
    # Of the shell's lines, which no pager shows.
    environ = {"NO_COLOR": no_color, "CLICOLOR_FORCE": "1"}
    text = invoke([], stdin="help run info\n", environ=environ).stdout
    assert text.startswith(f"{bold} run info [options] <run_id>\n")
    assert ("\x1b[1marguments:\x1b[0m\n" in text) == (not no_color)
