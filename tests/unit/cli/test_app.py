"""The application: help, usage errors, formats, columns, and command lines from Python."""

from __future__ import annotations

import json
import logging
import shlex

import pytest

import tinkex
from tests.serving import Reply, serving
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
    assert "\n  checkpoint delete " in done.stdout


@pytest.mark.parametrize("argv", [["help", "config"], ["config", "--help"]])
def test_help_of_a_noun_without_a_command(argv):
    done = invoke(argv)
    assert (done.exit_code, done.stdout[:9]) == (0, "commands:")
    assert "config show" in done.stdout


def test_help_fits_the_terminal_and_is_a_line_a_command_elsewhere(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    whole = invoke(["help", "session"], terminal=True).stdout
    assert max(map(len, whole.splitlines())) <= 80
    lines = invoke(["help", "session"]).stdout.splitlines()
    assert len([line for line in lines if line.startswith("  session ")]) == 4
    assert all(line.startswith("  session ") for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "line", "hint"),
    [
        ("checkpoint de", "'checkpoint de' is not a tinkex command.", "tinkex checkpoint delete"),
        ("config", "'config' is not a tinkex command.", "config set, config show"),
        ("help run lst", "'run lst' is not a tinkex command.", "run list"),
        ("checkpoint --invalid-flag", "Invalid option(s) for checkpoint: --invalid-flag", "See"),
        ("run list --lim 3", "Invalid option(s) for run list: --lim", "Did you mean --limit?"),
        (
            "checkpoint export x -o y --base-model m",
            "Invalid option(s) for",
            "Did you mean --base?",
        ),
        ("help run lst", "'run lst' is not a tinkex command.", "tinkex run list"),
        (
            "--nope run",
            "Invalid option(s) for tinkex: --nope",
            "Put command options after the command",
        ),
    ],
)
def test_unknown_commands_and_options(words, line, hint):
    done = invoke(words.split())
    assert (done.exit_code, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(line)
    assert second.startswith("Hint: ")
    assert hint in second


#: What the commands that are nouns call what they do.
NOUNS = {"checkpoint": "Checkpoint", "run": "Sampling"}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("run list --limit x", "argument --limit: not a whole number: 'x'"),
        ("run list --limit -1", "argument --limit: must be at least 0, not -1"),
        ("run list --offset", "argument --offset: expected one argument"),
        ("run list --limit 3 --limit 4", "--limit is given twice"),
        ("run list --timeout 0", "argument --timeout: not a timeout: '0'"),
        ("run list -f xml", "invalid choice: 'xml'"),
        ("run wait r --interval 1ms", "argument --interval: not a duration"),
        (
            "checkpoint --api-key k list",
            "options must follow the whole command: tinkex checkpoint list",
        ),
        ("run info", "the following arguments are required: <run_id>"),
        ("run info a b", "unexpected argument(s) for run info: b"),
        ("checkpoint list", "Missing --api-key"),
        (["checkpoint", "list", "--api-key", "@~nosuchuser/x"], "no such home directory"),
        ("checkpoint list --api-key -", "no API key in standard input"),
        ("config show --sort-column nope", "no column named 'nope'"),
        (["config", "show", "--log-file", ""], "file or directory name is empty"),
        ("checkpoint delete", "use either checkpoint paths or filters"),
        ("checkpoint delete tinker://x", "not a checkpoint path: 'tinker://x'"),
        ("checkpoint", "--base-model or --model-path is required for checkpoint command"),
        ("checkpoint --base-model m", "--output is required for checkpoint command"),
        ("checkpoint --base-model m --model-path p --output o", "use either"),
        ("checkpoint --base-model m --output /", "it is a directory"),
        ("checkpoint --base-model m --output o --name a/b", "invalid checkpoint name"),
        ("checkpoint --base-model m --output o --rank 0", "must be at least 1, not 0"),
        ("checkpoint --model-path no/such --output o", "does not exist"),
        ("run", "--base-model or --model-path is required for run command"),
        ("run --base-model m", "--prompt or --prompt-file is required for run command"),
        ("run --base-model m --prompt x --prompt-file y", "use either --prompt or --prompt-file"),
        (["run", "--base-model", "m", "--prompt", ""], "the prompt is empty"),
        ("run --base-model m --prompt-file none", "No such file"),
        (["run", "--base-model", "m", "--prompt-file", "a\x00b"], "NUL"),
        ("run --base-model m --prompt x --temperature 1e400", "a finite number"),
        (["run", "--base-model", "m", "--prompt", "x", "--output", ""], "is empty"),
        ("run --base-model m --prompt=--version", "Missing --api-key"),
        ("run --base-model m --prompt x --top-p 0", "must be above 0"),
        ("run --base-model m --prompt x --top-p 1.1", "at most 1"),
        ("run --base-model m --prompt x --top-k 0", "must be -1 (all)"),
        ("run --base-model m --prompt x --num-samples 0", "must be at least 1, not 0"),
        ("run --base-model m --prompt x --output /", "it is a directory"),
        ("run --base-model m --prompt x", "Missing --api-key"),
    ],
)
def test_usage_errors(words, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = shlex.split(words) if isinstance(words, str) else words
    done = invoke(argv)
    assert (done.exit_code, done.stdout) == (1, "")
    is_verb = len(argv) > 1 and not argv[1].startswith("-")
    name = " ".join(argv[:2]).capitalize() if is_verb else NOUNS[argv[0]]
    first, *others = done.stderr.splitlines()
    assert first.startswith(f"{name} failed. Please check your inputs: ")
    assert what in first
    assert len(others) <= 1
    assert list(tmp_path.iterdir()) == []


def test_the_key_and_the_prompt_cannot_both_be_standard_input():
    argv = ["run", "--base-model", "m", "--prompt-file", "-", "--api-key", "-"]
    assert "not both" in invoke(argv, stdin="x").stderr


def test_two_dashes_end_the_options():
    assert invoke(["--", "version"]).stdout.startswith("tinkex 0.")
    assert invoke(["config", "show", "--"]).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        *("run list --json", "--json run list", "-f json run list", "run list -f json"),
        *("run --json --base-model m --prompt x", "run list --json --limit x"),
        "run list --format=json --nope",
    ],
)
def test_errors_are_json_where_json_was_chosen(words):
    done = invoke(words.split())
    assert (done.exit_code, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    error = json.loads(last)["error"]
    assert set(error) == {"category", "message", "hint", "status", "request_id"}
    assert error["category"] == "user"


@pytest.mark.parametrize(
    "argv", [["run", "lst"], ["run", "list", "--nope"], ["checkpoint", "list"]]
)
def test_errors_are_json_where_the_environment_says_json(monkeypatch, argv):
    monkeypatch.setenv("TINKEX_FORMAT", "json")
    assert set(json.loads(invoke(argv).stderr)) == {"error"}


@pytest.mark.parametrize(
    "words",
    [
        "--base-url http://127.0.0.1:1 config show -f json",
        "config show --base-url http://127.0.0.1:1 -f json",
        "--base-url http://x.example config show --base-url http://127.0.0.1:1 --json",
    ],
)
def test_global_options_before_and_after_the_command(words):
    rows = {row["name"]: row for row in invoke(words.split()).rows}
    assert rows["base_url"]["value"] == "http://127.0.0.1:1"
    assert rows["base_url"]["origin"] == "--base-url"


def test_formats(monkeypatch):
    assert invoke(["version", "-f", "json"]).rows.keys() == {"version", "commit"}
    assert invoke(["version"]).stdout.startswith("tinkex 0.")
    assert invoke(["version"], terminal=True).stdout.startswith("tinkex 0.")
    assert invoke(["config", "show"]).stdout.startswith("profile\t")
    assert invoke(["config", "show"], terminal=True).stdout.startswith("+--")
    assert invoke(["version", "-f", "value", "-c", "version"]).stdout == f"{tinkex.__version__}\n"
    monkeypatch.setenv("TINKEX_FORMAT", "yaml")
    shown = invoke(["config", "show"], terminal=True).stdout
    assert shown.startswith("- name: profile\n  value: null\n")
    assert invoke(["config", "show", "-f", "csv"]).stdout.startswith('"name","value"')
    monkeypatch.setenv("TINKEX_FORMAT", "csv")  # which one object has not
    assert invoke(["version"]).stdout.startswith("tinkex 0.")
    monkeypatch.setenv("TINKEX_FORMAT", "xml")
    assert "unknown format 'xml' (from TINKEX_FORMAT)" in invoke(["version"]).stderr


@pytest.mark.parametrize("column", ["origin", "Origin", "ORIGIN", "Origin,value"])
def test_sort_column_takes_what_column_takes(column):
    words = ["config", "show", "--sort-column", column, "-f", "value", "-c", "name"]
    done = invoke(words, environ={"TINKER_TAGS": "x"})
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "tags"  # of TINKER_TAGS, all others "default" or "not set"


def test_columns():
    assert invoke(["config", "show", "-c", "Name"]).stdout.splitlines()[0] == "profile"
    several = invoke(["config", "show", "-c", "name, Origin", "-f", "csv"])
    assert several.stdout.splitlines()[0] == '"name","origin"'
    done = invoke(["config", "show", "-c", "name,nope", "-c", "name"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no column named 'nope'" in done.stderr


def test_log_file(tmp_path):
    done = invoke(["version", "--log-file", str(tmp_path / "no" / "log")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cannot write the log file" in done.stderr
    assert invoke(["version", "--log-file", str(tmp_path / "log")]).exit_code == 0
    assert logging.getLogger("tinkex").handlers == []


@pytest.mark.parametrize("suffix", ["/api/v1", "/api/v1/", "/api", "/v1", "/oai/api/v1"])
@pytest.mark.parametrize(
    "reply",
    [Reply({"detail": "Not Found"}, 404), Reply("<html>", headers={"Content-Type": "text/html"})],
)
def test_a_base_url_that_ends_in_api_v1_gets_the_hint(suffix, reply):
    with serving(lambda request: reply) as url:
        words = ["--base-url", url + suffix, "--api-key", "tml-x"]
        ends = suffix.rstrip("/")
        hint = f"The base URL ends in {ends}; tinkex adds /api/v1 to it. Did you mean {url}?"
        assert f"Hint: {hint}\n" in invoke(["run", "list", *words]).stderr
        rows = {row["check"]: row for row in invoke(["doctor", "-f", "json", *words]).rows}
        assert rows["service"]["hint"] == hint
        assert "ends in" not in invoke(["run", "list", "--base-url", url, *words[2:]]).stderr


def test_a_base_url_that_ends_in_api_v1_gets_the_hint_where_it_is_set():
    words = ["--base-url", "http://127.0.0.1:8000/api/v1", "--api-key", "tml-x"]
    shown = "Warning: The base URL ends in /api/v1; tinkex adds /api/v1 to it."
    assert shown in invoke(["profile", "add", "x", *words]).stderr
    done = invoke(["--profile", "x", "config", "set", "base_url", words[1]])
    assert (done.exit_code, shown in done.stderr) == (0, True)


def test_only_debug_shows_a_traceback():
    assert "Traceback" not in invoke(["run", "list"]).stderr
    assert "Traceback" in invoke(["run", "list", "--debug"]).stderr


def test_quiet_prints_errors_only():
    assert "No plugins" in invoke(["plugin", "list"]).stderr or invoke(["plugin", "list"]).stdout
    assert invoke(["plugin", "list", "-q"]).stderr == ""
    assert "Missing" in invoke(["run", "list", "-q"]).stderr


def test_options_of_the_shell_hold_for_its_lines():
    script = (
        "config show --json\nconfig show --json --base-url http://127.0.0.1:2\nconfig show --json\n"
    )
    done = invoke(["--base-url", "http://127.0.0.1:1"], stdin=script)
    urls = [line.split('"')[3] for line in done.stdout.splitlines() if '"value": "http' in line]
    assert urls == ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:1"]


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
    with pytest.raises(UsageError, match="list of strings"):
        tinkex.run("run list")
