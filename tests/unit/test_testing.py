"""The helpers that are published for the tests of plugins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinkex import settings
from tinkex.exceptions import PluginError
from tinkex.testing import Invocation, check_distribution, invoke, isolated, local_service


def test_isolated_hides_settings_and_files_and_restores_them(tmp_path, monkeypatch, config):
    config("profile: mine\nprofiles: {mine: {base_url: 'http://127.0.0.1:9'}}")
    monkeypatch.setenv("TINKER_API_KEY", "tml-mine")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    before = dict(os.environ)
    with isolated(tmp_path / "home") as home:
        effective = settings.resolve({})
        assert (effective.base_url, effective.profile) == (settings.DEFAULT_BASE_URL, None)
        assert effective.origins.get("api_key") is None
        assert Path.home() == home == tmp_path / "home"
        assert "HTTPS_PROXY" not in os.environ
        os.environ["TINKEX_FORMAT"] = "yaml"
    assert dict(os.environ) == before


def test_environ_is_set_for_one_command_alone():
    variables = {"TINKER_BASE_URL": "http://127.0.0.1:7"}
    first = invoke(["config", "show", "-f", "json"], environ=variables).rows
    second = invoke(["config", "show", "-f", "json"]).rows
    urls = [row["value"] for rows in (first, second) for row in rows if row["name"] == "base_url"]
    assert urls == ["http://127.0.0.1:7", settings.DEFAULT_BASE_URL]


def test_two_local_services_know_nothing_of_each_other(tmp_path):
    pytest.importorskip("tinkex_local")
    save = ["checkpoint", "--base-model", "tinkex/baker-street-2M", "--rank", "4"]
    with local_service(tmp_path / "one") as files:
        done = invoke([*save, "--output", str(tmp_path / "saved.json")])
        assert done.exit_code == 0, done.stderr
        assert len(invoke(["checkpoint", "list", "-f", "json"]).rows) == 1
        assert files.is_dir()
        assert files.is_relative_to(tmp_path / "one")
    with local_service(tmp_path / "two"):
        assert invoke(["checkpoint", "list", "-f", "json"]).rows == []


def test_a_local_service_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TINKEX_PLUGINS", "")
    with pytest.raises(PluginError, match="not installed"), local_service(tmp_path):
        pass


def test_rows_of_a_failed_command_tell_why_it_failed():
    with pytest.raises(AssertionError, match="Boom failed"):
        _ = Invocation("", "Boom failed: no\n", 1).rows


def test_the_check_names_every_fault(fake_plugins):
    code = '''
from tinkex.commands.base import Command

class Wordy(Command):
    """No full stop"""
    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument("--silent")
        return parser
    def take_action(self, parsed_args):
        pass

class Foreign: pass
'''
    entries = "greet_wordy = p_bad:Wordy\ngreet_foreign = p_bad:Foreign\ngreet_gone = p_bad:Gone\n"
    fake_plugins.add("p-bad", f"[tinkex.commands]\n{entries}", code)
    fake_plugins.add("p-none", "[console_scripts]\nx = p_none:x\n")
    with pytest.raises(AssertionError) as caught:
        check_distribution("p-bad")
    text = str(caught.value)
    assert "greet_wordy: its docstring must be one sentence" in text
    assert "greet_wordy: the argument silent has no help" in text
    assert "greet_foreign: is not a Command" in text
    assert "greet_gone: the plugin p-bad does not load" in text
    with pytest.raises(AssertionError, match="no entry point"):
        check_distribution("p-none")
