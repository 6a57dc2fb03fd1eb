"""The interactive shell: how it reads a line, runs scripts, and keeps its history."""

from __future__ import annotations

import json
import shlex
import stat
from pathlib import Path

import pytest

from tinkex.cli.repl import (
    Line,
    continuation,
    continuation_prompt,
    holds_secret,
    load_history,
    parse,
    save_line,
    unfinished,
)
from tinkex.exceptions import UsageError
from tinkex.testing import invoke


@pytest.mark.parametrize(
    "text",
    [
        *("run list", "  run   list  ", "run --prompt 'a b'", "run --prompt \"a 'b' c\""),
        *(r'run --prompt "a \"b\" c \\ \n"', r"run --prompt a\ b\'c", "a''b", "''", 'x"y"z', ""),
    ],
)
def test_words_are_split_as_by_shlex(text):
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
def test_operators_work_outside_of_quotes(text, line):
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


@pytest.mark.parametrize(
    ("text", "by"),
    [
        *[("run \\", "\\"), ("run a\\", "\\"), ('run "a\\', "\\"), ("\\", "\\")],
        *[("run 'a", "'"), ("run 'a\\", "'"), ('run "a', '"')],
        *[("run", ""), ("run \\\\", ""), ("run # \\", ""), ("run # don't", ""), ("", "")],
    ],
)
def test_a_backslash_or_an_open_quote_continues_a_line(text, by):
    assert continuation(text) == by


@pytest.mark.parametrize(("line", "prompt"), [(1, "'> "), (2, "'> "), (3, "\\> "), (4, "> ")])
def test_the_prompt_of_a_further_line_shows_what_it_continues(line, prompt):
    assert continuation_prompt("run 'a\nb\nc' \\\nd\ne", line) == prompt


@pytest.mark.parametrize(
    "text",
    [
        *["'a", 'a "b', "a > 'b", "|", "| wc", "a |", "a || b", "a |& b", "> f", "a >"],
        *["a > | wc", "a > f > g", "a > f | wc", "a 2> f", "a 2>> f", "a >&2", "a > ''"],
    ],
)
def test_lines_that_cannot_be_read(text):
    with pytest.raises(UsageError, match="Cannot parse the line"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("run --prompt don't", 'an apostrophe in double quotes: "don\'t"'),
        ('run --prompt 7" wide', "a double quote in single quotes"),
        ("run list > 'runs", "an apostrophe in double quotes"),
        ("run list |", "For example: run list | head"),
        ("run list 2> log", "use --log-file"),
    ],
)
def test_the_hint_for_a_line_works_when_followed(text, hint):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert hint in str(caught.value.hint)


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


# ---------------------------------------------------------------------- scripts


def script(text: str, *argv: str):
    return invoke(list(argv), stdin=text)


def test_a_script_stops_at_its_first_failure_or_keeps_going():
    text = "version\nnope\nversion\n"
    done = script(text)
    assert (done.exit_code, done.stdout.count("tinkex 0.")) == (1, 1)
    done = script(text, "--keep-going")
    assert (done.exit_code, done.stdout.count("tinkex 0.")) == (1, 2)
    assert script("version\n", "--keep-going").exit_code == 0


def test_lines_of_a_script_as_editors_write_them():
    for text in (
        "\ufeffversion\n",
        "version\r\n",
        "tinkex version \\\n  --json \\\n  -c version",
        "version \\\r\n  --json\r\n",
        "version \\",
        "version -c 'version\n' --json",
    ):
        done = script(text)
        assert (done.exit_code, done.stderr) == (0, ""), done
        assert "0." in done.stdout


@pytest.mark.parametrize(
    ("text", "argv", "lines"),
    [
        ("version\nnope\nnope\n", [], [2]),
        ("\n# a comment\nrun list\n", [], [3]),
        ("version \\\n  --json\nversion -c 'a\nb'\nversion", [], [3]),
        ("nope\nversion | false\nversion\nnope -q\n", ["--keep-going"], [1, 2, 4]),
    ],
)
def test_a_failing_line_of_a_script_is_named_by_its_number(text, argv, lines):
    said = [line for line in script(text, *argv).stderr.splitlines() if line[:5] == "Line "]
    assert said == [f"Line {number} of the script failed." for number in lines]


def test_an_error_of_a_script_as_json_is_one_object():
    assert json.loads(script("nope -f json\n").stderr)["error"]["category"] == "user"


def test_keep_going_needs_a_script():
    done = invoke(["--keep-going", "version"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--keep-going requires a script" in done.stderr


def test_output_goes_to_a_file(tmp_path: Path):
    target = tmp_path / "a file"
    done = script(f"version > '{target}'\nversion --json >> '{target}'\n")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert target.read_text().startswith("tinkex 0.")
    assert target.read_text().endswith("}\n")


def test_a_failing_command_leaves_the_file_as_it_was(tmp_path: Path):
    target = tmp_path / "file"
    target.write_text("kept")
    assert script(f"run list > {target}\n").exit_code == 1
    assert target.read_text() == "kept"
    done = script(f"version > {tmp_path}\n")
    assert done.exit_code == 1
    assert "is a directory" in done.stderr
    assert script("version > /dev/null\n").exit_code == 0


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("config show | head -2 | cut -f1", "profile\nbase_url\n"),
        ("config show -c name -f csv | grep 'base.url'", '"base_url"\n'),
        ("version | sed \"s/^tinkex.*/a 'b' | c/\"", "a 'b' | c\n"),
    ],
)
def test_output_goes_through_a_pipe(line, printed, capfd):
    assert script(f"{line}\n").exit_code == 0
    assert capfd.readouterr().out == printed


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("version | false", 1),
        ("version | exit 7", 7),
        ("run list | cat", 1),
        ("help | true", 0),
        ("version | no-such-program 2>/dev/null", 127),
    ],
)
def test_the_exit_code_of_a_pipe(line, code):
    assert script(line + "\nversion\n").exit_code == code


def test_profile_use(config, monkeypatch):
    config("profiles: {a: {base_url: 'http://127.0.0.1:1'}, b: {base_url: 'http://127.0.0.1:2'}}")
    lines = "profile use a\nconfig show -f value\nprofile use b\nconfig show -f value\n"
    done = script(lines, "--base-url", "http://127.0.0.1:9", "--api-key", "secret-of-9")
    assert done.exit_code == 0
    assert "http://127.0.0.1:1 " in done.stdout
    assert "http://127.0.0.1:2 " in done.stdout
    # What was meant for the first server is not sent to another.
    assert "127.0.0.1:9" not in done.stdout
    assert "--api-key" not in done.stdout


@pytest.mark.parametrize(
    ("line", "what"),
    [("profile use nope", "no profile named 'nope'"), ("profile use", "one profile name")],
)
def test_faults_of_profile_use(line, what):
    done = script(f"{line}\n")
    assert (done.exit_code, done.stdout) == (1, "")
    assert what in done.stderr


def test_commands_of_a_script_do_not_read_the_script():
    done = script("run --base-model m --prompt-file -\nversion\n", "--keep-going")
    assert "the prompt is empty" in done.stderr
    assert done.stdout.startswith("tinkex 0.")


def test_quiet_holds_for_its_line_only():
    done = script("plugin list -q\nplugin list\n")
    assert done.exit_code == 0
    assert "local" in done.stdout or "No plugins" in done.stderr


def test_help_shows_what_only_the_shell_has():
    assert "profile use <name>" in script("help\n").stdout
    assert "profile use <name>" not in invoke(["help"]).stdout


def test_history_is_private_and_without_secrets(tmp_path: Path):
    path = tmp_path / "state" / "history"
    for line in ("run list", "run list --api-key tml-abcdefgh", " hidden", "run info tml-abcdefgh"):
        save_line(path, line)
    save_line(path, "run list \\\n  --api-\\\nkey x")
    save_line(path, "version \\\n--json")
    assert path.read_text() == "run list\nversion --json\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_history(path) == ["run list", "version --json"]


@pytest.mark.parametrize("line", ["run --api-'key' x", "--api\\-key=x run", "echo eyJhbGciOiJI.x"])
def test_quotes_do_not_hide_a_secret(line):
    assert holds_secret(line)
    assert not holds_secret("run --max-tokens 5 --prompt 'once upon a time' | wc")


def test_history_is_cut_and_survives_damage(tmp_path: Path):
    path = tmp_path / "state" / "history"
    save_line(path, "version")
    path.write_bytes(b"\xff\xfe\n" + b"line\n" * 5000)
    assert len(load_history(path)) == 1000
    assert len(path.read_text().splitlines()) == 1000
    (tmp_path / "dir").mkdir()
    save_line(tmp_path / "dir", "version")
    assert load_history(tmp_path / "dir") == []
