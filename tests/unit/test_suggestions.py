"""What was meant by commands and options that there are not."""

from __future__ import annotations

import json

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
    ],
)
def test_the_option_that_was_meant(typed, meant):
    done = invoke(typed.split())
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [f"Hint: Did you mean {meant}?"]


@pytest.mark.parametrize("words", [["xyzzy"], ["xyzzy", "qwv"]])
def test_nothing_near(words):
    assert "Hint: See: tinkex help\n" in invoke(words).stderr


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
