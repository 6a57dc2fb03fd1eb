"""The command line as a whole, without a server."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinkex
from tinkex.exceptions import TinkexError, UsageError
from tinkex.testing import invoke


def test_help_lists_every_command():
    done = invoke(["--help"])
    assert done.exit_code == 0
    for name in ("checkpoint delete", "run list", "version", "config show", "plugin list"):
        assert f"\n  {name} " in done.stdout
    assert invoke(["help"]).stdout == done.stdout
    assert invoke(["-h"]).stdout == done.stdout


@pytest.mark.parametrize(
    "argv", [["checkpoint", "--help"], ["help", "checkpoint"], ["-h", "checkpoint"]]
)
def test_help_of_a_command_that_is_a_noun_too(argv):
    done = invoke(argv)
    assert done.exit_code == 0
    assert "--base-model" in done.stdout
    assert "tinkex checkpoint delete" in done.stdout


@pytest.mark.parametrize("argv", [["help", "config"], ["config", "--help"]])
def test_help_of_a_noun_that_is_no_command(argv):
    done = invoke(argv)
    assert (done.exit_code, done.stdout[:9]) == (0, "commands:")
    assert "config show" in done.stdout


@pytest.mark.parametrize(
    ("argv", "line", "hint"),
    [
        (["chekpoint"], "'chekpoint' is not a tinkex command.", "tinkex checkpoint"),
        (["run", "lst"], "'run lst' is not a tinkex command.", "tinkex run list"),
        (["checkpoint", "de"], "'checkpoint de' is not a tinkex command.", "tinkex checkpoint"),
        (["config"], "'config' is not a tinkex command.", "config set, config show"),
        (
            ["checkpoint", "--invalid-flag"],
            "Invalid option(s) for checkpoint: --invalid-flag",
            None,
        ),
        (["run", "list", "--limt", "3"], "Invalid option(s) for run list: --limt", "--limit"),
        (["--nope", "run"], "Invalid option(s) for tinkex: --nope", None),
        (["run", "list", "--lim", "3"], "Invalid option(s) for run list: --lim", "--limit"),
    ],
)
def test_unknown_commands_and_options(argv, line, hint):
    done = invoke(argv)
    assert done.exit_code == 1
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first == line
    assert second.startswith("Hint: ")
    assert hint is None or hint in second


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["run", "list", "--limit", "x"], "argument --limit: not a whole number: 'x'"),
        (["run", "list", "--limit", "-1"], "argument --limit: must be at least 0, not -1"),
        (
            ["run", "list", "--limit", "9" * 30],
            "argument --limit: must be at most 9223372036854775807",
        ),
        (["run", "list", "--offset"], "argument --offset: expected one argument"),
        (["run", "list", "--limit", "3", "--limit", "4"], "--limit is given twice"),
        (["run", "list", "--timeout", "0"], "argument --timeout: not a timeout: '0'"),
        (["run", "list", "-f", "xml"], "invalid choice: 'xml'"),
        (["run", "watch", "r", "--interval", "0.5"], "argument --interval: must be at least 1s"),
        (["run", "wait", "r", "--interval", "1ms"], "argument --interval: not a duration"),
        (
            ["checkpoint", "sync", "r", "d", "--watch", "--interval", "0.001"],
            "argument --interval: must be at least 1s",
        ),
        (["run", "info"], "the following arguments are required: <run_id>"),
        (["run", "info", "a", "b"], "unexpected argument(s) for run info: b"),
        (["checkpoint", "list"], "Missing --api-key"),
        (["checkpoint", "list", "--api-key", "@~nosuchuser/x"], "no such home directory"),
        (["checkpoint", "list", "--api-key", "-"], "no API key in standard input"),
        (["checkpoint", "list", "--api-key", ""], "Missing --api-key"),
        (["config", "show", "--sort-column", "nope"], "no column is called 'nope'"),
        (["config", "show", "--log-file", ""], "name of a file or directory is empty"),
        (["checkpoint", "info", "tinker://a/weights/b"], "Missing --api-key"),
        (["checkpoint", "delete"], "use either checkpoint paths or filters"),
        (["checkpoint", "delete", "tinker://x"], "not a checkpoint path: 'tinker://x'"),
    ],
)
def test_faults_of_the_command_line(argv, what):
    done = invoke(argv)
    assert done.exit_code == 1
    assert done.stdout == ""
    name = " ".join(argv[:2]).capitalize()
    assert done.stderr.startswith(f"{name} failed. Please check your inputs: ")
    assert what in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        ([], "--base-model or --model-path is required for checkpoint command"),
        (["--base-model", "m"], "--output is required for checkpoint command"),
        (["--base-model", "m", "--model-path", "p", "--output", "o"], "use either"),
        (["--base-model", "m", "--output", "/"], "it is a directory"),
        (["--base-model", "m", "--output", "o", "--name", "a/b"], "not a checkpoint name"),
        (["--base-model", "m", "--output", "o", "--rank", "0"], "must be at least 1, not 0"),
        (["--base-model", "m", "--output", "o"], "Missing --api-key"),
        (["--model-path", "no/such", "--output", "o"], "does not exist"),
    ],
)
def test_faults_of_save(argv, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(["checkpoint", *argv])
    assert (done.exit_code, done.stdout) == (1, "")
    first = done.stderr.splitlines()[0]
    assert first.startswith("Checkpoint failed. Please check your inputs: ")
    assert what in first
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        ([], "--base-model or --model-path is required for run command"),
        (["--base-model", "m"], "--prompt or --prompt-file is required for run command"),
        (
            ["--base-model", "m", "--prompt", "x", "--prompt-file", "y"],
            "use either --prompt or --prompt-file",
        ),
        (["--base-model", "m", "--prompt", ""], "the prompt is empty"),
        (["--base-model", "m", "--prompt-file", "none"], "No such file"),
        (["--base-model", "m", "--prompt-file", "~nosuchuser/x"], "no such home directory"),
        (["--base-model", "m", "--prompt-file", "a\0b"], "NUL"),
        (["--base-model", "m", "--prompt", "x", "--temperature", "1e400"], "a finite number"),
        (["--base-model", "m", "--prompt", "x", "--output", ""], "is empty"),
        (["--model-path", "~nosuchuser/x", "--prompt", "x"], "no such home directory"),
        (["--base-model", "m", "--prompt", "x", "--temperature", "nan"], "must be at least 0"),
        (["--base-model", "m", "--prompt", "x", "--top-p", "0"], "must be above 0"),
        (["--base-model", "m", "--prompt", "x", "--top-p", "1.1"], "at most 1"),
        (["--base-model", "m", "--prompt", "x", "--top-k", "0"], "must be -1 (off)"),
        (["--base-model", "m", "--prompt", "x", "--max-tokens", "0"], "must be at least 1, not 0"),
        (["--base-model", "m", "--prompt", "x", "--num-samples", "0"], "must be at least 1, not 0"),
        (
            ["--base-model", "m", "--prompt", "x", "--stop", ""],
            "argument --stop: must not be empty",
        ),
        (["--base-model", "m", "--prompt", "x", "--output", "/"], "it is a directory"),
        (["--base-model", "m", "--prompt", "x"], "Missing --api-key"),
    ],
)
def test_faults_of_sampling(argv, what):
    done = invoke(["run", *argv])
    assert (done.exit_code, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Sampling failed. Please check your inputs: ")
    assert what in lines[0]


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "list", "--json"],
        ["--json", "run", "list"],
        ["-f", "json", "run", "list"],
        ["run", "list", "-f", "json"],
        ["run", "--json", "--base-model", "m", "--prompt", "x"],
        ["run", "list", "--json", "--limit", "x"],
        ["run", "list", "--format=json", "--nope"],
    ],
)
def test_errors_are_json_where_json_was_chosen(argv):
    done = invoke(argv)
    assert (done.exit_code, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    error = json.loads(last)["error"]
    assert set(error) == {"category", "message", "hint", "status", "request_id"}
    assert error["category"] == "user"


def test_errors_are_json_where_the_environment_says_json(monkeypatch):
    monkeypatch.setenv("TINKEX_FORMAT", "json")
    assert "error" in json.loads(invoke(["run", "list"]).stderr)


def test_global_options_before_and_after_the_command():
    for argv in (
        ["--base-url", "http://127.0.0.1:1", "config", "show", "-f", "json"],
        ["config", "show", "--base-url", "http://127.0.0.1:1", "-f", "json"],
        [
            "--base-url",
            "http://x.example",
            "config",
            "show",
            "--base-url",
            "http://127.0.0.1:1",
            "--json",
        ],
    ):
        rows = {row["name"]: row for row in invoke(argv).rows}
        assert rows["base_url"] == {
            "name": "base_url",
            "value": "http://127.0.0.1:1",
            "origin": "--base-url",
            "variable": "TINKER_BASE_URL",
            "description": "address of the service",
        }


def test_option_value_that_looks_like_a_global_option():
    done = invoke(["run", "--base-model", "m", "--prompt=--version"])
    assert "Missing --api-key" in done.stderr


def test_formats(monkeypatch):
    assert invoke(["version", "-f", "json"]).rows.keys() == {"version", "commit"}
    assert invoke(["version"]).stdout.startswith("tinkex 0.")
    assert invoke(["version"], terminal=True).stdout.startswith("tinkex 0.")
    assert invoke(["config", "show"]).stdout.startswith("profile\t")
    assert invoke(["config", "show"], terminal=True).stdout.startswith("+--")
    assert invoke(["version", "-f", "value", "-c", "version"]).stdout == f"{tinkex.__version__}\n"
    monkeypatch.setenv("TINKEX_FORMAT", "yaml")
    shown = invoke(["config", "show"], terminal=True).stdout
    assert shown.startswith("- description: default profile")
    assert invoke(["config", "show", "-f", "csv"]).stdout.startswith('"name","value"')
    monkeypatch.setenv("TINKEX_FORMAT", "csv")  # which one object has not
    assert invoke(["version"]).stdout.startswith("tinkex 0.")
    monkeypatch.setenv("TINKEX_FORMAT", "xml")
    assert "no format is called 'xml' (from TINKEX_FORMAT)" in invoke(["version"]).stderr


@pytest.mark.parametrize("column", ["origin", "Origin", "ORIGIN", "Origin,value"])
def test_sort_column_takes_what_column_takes(column):
    words = ["config", "show", "--sort-column", column, "-f", "value", "-c", "name"]
    done = invoke(words, environ={"TINKER_TAGS": "x"})
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "tags"  # of TINKER_TAGS, all others of "default"


def test_columns():
    assert invoke(["config", "show", "-c", "Name"]).stdout.splitlines()[0] == "profile"
    several = invoke(["config", "show", "-c", "name, Origin", "-f", "csv"])
    assert several.stdout.splitlines()[0] == '"name","origin"'
    done = invoke(["config", "show", "-c", "name,nope", "-c", "name"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no column is called 'nope'" in done.stderr


def test_shell_format_is_safe_to_eval(monkeypatch, config):
    config("profiles: {p: {}}")
    done = invoke(["version", "-f", "shell", "--prefix", "T_"])
    assert (
        done.stdout == f"T_version={tinkex.__version__}\nT_commit=''\n"
        or "T_commit=" in done.stdout
    )


def test_log_file(tmp_path):
    done = invoke(["version", "--log-file", str(tmp_path / "no" / "log")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cannot write the log file" in done.stderr
    assert invoke(["version", "--log-file", str(tmp_path / "log")]).exit_code == 0
    assert logging.getLogger("tinkex").handlers == []


def test_debug_shows_a_traceback_and_else_there_is_none():
    assert "Traceback" not in invoke(["run", "list"]).stderr
    assert "Traceback" in invoke(["run", "list", "--debug"]).stderr


def test_quiet_says_nothing_but_errors():
    assert "No plugins" in invoke(["plugin", "list"]).stderr or invoke(["plugin", "list"]).stdout
    assert invoke(["plugin", "list", "-q"]).stderr == ""
    assert "Missing" in invoke(["run", "list", "-q"]).stderr


def test_options_inside_the_name_of_a_command():
    done = invoke(["checkpoint", "--api-key", "k", "list"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "options follow the whole command: tinkex checkpoint list" in done.stderr


def test_json_before_the_command_is_json_behind_it():
    assert invoke(["--json", "version"]).stdout == invoke(["version", "--json"]).stdout
    argv = ["run", "--base-model", "m", "--prompt", "x"]
    assert invoke(["--json", *argv]).stderr == invoke([*argv, "--json"]).stderr


def test_the_key_and_the_prompt_cannot_both_be_standard_input():
    argv = ["run", "--base-model", "m", "--prompt-file", "-", "--api-key", "-"]
    assert "not both" in invoke(argv, stdin="x").stderr


def test_two_dashes_end_the_options():
    assert invoke(["--", "version"]).stdout.startswith("tinkex 0.")
    assert invoke(["config", "show", "--"]).exit_code == 0


def test_help_of_what_is_no_command():
    done = invoke(["help", "run", "lst"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "'run lst' is not a tinkex command." in done.stderr


@pytest.mark.parametrize(
    "argv", [["run", "lst"], ["run", "list", "--nope"], ["checkpoint", "list"]]
)
def test_usage_errors_are_json_where_the_environment_says_json(monkeypatch, argv):
    monkeypatch.setenv("TINKEX_FORMAT", "json")
    assert set(json.loads(invoke(argv).stderr)) == {"error"}


def test_script_on_stdin_stops_at_the_first_failure():
    done = invoke([], stdin="version\n# comment\n\ntinkex version\nnope\nversion\n")
    assert done.stdout.count("tinkex 0.") == 2
    assert done.exit_code == 1
    assert invoke([], stdin="version\nexit\nnope\n").exit_code == 0


def test_options_of_the_shell_hold_for_its_lines():
    script = (
        "config show --json\nconfig show --json --base-url http://127.0.0.1:2\nconfig show --json\n"
    )
    done = invoke(["--base-url", "http://127.0.0.1:1"], stdin=script)
    urls = [line.split('"')[3] for line in done.stdout.splitlines() if '"value": "http' in line]
    assert urls == ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:1"]


def test_script_quotes_as_a_shell_does():
    done = invoke([], stdin="run --base-model m --prompt 'a | b > c'\n")
    assert "Missing --api-key" in done.stderr
    done = invoke([], stdin="run --prompt 'open\n")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "No closing quotation" in done.stderr


def test_run_from_python(capsys):
    handlers = logging.getLogger().handlers[:]
    done = tinkex.run(["version", "--json"])
    assert done.command == "version"
    assert done.value["version"] == tinkex.__version__
    assert json.loads(done.stdout) == done.value
    with pytest.raises(UsageError, match="Invalid option"):
        tinkex.run(["run", "--nope"])
    with pytest.raises(TinkexError, match="Missing --api-key"):
        tinkex.run(["checkpoint", "list"])
    assert tinkex.run(["run", "--help"]).stdout.startswith("usage: tinkex run")
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("tinkex").handlers == []


def test_run_from_python_takes_words_and_paths(tmp_path):
    log = tmp_path / "log"
    assert tinkex.run(("config", "show", "--log-file", log)).command == "config show"
    assert log.exists()
    for argv in ("run list", b"run list", ["run", "list", "--limit", 5], [None]):
        with pytest.raises(UsageError, match=r"list of words|is a text, not") as caught:
            tinkex.run(argv)
        assert caught.value.hint


def test_completion_offers_commands_below_a_command():
    offered = invoke(["complete", "--line", "tinkex checkpoint "]).stdout.splitlines()
    names = ("copy", "delete", "download", "info", "list", "prune", "publish")
    names += ("push-hf", "set-ttl", "sync", "unpublish", "verify")
    assert offered == ["words", *names]
    assert "checkpoint_list" not in invoke(["complete", "--line", "tinkex "]).stdout
    assert "complete -F _tinkex tinkex" in invoke(["complete"]).stdout
    assert "#compdef tinkex" in invoke(["complete", "--shell", "zsh"]).stdout
    assert "complete -c tinkex" in invoke(["complete", "--shell", "fish"]).stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["checkpoint", ""], "delete"),
        (["--profile", "local", "checkp"], "checkpoint"),
        (["run", "list", "--lim"], "--limit"),
        (["--base-url=http://x", "run", "in"], "info"),
        (["checkpoint", "list", "--form"], "--format"),
    ],
)
def test_completion_in_a_real_bash(tmp_path, words, offered):
    (tmp_path / "complete.bash").write_text(invoke(["complete"]).stdout)
    line = " ".join(f'"{word}"' for word in ["tinkex", *words])
    code = f"source {tmp_path}/complete.bash; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _tinkex"
    done = subprocess.run(
        ["bash", "-c", code + '; printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True,
        text=True,
        check=True,
        # The script asks the program that is being completed.
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert offered in done.stdout.split()
    assert done.stderr == ""


def test_help_fits_the_terminal_and_is_a_line_a_command_elsewhere(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    whole = invoke(["help", "session"], terminal=True).stdout
    assert max(map(len, whole.splitlines())) <= 80
    lines = invoke(["help", "session"]).stdout.splitlines()
    assert len([line for line in lines if line.startswith("  session ")]) == 4
    assert all(line.startswith("  session ") for line in lines[1:])
