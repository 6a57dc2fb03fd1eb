"""What an error says on standard error, and the hint that follows it."""

from __future__ import annotations

import errno
import json
import shlex

import pytest

import tinkex
from tinkex import exceptions, plugins
from tinkex.cli.errors import as_tinkex_error, hint_for, unwrapped_signals
from tinkex.exceptions import (
    APIError,
    BadRequest,
    InvalidName,
    LocalError,
    NotFound,
    Terminated,
    TinkexError,
    Unauthorized,
)
from tinkex.testing import invoke


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("checkpoints", "checkpoint list"),
        ("checkpoint ls", "checkpoint list"),
        ("checkpoint show x", "checkpoint info"),
        ("checkpoint rm x", "checkpoint delete"),
        ("checkpoint cp x", "checkpoint copy"),
        ("checkpoint lst --limit 3", "checkpoint list"),
        ("checkpont list", "checkpoint list"),
        ("runs", "run list"),
        ("run get x", "run info"),
        ("run tail x", "run watch"),
        ("profile create x", "profile add"),
        ("auth use x", "auth switch"),
        ("session view x", "session show"),
        ("whoami", "auth whoami"),
        ("login", "auth login"),
        ("sample", "run"),
        ("save", "checkpoint"),
        ("billing storage", "billing checkpoint-storage"),
    ],
)
def test_the_command_that_was_meant(typed, meant):
    done = invoke(typed.split())
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [f"Hint: Did you mean 'tinkex {meant}'?"]


@pytest.mark.parametrize(
    ("terminal", "environ", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
        (False, {"CLICOLOR_FORCE": "1"}, True),
    ],
)
def test_errors_are_in_colour_on_a_terminal_unless_no_color_is_set(terminal, environ, coloured):
    environ = {"NO_COLOR": "", **environ}
    stderr = invoke(["nope"], terminal=terminal, environ=environ).stderr
    red, bold, plain = ("\x1b[31m", "\x1b[1m", "\x1b[0m") if coloured else ("", "", "")
    said = f"{red}'nope' is not a tinkex command.{plain}\n{bold}Hint:{plain} See: tinkex help\n"
    assert stderr == said
    words = ["nope", "-f", "json"]  # for programs
    assert "\x1b" not in invoke(words, terminal=terminal, environ=environ).stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("-V", "--version"),
        ("run list --url x", "--base-url"),
        ("run list --key x", "--api-key"),
        ("run list --all", "--limit 0"),
        ("run list --yaml", "-f yaml"),
        ("run list -o json", "-f"),
        ("checkpoint list --run x", "--run-id"),
        ("run --model x", "--base-model"),
        ("run --max-token 3", "--max-tokens"),
        ("run --tempurature 3", "--temperature"),
        ("--quite run list", "--quiet"),
    ],
)
def test_the_option_that_was_meant(typed, meant):
    done = invoke(typed.split())
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [f"Hint: Did you mean {meant}?"]


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        *[(words, "See: tinkex help\n") for words in ("xyzzy", "xyzzy qwv", "nope")],
        *[
            (f"run list {words}", "See: tinkex help run list\n")
            for words in ("--bogus", "--until x")
        ],
        *[(f"run {word}", "Subcommands of 'run': run batch, ") for word in ("hello", "foo -v")],
        ("--limit 3 run list", "Put command options after the command, as in: "),
        ("-c x run list", "Put command options after the command, as in: "),
        ("run --prompt --max-tokens 3", "See: tinkex help run\n"),
        ("run --prompt", "See: tinkex help run\n"),
        ("checkpoint --train-mlp=false --output x", "See: tinkex help checkpoint\n"),
    ],
)
def test_hints_where_nothing_is_similar(typed, hint):
    assert f"\nHint: {hint}" in invoke(typed.split()).stderr


@pytest.mark.parametrize("noun", [[], ["--base-model", "m"]])
def test_words_after_two_hyphens_are_arguments(noun):
    done = invoke(["run", "list", "--", "--limit", "3"])
    assert "unexpected argument(s) for run list: --limit 3\n" in done.stderr
    done = invoke(["run", *noun, "--", "--prompt", "x"])
    assert "unexpected argument(s) for run: --prompt x\n" in done.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["run", "--prompt", "Hello", "there", "dear"], "--prompt 'Hello there dear'"),
        (["run", "--prompt=Hello", "there", "-q"], "--prompt 'Hello there'"),
        (["run", "--prompt", "It's", "me", "--rank"], None),
        (["session", "search", "--limit", "3", "a", "b"], None),
        (["run", "--max-tokens", "3", "there"], None),
    ],
)
def test_a_text_without_quotes(words, meant):
    stderr = invoke(words).stderr
    if meant:
        assert stderr.endswith(f"Hint: Quote a value that contains spaces: {meant}\n")
    else:
        assert "Quote" not in stderr


@pytest.mark.parametrize("value", ["-hello", "-v is an option", "--max-tokens=3 is enough"])
def test_a_value_that_begins_with_a_hyphen(value):
    stderr = invoke(["run", "--prompt", value, "--base-model", "m"]).stderr
    joined = f"--prompt={shlex.quote(value)}"
    assert stderr.endswith(f"Hint: Use '=' before a value that begins with '-': {joined}\n")
    assert "expected one argument" in stderr


def test_a_key_is_not_shown():
    assert invoke(["run", "list", "--api-key", "-secret"]).stderr.endswith(" --api-key=KEY\n")
    assert "secret" not in invoke(["run", "list", "--api-key", "secret", "x"]).stderr


def test_a_noun_alone_lists_its_commands():
    assert "session export-trace, session list" in invoke(["session"]).stderr
    for noun in ("checkpoint", "run"):  # which need options
        assert f"For help: tinkex help {noun}" in invoke([noun]).stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["local", "sevre"], "Did you mean 'tinkex local serve'?"),
        (["local", "list"], "Subcommands of 'local': local"),
        (["checkpoint", "exprt", "x"], "Did you mean 'tinkex checkpoint export'?"),
    ],
)
def test_unknown_commands_of_plugins_that_are_loaded(words, hint):
    assert f"Hint: {hint}" in invoke(words).stderr


@pytest.mark.parametrize(
    ("words", "plugin"),
    [
        (["local"], "tinkex-local"),
        (["local", "serve"], "tinkex-local"),
        (["checkpoint", "push-hf", "x"], "tinkex-hub"),
        (["checkpoint", "export", "x"], "tinkex-hub"),
        (["checkpoint", "inspect", "x"], "tinkex-hub"),
        (["chat", "@latest"], "tinkex-lab"),
        (["--profile", "local", "run", "list"], "tinkex-local"),
    ],
)
def test_commands_of_plugins_that_are_not_installed(words, plugin, monkeypatch):
    monkeypatch.setenv("TINKEX_PLUGINS", "")
    done = invoke(words)
    assert f"{plugin}. TINKEX_PLUGINS omits {plugin}." in done.stderr
    monkeypatch.setattr(plugins, "find_distribution", lambda name: None)
    assert f"{plugin}. Install it: pip install {plugin}" in invoke(words).stderr


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("none", "No such file or directory", "Check the path."),
        ("file/none", "Not a directory", "Check the path."),
        ("", "is empty", "Specify a name."),
        (".", "Is a directory", "Specify a file instead of a directory."),
        ("x" * 300, "File name too long", "Choose a shorter name."),
    ],
)
def test_hint_about_a_file_that_cannot_be_read(name, what, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    words = ["run", "--base-model", "m", "--prompt-file", name]
    done = invoke(words)
    assert what in done.stderr
    assert done.stderr.endswith(f"Hint: {hint}\n")
    with pytest.raises(LocalError) as caught:
        tinkex.run(words)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "text", ["profiles: [", "- x", "a: !!omap x", "a: !!binary é", "a: !!x z", "a: &b [*b]"]
)
def test_hint_about_a_configuration_file_that_cannot_be_read(text, config):
    config(text)
    done = invoke(["run", "list"])
    assert (
        "\nHint: Fix the file in an editor, or set TINKEX_CONFIG to another file.\n" in done.stderr
    )


@pytest.mark.parametrize("words", [["version"], ["plugin", "list"], ["help"], ["--version"]])
def test_commands_that_a_bug_report_needs_work_whatever_the_settings(words, config, monkeypatch):
    config("profiles: [")
    assert invoke(words).exit_code == 0
    monkeypatch.setenv("TINKER_BASE_URL", "none")
    assert invoke(words).exit_code == 0


def cleaned_up(signal: BaseException) -> None:
    """Fail to clean up after a signal."""
    try:
        try:
            raise signal
        finally:
            raise OSError(9, "Bad file descriptor")
    except OSError as error:
        raise LocalError("cannot clean up") from error


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), Terminated(143)])
def test_the_exception_of_a_signal_is_raised_itself(signal):
    with pytest.raises(type(signal)) as caught, unwrapped_signals():
        cleaned_up(signal)
    assert caught.value is signal
    with pytest.raises(LocalError), unwrapped_signals():
        raise LocalError("no") from ValueError()


def about(error: APIError, **facts: str) -> APIError:
    for name, value in facts.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (InvalidName("x"), "See 'tinkex checkpoint list'."),
        (InvalidName("x", hint="Did you mean y?"), "Did you mean y? See 'tinkex checkpoint list'."),
        (InvalidName("x", resource="run"), "See 'tinkex run list'."),
        (exceptions.LimitReached("x", hint="Run it again."), "Run it again. Check the limits"),
        (exceptions.Unreachable("x"), "Check the base URL: tinkex config show."),
        (exceptions.ConnectionFailed("x"), None),
        (exceptions.Redirected("x", location="https://y"), "Set --base-url to https://y"),
        (Unauthorized("x", status=401), "Check the key with 'tinkex"),
        (about(Unauthorized("x", status=401), key_origin="A"), "The key comes from A. Check it"),
        (about(BadRequest("x", status=400), resource="model"), "See 'tinkex model list'."),
        (
            BadRequest("Model model_1 not loaded", status=400),
            "The server has unloaded this run. Save a",
        ),
        (
            exceptions.OperationFailed("model model_1 is not loaded"),
            "The server has unloaded this run.",
        ),
        (BadRequest("Model org/base not loaded", status=400), None),
        (NotFound("x", status=404), "See 'tinkex checkpoint list' or 'tinkex run list'."),
        (about(NotFound("x", status=404), resource="session"), "See 'tinkex session list'."),
        (NotFound("x", status=404, hint="The run has no checkpoints."), "The run has no"),
        (LocalError("x", hint=""), ""),
        (TinkexError("x"), None),
    ],
)
def test_the_hint_is_the_error_s_own_or_that_of_the_nearest_class(error, hint):
    found = hint_for(error)
    assert (found or "").startswith(hint or "")
    assert (found is None) == (hint is None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/x.py"), "too many open files"),
        (RuntimeError("can't start new thread"), "too many threads"),
    ],
)
def test_what_needs_one_more_file_or_thread_than_is_allowed_says_so(error, words):
    found = as_tinkex_error(error)
    assert (str(found), (found.hint or "")[:16]) == (words, "Check the limits")


def test_the_hint_is_the_same_in_json():
    words = ["checkpoint", "info", "tinker://no-path", "--api-key", "k"]
    hint = json.loads(invoke([*words, "-f", "json"]).stderr)["error"]["hint"]
    assert hint.endswith("See 'tinkex checkpoint list'.")
    assert invoke(words).stderr.endswith(f"\nHint: {hint}\n")
