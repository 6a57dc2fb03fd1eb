"""Plugins: found by entry points alone, and unable to harm each other."""

from __future__ import annotations

import pytest

from tinkex.testing import invoke

COMMAND = """
from tinkex.commands.base import Lister

class Hello(Lister):
    "Greet."
    def take_action(self, parsed_args):
        return ("greeting",), [("hello",)]
"""

FORMATTER = """
from cliff.formatters.base import ListFormatter

class Shout(ListFormatter):
    def add_argument_group(self, parser):
        parser.add_argument_group("shout").add_argument("--mark", default="!", help="what follows")
    def emit_list(self, column_names, data, stdout, parsed_args):
        for row in data:
            stdout.write(" ".join(map(str, row)).upper() + parsed_args.mark + "\\n")
"""

HOOK = """
from cliff.hooks import CommandHook

class Hook(CommandHook):
    def get_parser(self, parser):
        parser.add_argument("--twice", action="store_true", help="everything twice")
        return parser
    def get_epilog(self):
        return "The hook was here."
    def before(self, parsed_args):
        return parsed_args
    def after(self, parsed_args, data):
        names, rows = data
        rows = list(rows)
        return names, rows * (2 if parsed_args.twice else 1)
"""


def test_command_formatter_and_hook(fake_plugins, monkeypatch):
    fake_plugins.add("p-command", "[tinkex.commands]\ngreet_hello = p_command:Hello\n", COMMAND)
    fake_plugins.add("p-format", "[tinkex.formatters.list]\nshout = p_format:Shout\n", FORMATTER)
    fake_plugins.add("p-hook", "[tinkex.hooks.greet_hello]\nh = p_hook:Hook\n", HOOK)
    assert invoke(["greet", "hello"]).stdout == "hello\n"
    done = invoke(["greet", "hello", "-f", "shout", "--twice", "--mark", "?"])
    assert done.stdout == "HELLO?\nHELLO?\n", done.stderr
    monkeypatch.setenv("TINKEX_FORMAT", "shout")
    assert invoke(["greet", "hello"]).stdout == "HELLO!\n"
    monkeypatch.delenv("TINKEX_FORMAT")
    assert invoke(["greet", "hello", "-f", "json"]).rows == [{"greeting": "hello"}]
    assert "The hook was here." in invoke(["greet", "hello", "--help"]).stdout
    assert "  greet hello" in invoke(["help"]).stdout
    assert invoke(["config", "show", "-f", "shout"]).stdout.startswith("PROFILE")


@pytest.mark.parametrize(
    "code",
    [
        "raise ImportError('no such thing')",
        "import sys; sys.exit(9)",
        "def broken(:",
        "",
        "Hello = 3",
    ],
)
def test_broken_command_costs_others_nothing_and_its_users_one_line(fake_plugins, code):
    fake_plugins.add("p-broken", "[tinkex.commands]\nbad = p_broken:Hello\n", code)
    assert invoke(["version"]).stderr == ""
    assert invoke(["help"]).exit_code == 0
    done = invoke(["bad"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "p-broken" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_plain_cliff_command_is_no_tinkex_command(fake_plugins):
    code = "from cliff.command import Command\nclass Hello(Command):\n    'Greet.'\n    take_action = print\n"
    fake_plugins.add("p-plain", "[tinkex.commands]\nbad = p_plain:Hello\n", code)
    done = invoke(["bad", "--nope"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "p-plain is not a Command, Lister or ShowOne" in done.stderr


def test_what_a_plugin_prints_when_imported_is_no_result(fake_plugins):
    fake_plugins.add(
        "p-loud", "[tinkex.commands]\ngreet = p_loud:Hello\n", "print('loud')" + COMMAND
    )
    assert invoke(["greet"]).stdout == "hello\n"
    assert "loud" not in invoke(["help"]).stdout


def test_hook_whose_options_break_costs_one_warning(fake_plugins):
    code = HOOK.replace("return parser", "raise RuntimeError('no')", 1)
    fake_plugins.add("p-hook", "[tinkex.hooks.config_show]\nh = p_hook:Hook\n", code)
    done = invoke(["config", "show", "--json"])
    assert "p-hook" in done.stderr


def test_pool_that_does_not_start_is_named(fake_plugins):
    fake_plugins.add("p-pool", "[tinkex.http_pools]\nbad = p_pool:Pool\n", "def Pool(): 1 / 0")
    done = invoke(["config", "show", "--http-pool", "bad"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the HTTP pool 'bad' of plugin p-pool does not start" in done.stderr


@pytest.mark.parametrize(
    ("value", "code"), [("None", 0), ("3", 3), ("256", 1), ("-1", 1), ("'x'", 1)]
)
def test_what_a_command_returns(fake_plugins, value, code):
    source = (
        "from tinkex.commands.base import Command\nclass C(Command):\n    'Do.'\n"
        f"    def take_action(self, parsed_args):\n        return {value}\n"
    )
    fake_plugins.add("p-code", "[tinkex.commands]\ngreet = p_code:C\n", source)
    assert invoke(["greet"]).exit_code == code


def test_broken_hook_costs_one_warning(fake_plugins):
    fake_plugins.add(
        "p-hook", "[tinkex.hooks.config_show]\nh = p_hook:Hook\n", "raise OSError('x')"
    )
    done = invoke(["config", "show"])
    assert done.exit_code == 0
    assert done.stdout.startswith("profile")
    assert done.stderr.count("\n") == 1
    assert "p-hook" in done.stderr


def test_broken_formatter_is_told_when_used(fake_plugins):
    fake_plugins.add("p-format", "[tinkex.formatters.list]\nshout = p_format:Shout\n", "1/0")
    assert invoke(["config", "show"]).stderr == ""
    done = invoke(["config", "show", "-f", "shout"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "p-format" in done.stderr


def test_builtin_name_wins(fake_plugins):
    fake_plugins.add("aaa", "[tinkex.commands]\nversion = aaa:Hello\n", COMMAND)
    fake_plugins.add("zzz", "[tinkex.commands]\nversion = zzz:Hello\n", COMMAND)
    assert invoke(["version"]).stdout.startswith("tinkex 0.")


def test_two_plugins_with_one_name_are_told_apart(fake_plugins):
    fake_plugins.add("p-one", "[tinkex.commands]\ngreet = p_one:Hello\n", COMMAND)
    fake_plugins.add("p-two", "[tinkex.commands]\ngreet = p_two:Hello\n", COMMAND)
    done = invoke(["greet"])
    assert done.exit_code == 1
    assert "two plugins claim the command 'greet': p-one and p-two" in done.stderr
    assert invoke(["version"]).exit_code == 0


def test_plugin_list_tells_distribution_version_and_error(fake_plugins):
    fake_plugins.add("p-good", "[tinkex.commands]\ngreet = p_good:Hello\n", COMMAND, version="2.5")
    fake_plugins.add("p-bad", "[tinkex.commands]\nbad = p_bad:Hello\n", "raise ImportError('gone')")
    fake_plugins.add("p-shadow", "[tinkex.commands]\nversion = p_shadow:Hello\n", COMMAND)
    rows = {row["distribution"]: row for row in invoke(["plugin", "list", "-f", "json"]).rows}
    assert rows["p-good"] == {
        "group": "tinkex.commands",
        "name": "greet",
        "distribution": "p-good",
        "version": "2.5",
        "error": None,
    }
    assert rows["p-bad"]["error"] == "gone"
    assert "tinkex has one of this name" in rows["p-shadow"]["error"]
    assert "tinkex" not in rows
    everything = invoke(["plugin", "list", "--all", "-f", "json"]).rows
    assert {row["error"] for row in everything if row["distribution"] == "tinkex"} == {None}


def test_option_that_clashes_with_a_global_one_is_told(fake_plugins):
    code = (
        COMMAND
        + """
    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument("--timeout", help="clashes")
        return parser
"""
    )
    fake_plugins.add("p-clash", "[tinkex.commands]\ngreet = p_clash:Hello\n", code)
    done = invoke(["greet"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--timeout" in done.stderr
    assert "Traceback" not in done.stderr
