"""The helpers that are published for the tests of plugins."""

from __future__ import annotations

import os
import re
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
    with (
        pytest.raises(PluginError, match="local service is not available"),
        local_service(tmp_path),
    ):
        pass


def test_rows_of_a_failed_command_tell_why_it_failed():
    with pytest.raises(AssertionError, match="Boom failed"):
        _ = Invocation("", "Boom failed: no\n", 1).rows


HALF_A_PLUGIN = """
from cliff.formatters.base import ListFormatter
from cliff.hooks import CommandHook
from tinkex.commands.base import Command, Lister, ShowOne
from tinkex.plugins import HttpPool, TokenizerSource

class Wordy(Command):
    "No full stop"
    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument("--silent")
        return parser
    def take_action(self, parsed_args):
        pass

class Good(Lister):
    "Show two columns."
    column_names = ("one", "two")
    def take_action(self, parsed_args):
        if parsed_args.columns:
            return self.column_names, [(n, n) for n in "ab"]
        rows = [(*"ab",), *self.rows]
        return self.column_names, rows

class Uneven(Good):
    "Show rows of one value."
    def take_action(self, parsed_args):
        return self.column_names, ((n,) for n in "ab")

class Named(Good):
    "Show rows of three values."
    def take_action(self, parsed_args):
        rows = [(1, 2), (1, 2, 3)]
        return self.column_names, rows

class One(ShowOne):
    "Show a value too few."
    column_names = ("one", "two")
    def take_action(self, parsed_args):
        return self.column_names, (1,)

class Misspelt(Good):
    "Misspell columns."
    plain_columns = ("one", "tow")
    droppable = ("thre",)

class Silent(Good):
    def add_arguments(self, parser): 1 / 0

class Commaless(Good):
    "Forget a comma."
    examples = ("tinkex greet")

class Idle(Command):
    "Have no action."

class Foreign: pass

class Pool(HttpPool): pass

class Fussy(Pool):
    def __init__(self): 1 / 0
    def build(self, settings): pass

class Shelf(TokenizerSource): pass

class Format(ListFormatter):
    def add_argument_group(self, parser): pass

def profile(): return {"http_pol": "local"}

class Hook(CommandHook):
    def get_parser(self, parser):
        parser.add_argument("--limit", help="clashes")
    def get_epilog(self): pass
    def before(self, parsed_args): pass
    def after(self, parsed_args, data): pass

class Fails(Hook):
    def get_parser(self, parser): 1 / 0

class Insists(Hook):
    def get_parser(self, parser):
        parser.add_argument("--so", required=True, help="is missing")

class Places(Hook):
    def get_parser(self, parser):
        parser.add_argument("place", nargs="?", help="takes a word of the command")
"""


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("commands greet_wordy = Wordy", "its docstring must be one sentence"),
        ("commands greet_wordy = Wordy", "the argument silent has no help"),
        (
            "commands greet_foreign = Foreign",
            "p_bad:Foreign of plugin p-bad 1.0 is not a subclass of Command",
        ),
        ("commands greet_gone = Gone", "AttributeError: module 'p_bad' has no attribute 'Gone'"),
        ("commands greet = Uneven", "a row has length 1, but column_names has 2: one, two"),
        ("commands greet = Named", "a row has length 3, but column_names has 2"),
        ("commands greet = One", "a row has length 1, but column_names has 2"),
        ("commands greet = Misspelt", "plain_columns contains 'tow', which is not in column_names"),
        ("commands greet = Misspelt", "droppable contains 'thre', which is not in column_names"),
        ("commands greet = Silent", "its docstring must be one sentence"),
        ("commands greet = Silent", "its get_parser() failed: ZeroDivisionError: division by zero"),
        ("commands greet = Commaless", "examples is a string, not a tuple: add a comma"),
        ("commands h = Idle", "p_bad:Idle of plugin p-bad 1.0 does not implement take_action"),
        ("commands greet me = Good", "its name must be noun_verb, in lower case"),
        ("http_pools greet = Foreign", "it is not a subclass of tinkex.plugins.HttpPool"),
        ("http_pools h = Pool", "it does not implement build"),
        ("http_pools greet = Fussy", "ZeroDivisionError: division by zero"),
        ("tokenizers greet = Shelf", "it does not implement find"),
        ("formatters.list greet = Format", "it does not implement emit_list"),
        (
            "formatters.show greet = Format",
            "not a subclass of cliff.formatters.base.SingleFormatter",
        ),
        ("profiles greet = profile", "unknown settings: http_pol"),
        ("hooks.run_list h = Fails", "ZeroDivisionError: division by zero"),
        ("hooks.run_list h = Insists", "required options or positional arguments: --so"),
        ("hooks.run_list h = Places", "required options or positional arguments: place"),
        ("hooks.run_list h = Hook", "argument --limit: conflicting option string: --limit"),
        (
            "hooks.run_lst h = Hook",
            "no command named 'run_lst'; did you mean tinkex.hooks.run_list?",
        ),
        ("hooks.gone h = Hook", "not used: no command named 'gone'"),
        ("hooks h = Hook", "tinkex has no such group; did you mean tinkex.hooks.<noun_verb>?"),
        ("command greet = Good", "tinkex has no such group; did you mean tinkex.commands?"),
        ("else greet = Good", "not used: tinkex has no such group"),
        ("commands greet = Good", None),
        ("hooks.greet h = Hook\n[tinkex.commands]\ngreet = p_bad:Good", None),
    ],
)
def test_the_check_names_every_fault(fake_plugins, entry, fault):
    entry = entry.replace(" ", "]\n", 1).replace("= ", "= p_bad:", 1)
    fake_plugins.add("p-bad", f"[tinkex.{entry}\n", HALF_A_PLUGIN)
    if fault is None:
        check_distribution("p-bad")
        return
    with pytest.raises(AssertionError, match=re.escape(fault)):
        check_distribution("p-bad")
    if "greet" not in entry or "command " in entry:
        for words in (["plugin", "list"], ["plugin", "show", "p-bad"], ["doctor"]):
            shown = invoke([*words, "-f", "json", "--base-url", "http://127.0.0.1:9"]).stdout
            assert fault in shown, words


def test_the_check_names_a_misspelt_group_outside_of_tinkex(fake_plugins):
    entries = "[tinkex_commands]\ngreet = p_bad:Good\n[tinkex.commands]\nhail = p_bad:Good\n"
    fake_plugins.add("p-bad", f"{entries}[console_scripts]\nx = p_bad:x\n", HALF_A_PLUGIN)
    with pytest.raises(AssertionError) as caught:
        check_distribution("p-bad")
    assert str(caught.value) == (
        "tinkex_commands is not used: tinkex has no such group; did you mean tinkex.commands?"
    )


def test_the_check_of_what_is_no_plugin(fake_plugins):
    fake_plugins.add("p-none", "[console_scripts]\nx = p_none:x\n")
    with pytest.raises(AssertionError, match="no entry point"):
        check_distribution("p-none")
    with pytest.raises(AssertionError, match="-helo is not installed; did you mean tinkex-hello"):
        check_distribution("tinkex-helo")
