"""What was meant by commands and options that there are not."""

from __future__ import annotations

import json
import shlex

import pytest

from tinkex import plugins
from tinkex.testing import invoke


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("checkpoints", "checkpoint list"),
        ("checkpoints list", "checkpoint list"),
        ("checkpoints ls", "checkpoint list"),
        ("checkpoint ls", "checkpoint list"),
        ("checkpoint show x", "checkpoint info"),
        ("checkpoint rm x", "checkpoint delete"),
        ("checkpoint cp x", "checkpoint copy"),
        ("checkpoint lst --limit 3", "checkpoint list"),
        ("checkpont list", "checkpoint list"),
        ("runs", "run list"),
        ("run get x", "run info"),
        ("run tail x", "run watch"),
        ("models", "model list"),
        ("profile create x", "profile add"),
        ("profile delete x", "profile remove"),
        ("auth use x", "auth switch"),
        ("session view x", "session show"),
        ("plugins", "plugin list"),
        ("whoami", "auth whoami"),
        ("login", "auth login"),
        ("sample", "run"),
        ("save", "checkpoint"),
    ],
)
def test_the_command_that_was_meant(typed, meant):
    done = invoke(typed.split())
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [f"Hint: Did you mean 'tinkex {meant}'?"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("-V", "--version"),
        ("run list --url x", "--base-url"),
        ("run list --endpoint x", "--base-url"),
        ("run list --key x", "--api-key"),
        ("run list --all", "--limit 0"),
        ("run list --yaml", "-f yaml"),
        ("run list -o json", "-f"),
        ("run list --output json", "-f"),
        ("checkpoint list --run x", "--run-id"),
        ("checkpoint -o x", "--output"),
        ("run --model x", "--base-model"),
        ("run --max-token 3", "--max-tokens"),
        ("run --temp 3", "--temperature"),
        ("run --tempurature 3", "--temperature"),
        ("--quite run list", "--quiet"),
    ],
)
def test_the_option_that_was_meant(typed, meant):
    done = invoke(typed.split())
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [f"Hint: Did you mean {meant}?"]


@pytest.mark.parametrize("words", [["xyzzy"], ["xyzzy", "qwv"], ["nope"]])
def test_nothing_near(words):
    assert "Hint: See: tinkex help\n" in invoke(words).stderr


@pytest.mark.parametrize("typed", ["run list --bogus", "run list --until x", "version --sep x"])
def test_no_option_is_near(typed):
    command = typed.partition(" --")[0]
    assert f"Hint: See: tinkex help {command}\n" in invoke(typed.split()).stderr


@pytest.mark.parametrize("noun", [[], ["--base-model", "m"]])
def test_no_option_stands_behind_two_hyphens(noun):
    done = invoke(["run", "list", "--", "--limit", "3"])
    assert "unexpected argument(s) for run list: --limit 3\n" in done.stderr
    done = invoke(["run", *noun, "--", "--prompt", "x"])
    assert "unexpected argument(s) for run: --prompt x\n" in done.stderr


@pytest.mark.parametrize("words", [["run", "hello"], ["run", "Hello there"], ["run", "foo", "-v"]])
def test_no_verb_is_near(words):
    assert "Hint: Below 'run' there are: run batch, run info, run list" in invoke(words).stderr


@pytest.mark.parametrize("typed", ["--limit 3 run list", "--base-model m run", "-c x run list"])
def test_an_option_of_a_command_does_not_stand_before_it(typed):
    assert "Hint: Options of a command stand behind it: " in invoke(typed.split()).stderr


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
        assert stderr.endswith(f"Hint: A text of several words stands in quotes: {meant}\n")
    else:
        assert "quotes" not in stderr


@pytest.mark.parametrize("value", ["-hello", "-v is an option", "--max-tokens=3 is enough"])
def test_a_value_that_begins_with_a_hyphen(value):
    stderr = invoke(["run", "--prompt", value, "--base-model", "m"]).stderr
    joined = f"--prompt={shlex.quote(value)}"
    assert stderr.endswith(
        f"Hint: A value that begins with '-' is joined to its option: {joined}\n"
    )
    assert "expected one argument" in stderr


def test_a_key_is_not_shown():
    assert invoke(["run", "list", "--api-key", "-secret"]).stderr.endswith(" --api-key=KEY\n")
    assert "secret" not in invoke(["run", "list", "--api-key", "secret", "x"]).stderr


@pytest.mark.parametrize("words", [["--prompt", "--max-tokens", "3"], ["--prompt"]])
def test_a_value_that_is_missing(words):
    assert invoke(["run", *words]).stderr.endswith("Hint: See: tinkex help run\n")


@pytest.mark.parametrize("words", [["--train-mlp=false"], ["--train-mlp", "false"]])
def test_a_value_for_an_option_that_takes_none(words):
    stderr = invoke(["checkpoint", *words, "--output", "x"]).stderr
    assert "--train-mlp takes no value: 'false'\nHint: Its opposite is --no-train-mlp.\n" in stderr
    assert "-q takes no value: 'x'\nHint: See: " in invoke(["run", "list", "-q", "x"]).stderr


def test_a_noun_alone_tells_its_commands():
    assert "session export-trace, session list" in invoke(["session"]).stderr
    for noun in ("checkpoint", "run"):  # which do something, if they are told what with
        assert f"Other commands: tinkex help {noun}" in invoke([noun]).stderr


@pytest.mark.parametrize(
    ("words", "plugin"),
    [
        (["local"], "tinkex-local"),
        (["local", "serve"], "tinkex-local"),
        (["checkpoint", "push-hf", "x"], "tinkex-hub"),
        (["--profile", "local", "run", "list"], "tinkex-local"),
    ],
)
def test_what_plugins_of_this_project_bring(words, plugin, monkeypatch):
    monkeypatch.setenv("TINKEX_PLUGINS", "")
    done = invoke(words)
    assert f"It comes with {plugin}. TINKEX_PLUGINS does not name {plugin}." in done.stderr
    monkeypatch.setattr(plugins, "find_distribution", lambda name: None)
    assert f"It comes with {plugin}. Install it: pip install {plugin}" in invoke(words).stderr


class Installed:
    def __init__(self, origin: object) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


def test_how_to_install_follows_where_tinkex_came_from(tmp_path, monkeypatch):
    sources = tmp_path / "my sources"
    (sources / "plugins" / "tinkex-local").mkdir(parents=True)
    repository = {
        "url": "https://git.example/tinkex.git",
        "vcs_info": {"vcs": "git", "commit_id": "0c77543"},
    }
    directory = {"url": sources.as_uri(), "dir_info": {"editable": True}}
    for origin, command in (
        (None, "pip install tinkex-local"),
        (directory, f"pip install '{sources}/plugins/tinkex-local'"),
        ({**directory, "url": "file:///no/such"}, "pip install tinkex-local"),
        (
            repository,
            "pip install 'tinkex-local @ git+https://git.example/tinkex.git@0c77543"
            "#subdirectory=plugins/tinkex-local'",
        ),
        ({"url": "https://x.example/tinkex.whl", "archive_info": {}}, "pip install tinkex-local"),
    ):
        monkeypatch.setattr(plugins, "find_distribution", lambda _, o=origin: Installed(o))
        assert plugins.how_to_install("tinkex-local") == command


def test_a_server_is_not_an_address(tmp_path, monkeypatch):
    monkeypatch.setenv("TINKEX_CONFIG", str(tmp_path / "config.yaml"))
    done = invoke(["profile", "add", "gpu", "--server", "http://gpu-box:8000"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "official, skyrl, tuft" in done.stderr
    assert "--base-url http://gpu-box:8000" in done.stderr
    assert not (tmp_path / "config.yaml").exists()
