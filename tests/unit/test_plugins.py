"""Plugins: found by entry points alone, and unable to harm each other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinkex import plugins
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


NOT_OURS = "p-broken is not a Command, Lister or ShowOne"


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
            "the HTTP pool 'bad' of plugin p-broken does not start",
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
    assert ("the hook 'h' of plugin p-hook failed" in done.stderr) is (error == "ValueError")
    assert ("TINKEX_PLUGINS" in done.stderr) is (error == "ValueError")


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
    monkeypatch.setenv("TINKEX_PLUGINS", "p-one,p-hook")
    assert invoke(["greet", "--twice"]).stdout == "hello\nhello\n"
    for value in ("", " , "):
        monkeypatch.setenv("TINKEX_PLUGINS", value)
        assert "is not a tinkex command" in invoke(["greet"]).stderr
        assert "checkpoint list" in invoke(["help"]).stdout
        local = invoke(["--profile", "local", "run", "list"])
        assert "TINKEX_PLUGINS does not name tinkex-local." in local.stderr


PROFILES = """
def corp():
    return {"base_url": "http://127.0.0.1:9", "api_key": "tml-dummy"}

def wrong():
    return ["base_url"]

def misspelt():
    return {"base_ulr": "x"}
"""


def test_profiles_of_plugins(fake_plugins, home):
    names = ("corp", "wrong", "misspelt", "gone")
    entries = "".join(f"{name} = p_profiles:{name}\n" for name in names)
    fake_plugins.add("p-profiles", f"[tinkex.profiles]\n{entries}", PROFILES)
    done = invoke(["--profile", "corp", "config", "get", "base_url"])
    assert done.stdout == "http://127.0.0.1:9\n"
    rows = {row["name"] for row in invoke(["profile", "list", "-f", "json"]).rows}
    assert rows & {*names, "local", "default"} == {"corp", "local", "misspelt"}
    for name, what in (
        ("wrong", "does not return a mapping of settings"),
        ("gone", "p-profiles does not load"),
        ("misspelt", "unknown setting 'base_ulr'"),
        ("default", "no profile is called 'default'"),
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
