"""Plugins: found by entry points alone, and unable to harm each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import tinkex
from tinkex import plugins
from tinkex.exceptions import PluginError
from tinkex.plugins import entry_points
from tinkex.testing import invoke

GROUP = "tinkex.commands"

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

class Nothing(Hook):
    def get_parser(self, parser):
        return parser
    def before(self, parsed_args):
        pass
    def after(self, parsed_args, data):
        pass
"""
CLASH = f"""{COMMAND}
    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument("--timeout", help="clashes with a global option")
        return parser
"""


def test_command_formatter_and_hook(fake_plugins):
    loud = f"print('loud'){COMMAND}"  # what is printed by an import is no result
    fake_plugins.add("p-command", "[tinkex.commands]\ngreet_hello = p_command:Hello\n", loud)
    fake_plugins.add("p-format", "[tinkex.formatters.list]\nshout = p_format:Shout\n", FORMATTER)
    hooks = "[tinkex.hooks.greet_hello]\nh = p_hook:Hook\nnothing = p_hook:Nothing\n"
    fake_plugins.add("p-hook", hooks, HOOK)
    done = invoke(["greet", "hello", "-f", "shout", "--twice", "--mark", "?"])
    assert done.stdout == "HELLO?\nHELLO?\n", done.stderr
    assert invoke(["greet", "hello"], environ={"TINKEX_FORMAT": "shout"}).stdout == "HELLO!\n"
    assert invoke(["greet", "hello", "-f", "json"]).rows == [{"greeting": "hello"}]
    assert "The hook was here." in invoke(["greet", "hello", "--help"]).stdout
    listed = invoke(["help"]).stdout
    assert "  greet hello" in listed
    assert "loud" not in listed


@pytest.mark.parametrize("words", [["-f", "shout"], ["-fshout"], ["--format=shout"], ["-qfshout"]])
def test_a_format_may_be_named_in_every_way_that_options_have(fake_plugins, words):
    fake_plugins.add("p-format", "[tinkex.formatters.list]\nshout = p_format:Shout\n", FORMATTER)
    done = invoke(["config", "show", *words])
    assert done.stdout.splitlines()[0].endswith("!"), done.stderr
    if "-q" not in words[0]:  # of several letters in one word, its own options are not looked for
        done = invoke(["config", "show", *words, "--mark=?"])
        assert done.stdout.splitlines()[0].endswith("?"), done.stderr


NOT_OURS = "p-broken 1.0 is not a subclass of Command, Lister or ShowOne"


@pytest.mark.parametrize(
    ("entry", "code", "words", "what"),
    [
        ("commands", "raise ImportError('no such thing')", ["bad"], "no such thing"),
        ("commands", "import sys; sys.exit(9)", ["bad"], "SystemExit"),
        ("commands", "def broken(:", ["bad"], "SyntaxError"),
        ("commands", "", ["bad"], "has no attribute 'Hello'"),
        ("commands", "Hello = 3", ["bad"], NOT_OURS),
        ("commands", "from cliff.command import Command as Hello", ["bad"], NOT_OURS),
        ("commands", CLASH, ["bad"], "--timeout"),
        ("formatters.list", "1/0", ["config", "show", "-f", "bad"], "p-broken"),
        (
            "http_pools",
            "def Hello(): 1 / 0",
            ["config", "show", "--http-pool", "bad"],
            "the HTTP pool 'bad' of plugin p-broken 1.0 does not start",
        ),
    ],
)
def test_a_broken_plugin_costs_others_nothing_and_its_users_a_line(
    fake_plugins, entry, code, words, what
):
    fake_plugins.add("p-broken", f"[tinkex.{entry}]\nbad = p_broken:Hello\n", code)
    assert [invoke([word]).stderr for word in ("version", "help")] == ["", ""]
    done = invoke(words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert what in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    ("old", "new", "warnings"),
    [
        ("from cliff", "raise OSError('x')\nfrom cliff", 1),
        ("class Hook(", "import sys; sys.exit(3)\nclass Hook(", 1),
        ("    def get_parser(", "    def __init__(self, command): 1 / 0\n    def get_parser(", 1),
        ("    def get_parser(", "    def __init__(self, command): exit(3)\n    def get_parser(", 1),
        ("return parser", "raise RuntimeError('no')", 1),
        ('return "The hook was here."', "raise RuntimeError('no')", 1),
        ('return "The hook was here."', "return None", 0),
        ('return "The hook was here."', "return 3", 0),
    ],
)
def test_a_hook_that_does_not_load_costs_one_warning(fake_plugins, old, new, warnings):
    code = HOOK.replace(old, new)
    fake_plugins.add("p-hook", "[tinkex.hooks.config_get]\nh = p_hook:Hook\n", code)
    for words in (["config", "get", "timeout"], ["config", "get", "--help"]):
        done = invoke(words)
        assert done.exit_code == 0
        assert done.stdout
        assert done.stderr.count("\n") == done.stderr.count("p-hook") == warnings


@pytest.mark.parametrize("command", [["config", "show"], ["version"]])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", ["ValueError", "UsageError"])
def test_a_hook_that_fails_is_named_unless_it_means_to(fake_plugins, command, when, error):
    code = "from tinkex.exceptions import UsageError\n" + HOOK.replace(
        f"def {when}(self, parsed_args",
        f"def {when}(self, *args): raise {error}('not today')\n    def x(self, parsed_args",
    )
    entry = f"[tinkex.hooks.{'_'.join(command)}]\nh = p_hook:Hook\n"
    fake_plugins.add("p-hook", entry, code)
    done = invoke(command)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "not today" in done.stderr
    named = "failed: the hook 'h' of plugin p-hook 1.0 failed (ValueError: not today)\n"
    assert (named in done.stderr) is (error == "ValueError")
    assert ("export TINKEX_PLUGINS=-p-hook\n" in done.stderr) is (error == "ValueError")


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("names + ('more',), rows", "a row has 13 values for 14 columns: name, "),
        ("names, ((1,) for row in rows)", "a row has 1 value for 13 columns: name, "),
        ("3", "after() of the hook 'h' must return column names and rows"),
    ],
)
def test_of_three_hooks_the_one_that_returns_other_rows_is_named(fake_plugins, returned, why):
    for name in ("p_first", "p_hook", "p_last"):
        code = HOOK.replace("--twice", f"--{name}").replace("parsed_args.twice", "False")
        if name == "p_hook":
            code = code.replace("return names, rows", f"return {returned}; names, rows")
        entry = f"[tinkex.hooks.profile_list]\nh = {name}:Hook\n"
        fake_plugins.add(name.replace("_", "-"), entry, code)
    done = invoke(["profile", "list", "--json"])
    assert (done.exit_code, done.stdout) == (1, "")
    error = json.loads(done.stderr)["error"]
    assert f"this is a bug in the plugin p-hook 1.0 ({why}" in error["message"]
    assert error["hint"] == "To run without this plugin: export TINKEX_PLUGINS=-p-hook"


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


def test_a_name_that_two_claim(fake_plugins):
    for name in ("p_one", "p_two"):
        entries = f"[tinkex.commands]\ngreet = {name}:Hello\nversion = {name}:Hello\n"
        fake_plugins.add(name.replace("_", "-"), entries, COMMAND)
    assert invoke(["version"]).stdout.startswith("tinkex 0.")  # the built-in one wins
    done = invoke(["greet"])
    assert done.exit_code == 1
    assert "two plugins define the command 'greet': p-one and p-two" in done.stderr


def test_only_the_named_distributions_are_loaded(fake_plugins, monkeypatch):
    fake_plugins.add("p-one", "[tinkex.commands]\ngreet = p_one:Hello\n", COMMAND)
    fake_plugins.add("p-two", "[tinkex.commands]\ngreet = p_two:Hello\n", "1/0")
    fake_plugins.add("p-hook", "[tinkex.hooks.greet]\nh = p_hook:Hook\n", HOOK)
    for value in ("p-one", " P_One , p-one,", "p-one,no-such"):
        monkeypatch.setenv("TINKEX_PLUGINS", value)
        done = invoke(["greet"])
        assert (done.stdout, done.stderr) == ("hello\n", ""), value
        assert "--twice" not in invoke(["greet", "--help"]).stdout
    for value in ("-p-one", "p-two,p-one,-p_one", "-p.one,-p-hook"):
        monkeypatch.setenv("TINKEX_PLUGINS", value)
        assert "p-two 1.0 does not load" in invoke(["greet"]).stderr, value
    monkeypatch.setenv("TINKEX_PLUGINS", "-p-two")
    assert invoke(["greet", "--twice"]).stdout == "hello\nhello\n"
    monkeypatch.setenv("TINKEX_PLUGINS", "-tinkex-local")
    local = invoke(["--profile", "local", "run", "list"])
    assert "TINKEX_PLUGINS disables tinkex-local." in local.stderr
    monkeypatch.setenv("TINKEX_PLUGINS", "p-one,p-hook")
    assert invoke(["greet", "--twice"]).stdout == "hello\nhello\n"
    for value in ("", " , "):
        monkeypatch.setenv("TINKEX_PLUGINS", value)
        assert "is not a tinkex command" in invoke(["greet"]).stderr
        assert "checkpoint list" in invoke(["help"]).stdout
        local = invoke(["--profile", "local", "run", "list"])
        assert "TINKEX_PLUGINS omits tinkex-local." in local.stderr


PROFILES = """
def corp():
    return {"base_url": "http://127.0.0.1:9", "api_key": "tml-dummy"}

def wrong():
    return ["base_url"]

def misspelt():
    return {"base_ulr": "x"}
"""


@pytest.mark.parametrize(
    ("option", "more"),
    [
        ("--all", ""),  # one of the command
        ("--timeout", ""),  # a global one
        ("--format", ""),
        ("--twice", "raise RuntimeError('no')"),
        ("--twice", "raise SystemExit(3)"),
        ("--twice", "from tinkex.exceptions import UsageError; raise UsageError('no')"),
    ],
)
def test_a_hook_whose_option_clashes_is_left_out_as_a_whole(fake_plugins, option, more):
    code = HOOK.replace(
        "return parser\n    def get_epilog",
        f"parser.add_argument('{option}', help='x')\n        {more}\n        return parser\n"
        "    def get_epilog",
    ).replace('"--twice"', '"--first"')
    fake_plugins.add("p-hook", "[tinkex.hooks.plugin_list]\nh = p_hook:Hook\n", code)
    for words in (["plugin", "list", "--all"], ["plugin", "list", "--help"]):
        done = invoke(words)
        assert (done.exit_code, "--first" in done.stdout) == (0, False), done.stderr
        assert done.stderr.startswith("Warning: the hook 'h' of plugin p-hook 1.0 failed (")
        assert done.stderr.endswith("); running without this hook\n")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("argument", ["'--so', required=True", "'place'", "'place', nargs='?'"])
def test_a_hook_cannot_demand_an_argument(fake_plugins, argument):
    code = HOOK.replace('"--twice", action="store_true"', argument)
    assert code != HOOK
    fake_plugins.add("p-hook", "[tinkex.hooks.version]\nh = p_hook:Hook\n", code)
    done = invoke(["version"])
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("Warning: the hook 'h' of plugin p-hook 1.0 failed (ValueError:")


def test_a_bad_hook_does_not_hide_options_after_the_command(fake_plugins):
    fake_plugins.add("p-hook", "[tinkex.hooks.config_get]\nh = gone:Hook\n")
    done = invoke(["config", "get", "timeout", "--timeout", "7s"])
    assert (done.stdout, done.stderr.count("p-hook 1.0")) == ("7s\n", 1)


def test_the_second_of_two_hooks_with_one_option_is_left_out(fake_plugins):
    for name in ("p-one", "p-two"):
        module = name.replace("-", "_")
        fake_plugins.add(name, f"[tinkex.hooks.version]\nh = {module}:Hook\n", HOOK)
    done = invoke(["version"])
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert "of plugin p-two 1.0 failed (ArgumentError: argument --twice: " in done.stderr


def test_the_hint_that_turns_a_plugin_off_can_be_pasted(fake_plugins, monkeypatch):
    code = HOOK.replace("return parsed_args", "1 / 0")
    fake_plugins.add("p-hook", "[tinkex.hooks.version]\nh = p_hook:Hook\n", code)
    fake_plugins.add("p-one", "[tinkex.commands]\ngreet = p_one:Hello\n", COMMAND)
    for before in (None, "p-one,p-hook", "-p-gone"):
        if before is not None:
            monkeypatch.setenv("TINKEX_PLUGINS", before)
        hint = invoke(["version"]).stderr.splitlines()[1]
        line = hint.removeprefix("Hint: To run without this plugin: ")
        pasted = subprocess.run(
            ["sh", "-c", f'{line}; printf %s "$TINKEX_PLUGINS"'], capture_output=True, text=True
        ).stdout
        environ = {"TINKEX_PLUGINS": pasted}
        assert invoke(["version"], environ=environ).stderr == ""
        assert invoke(["greet"], environ=environ).stdout == "hello\n"


FAULTY = """
from cliff.formatters.base import ListFormatter
from tinkex.columns import Size
from tinkex.commands.base import Command, Lister
from tinkex.exceptions import TinkexError
from tinkex.plugins import HttpPool

class Raises(Command):
    "Raise."
    def take_action(self, parsed_args):
        raise ValueError("not today")

class Exits(Raises):
    "Exit."
    def take_action(self, parsed_args):
        import sys
        sys.exit("bye")

class Connects(Raises):
    "Connect."
    def take_action(self, parsed_args):
        raise ConnectionRefusedError(111, "Connection refused")

class Mute(Exception):
    def __str__(self): 1 / 0

class Speechless(Raises):
    "Raise what has no text."
    def take_action(self, parsed_args):
        raise Mute

class Bare(TinkexError):
    def __init__(self): pass

class Unmade(Raises):
    "Raise an error of tinkex that is not initialized."
    def take_action(self, parsed_args):
        raise Bare

class Clashes(Raises):
    "Clash."
    def add_arguments(self, parser):
        parser.add_argument("--timeout")

class Nothing(Lister):
    "Return nothing."
    def take_action(self, parsed_args):
        pass

class Uneven(Lister):
    "Return rows of another length."
    column_names = ("one", "two")
    def take_action(self, parsed_args):
        return self.column_names, [(1, 2), (1, 2, 3)]

class Late(Uneven):
    "Fail in the third row."
    def take_action(self, parsed_args):
        return self.column_names, ((n, 1 // (2 - n)) for n in range(4))

class Cells(Uneven):
    "Fail in a cell."
    def take_action(self, parsed_args):
        class Bad(Size):
            def human_readable(self): 1 / 0
            machine_readable = human_readable
        return self.column_names, [(1, 2), (1, Bad(2))]

class Shout(ListFormatter):
    def add_argument_group(self, parser): pass
    def emit_list(self, column_names, data, stdout, parsed_args):
        for row in data:
            stdout.write("HELLO")
            row.shout()

class Pool(HttpPool):
    base_url, needs_api_key = "http://127.0.0.1:9", False
    def build(self, settings): return self
    def send(self, request, timeouts): raise KeyError("socket")
    def close(self): pass

class Empty(Pool):
    def send(self, request, timeouts): return None
"""
FAULTY_ENTRIES = """
[tinkex.commands]
raises = p_bad:Raises
exits = p_bad:Exits
connects = p_bad:Connects
speechless = p_bad:Speechless
unmade = p_bad:Unmade
clashes = p_bad:Clashes
nothing = p_bad:Nothing
uneven = p_bad:Uneven
late = p_bad:Late
cells = p_bad:Cells
[tinkex.formatters.list]
shout = p_bad:Shout
[tinkex.http_pools]
broken = p_bad:Pool
empty = p_bad:Empty
"""
OWN = "this is a bug in the plugin p-bad 2.1 "
EITHER = "this is a bug in tinkex or in the plugin p-bad 2.1 "


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("raises", f"Raises failed: {OWN}(ValueError: not today)"),
        ("exits", f"{OWN}(SystemExit: bye)"),
        ("connects", f"{OWN}(ConnectionRefusedError: [Errno 111] Connection refused)"),
        ("speechless", f"{OWN}(Mute)"),
        ("unmade", f"{OWN}(Bare)"),
        ("clashes", f"{OWN}(ArgumentError: argument --timeout: conflicting option string"),
        ("nothing", f"{EITHER}(TypeError: "),
        ("uneven", f"{OWN}(a row has 3 values for 2 columns: one, two)"),
        ("late", f"{OWN}(ZeroDivisionError: "),
        ("cells", f"{OWN}(ZeroDivisionError: "),
        ("config show -f shout", f"{OWN}(AttributeError: "),
        ("run list --http-pool broken", f"{OWN}(KeyError: 'socket')"),
        ("run list --http-pool empty", f"{EITHER}(AttributeError: 'NoneType' object"),
    ],
)
def test_a_failure_in_a_plugin_names_it_and_its_version(fake_plugins, words, what):
    fake_plugins.add("p-bad", FAULTY_ENTRIES, FAULTY, version="2.1")
    done = invoke(words.split())
    assert (done.exit_code, done.stdout) == (1, "")
    assert what in done.stderr.splitlines()[0]
    assert done.stderr.count("\n") == 2
    if "shout" in words:
        return
    done = invoke(words.split(), environ={"TINKEX_FORMAT": "json"})
    assert (done.exit_code, done.stdout) == (1, "")
    error = json.loads(done.stderr)["error"]
    assert (error["category"], what in error["message"]) == ("bug", True)


def test_a_command_without_an_action_names_its_plugin(fake_plugins):
    code = COMMAND.replace("def take_action", "def take_inaction")
    fake_plugins.add("p-idle", "[tinkex.commands]\ngreet = p_idle:Hello\n", code)
    done = invoke(["greet"])
    assert done.stderr.splitlines() == [
        "Command failed: p_idle:Hello of plugin p-idle 1.0 does not implement take_action",
        "Hint: Report this bug to the plugin's maintainers.",
    ]
    assert invoke(["help"]).exit_code == 0


def test_a_pool_that_wraps_a_missing_one_is_named(fake_plugins):
    code = f"""{FAULTY}
from tinkex.plugins import HTTP_POOLS, load_driver
class Wrapper(Pool):
    def __init__(self): self.inner = load_driver(HTTP_POOLS, "gone")
"""
    fake_plugins.add("p-bad", "[tinkex.http_pools]\nwrapper = p_bad:Wrapper\n", code)
    done = invoke(["run", "list", "--http-pool", "wrapper"])
    why = "'wrapper' of plugin p-bad 1.0 does not start: no HTTP pool named 'gone'"
    assert why in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[1].startswith("Hint: Known pools: ")


def test_what_does_not_start_is_a_bug_with_a_way_around_it(fake_plugins):
    entries = (f"[tinkex.{group}]\nbad = p_bad:x\n" for group in ("http_pools", "formatters.list"))
    fake_plugins.add("p-bad", "".join(entries), "def x(): 1 / 0")
    for words, what in (
        ("config show -f bad", "format"),
        ("run list --http-pool bad", "HTTP pool"),
    ):
        sentence, hint = invoke(words.split()).stderr.splitlines()
        assert f" failed: the {what} 'bad' of plugin p-bad 1.0 does not start" in sentence
        assert hint == (
            f"Hint: Choose another {what}, and report the problem to the maintainers of p-bad."
        )


def test_a_plugin_cannot_end_the_interactive_shell(fake_plugins):
    fake_plugins.add("p-bad", FAULTY_ENTRIES, FAULTY)
    done = invoke(["--keep-going"], stdin="exits\nversion\n")
    assert (OWN.replace("2.1", "1.0") in done.stderr, done.stdout[:7]) == (True, "tinkex ")


def test_a_pool_that_cannot_say_what_it_prefers_is_not_chosen(fake_plugins):
    code = f"""{FAULTY}
class Picky(Pool):
    @classmethod
    def preference(cls, settings): 1 / 0
"""
    fake_plugins.add("p-bad", "[tinkex.http_pools]\npicky = p_bad:Picky\n", code)
    words = ["run", "list", "--http-pool", "auto", "--base-url", "http://127.0.0.1:9"]
    done = invoke([*words, "--timeout", "1ms", "--api-key", "tml-dummy", "--json"])
    whole = json.loads(done.stderr)
    assert whole["error"]["category"] == "server"
    assert "the HTTP pool 'picky' of plugin p-bad 1.0 failed (ZeroDi" in whole["warnings"][0]


@pytest.mark.parametrize("command", ["late", "cells", "uneven"])
@pytest.mark.parametrize("format", ["json", "csv", "yaml", "value", "table", "plain"])
def test_a_list_whose_rows_fail_leaves_standard_output_empty(fake_plugins, command, format):
    fake_plugins.add("p-bad", FAULTY_ENTRIES, FAULTY)
    done = invoke([command, "-f", format])
    assert (done.exit_code, done.stdout) == (1, "")


def test_a_bug_of_tinkex_accuses_no_plugin(fake_plugins, monkeypatch):
    fake_plugins.add("p-bad", FAULTY_ENTRIES, FAULTY)
    monkeypatch.setattr("tinkex.commands.profile.ListProfile.take_action", lambda *_: 1 / 0)
    done = invoke(["profile", "list"])
    assert done.stderr.startswith("Profile list failed: this is a bug in tinkex (ZeroDivisionError")
    with pytest.raises(PluginError) as caught:
        tinkex.run(["raises"])
    assert caught.value.category == "bug"


WARNS = f"""
import logging, sys, warnings
print("printed")
print("in red", file=sys.stderr)
logging.getLogger("p_loud").warning("logged")
warnings.warn("warned")
{COMMAND}
        pass
class Fails(Hello):
    "Fail."
    def take_action(self, parsed_args):
        raise ValueError("no")
"""


def test_what_else_is_written_to_standard_error_is_part_of_a_json_error(fake_plugins):
    entries = "[tinkex.commands]\nloud = p_loud:Hello\nfails = p_loud:Fails\n"
    hooks = "".join(f"[tinkex.hooks.{name}]\nh = gone:Hook\n" for name in ("loud", "fails"))
    fake_plugins.add("p-loud", entries + hooks, WARNS)

    def stderr(*words: str) -> str:
        program = [sys.executable, "-W", "always::UserWarning", "-m", "tinkex"]
        done = subprocess.run([*program, *words], capture_output=True, text=True, timeout=60)
        assert (done.returncode, bool(done.stdout)) == (
            (0, True) if "loud" in words else (1, False)
        )
        return done.stderr

    def written(lines: list[str]) -> list[bool]:
        texts = ("printed", "in red", "logged", "UserWarning: warned", "No module named 'gone'")
        return [any(text in line for line in lines) for text in texts]

    whole = json.loads(stderr("fails", "--json"))
    assert (whole["error"]["category"], written(whole["warnings"])) == ("bug", [True] * 5)
    assert written(stderr("loud", "--json").splitlines()) == [True] * 5
    assert written(stderr("fails").splitlines()) == [True] * 5


def test_profiles_of_plugins(fake_plugins, home):
    names = ("corp", "wrong", "misspelt", "gone")
    entries = "".join(f"{name} = p_profiles:{name}\n" for name in names)
    fake_plugins.add("p-profiles", f"[tinkex.profiles]\n{entries}", PROFILES)
    done = invoke(["--profile", "corp", "config", "get", "base_url"])
    assert done.stdout == "http://127.0.0.1:9\n"
    rows = {row["name"] for row in invoke(["profile", "list", "-f", "json"]).rows}
    assert rows & {*names, "local", "default"} == {"corp", "local", "misspelt"}
    for name, what in (
        ("wrong", "the profile 'wrong' of plugin p-profiles 1.0 does not return a mapping"),
        ("gone", "p-profiles 1.0 does not load"),
        ("misspelt", "unknown setting 'base_ulr'"),
        ("default", "no profile named 'default'"),
    ):
        done = invoke(["--profile", name, "run", "list"])
        assert (done.exit_code, done.stdout) == (1, "")
        assert what in done.stderr
    # A profile in the file replaces that of the plugin, and starts with its settings.
    assert invoke(["--profile", "corp", "config", "set", "timeout", "5s"]).exit_code == 0
    assert "tml-dummy" in (home / ".config" / "tinkex" / "config.yaml").read_text()
    invoke(["profile", "add", "corp", "--base-url", "http://127.0.0.1:8", "--force"])
    assert invoke(["--profile", "corp", "config", "get", "base_url"]).stdout.endswith(":8\n")


def test_how_to_install_follows_where_tinkex_came_from(tmp_path, monkeypatch):
    sources = tmp_path / "my sources"
    (sources / "plugins" / "tinkex-local").mkdir(parents=True)
    vcs = {"vcs": "git", "commit_id": "0c77543"}
    directory = {"url": sources.as_uri(), "dir_info": {"editable": True}}
    by_name = "pip install tinkex-local"
    for origin, command in (
        (None, by_name),
        (directory, f"pip install '{sources}/plugins/tinkex-local'"),
        ({**directory, "url": "file:///no/such"}, by_name),
        (
            {"url": "https://git.example/tinkex.git", "vcs_info": vcs},
            "pip install 'tinkex-local @ git+https://git.example/tinkex.git@0c77543"
            "#subdirectory=plugins/tinkex-local'",
        ),
        ({"url": "https://x.example/tinkex.whl", "archive_info": {}}, by_name),
    ):
        text = origin and json.dumps(origin)
        known = {"tinkex": SimpleNamespace(read_text={"direct_url.json": text}.get)}
        monkeypatch.setattr(plugins, "find_distribution", known.get)
        assert plugins.how_to_get("tinkex-local") == f"Install it: {command}"


# ---------------------------------------------------------------------- finding entry points


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that finds the commands in directories of the temporary one."""

    def find(*directories: str) -> list[str]:
        plugins.installed.cache_clear()
        monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in directories or ("",)])
        return sorted(entry_point.name for entry_point in entry_points(GROUP))

    return find


def install(directory: Path, text: str | bytes) -> None:
    directory.mkdir(parents=True)
    project = directory.name.partition("-")[0].partition(".")[0]
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1\n")
    content = text if isinstance(text, bytes) else text.encode()
    (directory / "entry_points.txt").write_bytes(content)


ONE = f"[{GROUP}]\none = one:Command\n"


@pytest.mark.parametrize("name", ["one-1.0.dist-info", "one.egg-info", "one-1-py3.11.egg-info"])
def test_every_form_of_metadata_is_read(tmp_path, find, name):
    install(tmp_path / name, ONE)
    assert find() == ["one"]
    (entry_point,) = entry_points(GROUP)
    assert entry_point.value == "one:Command"
    assert entry_point.dist is not None
    entry_points(GROUP).clear()  # a caller may change the list
    assert find() == ["one"]


@pytest.mark.parametrize("broken", [b"\xff\xfe = x:Y\n", b"no equals sign\n"])
def test_a_broken_file_costs_its_own_plugin_only(tmp_path, find, broken):
    install(tmp_path / "bad-1.dist-info", b"[tinkex.commands]\n" + broken)
    install(tmp_path / "good-1.dist-info", ONE)
    (tmp_path / "two-1.0.dist-info").write_text("a file")
    (tmp_path / "three-1.0.dist-info").mkdir()
    (tmp_path / "no.zip").write_text("no archive")
    assert "one" in find("missing", "no.zip", "")
    install(tmp_path / "after" / "GOOD-2.dist-info", ONE.replace("one =", "other ="))
    assert "other" not in find("", "after")  # the first of a name counts


def test_it_finds_what_importlib_finds():
    from importlib.metadata import entry_points as all_entry_points

    plugins.installed.cache_clear()
    for group in all_entry_points().groups:
        if group.startswith("tinkex."):
            theirs = {(ep.name, ep.value) for ep in all_entry_points(group=group)}
            assert {(ep.name, ep.value) for ep in entry_points(group)} == theirs
