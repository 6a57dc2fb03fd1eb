"""Plugins: found by entry points alone, and unable to harm each other."""

from __future__ import annotations

import json
import sys

import pytest

from tinkex import plugins
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


@pytest.mark.parametrize("words", [["-f", "shout"], ["-fshout"], ["--format=shout"], ["-qfshout"]])
def test_a_format_may_be_named_in_every_way_that_options_have(fake_plugins, words):
    fake_plugins.add("p-format", "[tinkex.formatters.list]\nshout = p_format:Shout\n", FORMATTER)
    done = invoke(["config", "show", *words])
    assert done.stdout.splitlines()[0].endswith("!"), done.stderr
    if "-q" not in words[0]:  # of several letters in one word, its own options are not looked for
        done = invoke(["config", "show", *words, "--mark=?"])
        assert done.stdout.splitlines()[0].endswith("?"), done.stderr


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


@pytest.mark.parametrize("end", ["raise RuntimeError('no')", "return None", "return 3"])
def test_hook_whose_help_breaks_costs_one_warning(fake_plugins, end):
    code = HOOK.replace('return "The hook was here."', end)
    fake_plugins.add("p-hook", "[tinkex.hooks.config_get]\nh = p_hook:Hook\n", code)
    for words in (["config", "get", "timeout"], ["config", "get", "--help"]):
        done = invoke(words)
        assert done.exit_code == 0
        assert done.stderr.count("p-hook") == end.startswith("raise")


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
    assert rows["p-bad"]["error"] == "ImportError: gone"
    assert "tinkex has one of the same name" in rows["p-shadow"]["error"]
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


def test_only_the_named_distributions_are_loaded(fake_plugins, monkeypatch):
    fake_plugins.add("p-one", "[tinkex.commands]\ngreet = p_one:Hello\n", COMMAND)
    fake_plugins.add("p-two", "[tinkex.commands]\ngreet = p_two:Hello\n", COMMAND)
    fake_plugins.add("p-hook", "[tinkex.hooks.greet]\nh = p_hook:Hook\n", HOOK)
    for value in ("p-one", " P_One , p-one,", "p-one,no-such"):
        monkeypatch.setenv("TINKEX_PLUGINS", value)
        done = invoke(["greet"])
        assert (done.stdout, done.stderr) == ("hello\n", ""), value
        assert "--twice" not in invoke(["greet", "--help"]).stdout
        assert "p_two" not in sys.modules
    monkeypatch.setenv("TINKEX_PLUGINS", "p-one,p-hook")
    assert invoke(["greet", "--twice"]).stdout == "hello\nhello\n"
    monkeypatch.delenv("TINKEX_PLUGINS")
    assert "two plugins claim" in invoke(["greet"]).stderr


@pytest.mark.parametrize("value", ["", " , "])
def test_no_plugins_leaves_what_is_built_in(fake_plugins, monkeypatch, value):
    fake_plugins.add("p-one", "[tinkex.commands]\ngreet = p_one:Hello\n", "1/0")
    fake_plugins.add("p-hook", "[tinkex.hooks.config_show]\nh = p_hook:Hook\n", "1/0")
    monkeypatch.setenv("TINKEX_PLUGINS", value)
    assert "is not a tinkex command" in invoke(["greet"]).stderr
    done = invoke(["config", "show", "-f", "json"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "checkpoint list" in invoke(["help"]).stdout


def test_the_local_profile_says_why_it_is_not_there(monkeypatch):
    pytest.importorskip("tinkex_local")
    monkeypatch.setenv("TINKEX_PLUGINS", "tinkex-hello")
    done = invoke(["--profile", "local", "run", "list"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "TINKEX_PLUGINS does not name tinkex-local." in done.stderr


def test_plugin_list_tells_what_was_left_out_and_what_is_not_there(fake_plugins, monkeypatch):
    fake_plugins.add("p-one", "[tinkex.commands]\ngreet = p_one:Hello\n", COMMAND)
    fake_plugins.add("p-two", "[tinkex.commands]\ngreet = p_two:Hello\n", "1/0")
    monkeypatch.setenv("TINKEX_PLUGINS", "p.one,p-nix,q-nix")
    done = invoke(["plugin", "list", "-f", "json"])
    errors = {row["distribution"]: row["error"] for row in done.rows}
    assert errors["p-one"] is None
    assert errors["p-two"] == "not used: TINKEX_PLUGINS does not name p-two"
    assert done.stderr == ("Warning: TINKEX_PLUGINS names unknown distributions: p-nix, q-nix\n")
    assert invoke(["version"]).stderr == ""


def test_plugin_list_names_the_other_claimant(fake_plugins):
    fake_plugins.add("p-one", "[tinkex.commands]\ngreet = p_one:Hello\n", COMMAND)
    fake_plugins.add("p-two", "[tinkex.commands]\ngreet = p_two:Hello\n", COMMAND)
    rows = {row["distribution"]: row for row in invoke(["plugin", "list", "-f", "json"]).rows}
    assert rows["p-one"]["error"] == "claimed by more than one plugin: also by p-two"


EVERYTHING = """
[tinkex.commands]
greet_hello = p_all:Hello
greet_bad = p_gone:Hello
greet_clash = p_all:Clash
[tinkex.formatters.list]
shout = p_all:Shout
[tinkex.hooks.plugin_list]
h = p_all:Hook
[tinkex.http_pools]
pipe = p_all:Pool
[tinkex.tokenizers]
shelf = p_all:Shelf
"""
CLASH = """
class Clash(Hello):
    "Clash."
    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument("--timeout")
        return parser

class Pool: pass
class Shelf: pass
"""


def test_plugin_show_tells_all_that_a_distribution_adds(fake_plugins):
    fake_plugins.add("p-all", EVERYTHING, COMMAND + FORMATTER + HOOK + CLASH, version="3.1")
    fake_plugins.add("p-other", "[tinkex.hooks.greet_hello]\nh = p_other:Hook\n", HOOK)
    shown = invoke(["plugin", "show", "P_All", "-f", "json"]).rows
    errors = {member["name"]: member["error"] for member in shown.pop("errors")}
    assert shown == {
        "distribution": "p-all",
        "version": "3.1",
        "summary": None,
        "commands": [{"name": "greet hello", "summary": "Greet.", "options": []}],
        "hooks": [{"name": "h", "command": "plugin list", "options": ["--twice"]}],
        "formats": [{"name": "shout", "kinds": ["lists"]}],
        "http_pools": ["pipe"],
        "tokenizers": ["shelf"],
        "profiles": [],
    }
    assert errors == {
        "greet_bad": "ModuleNotFoundError: No module named 'p_gone'",
        "greet_clash": "ArgumentError: argument --timeout: conflicting option string: --timeout",
    }
    plain = invoke(["plugin", "show", "p-all"]).stdout.splitlines()
    assert plain[:3] == ["p-all 3.1", "commands:", "  greet hello"]
    assert "  h (on plugin list) --twice" in plain
    assert "HTTP pools:" in plain


def test_plugin_show_of_what_is_no_plugin(fake_plugins):
    fake_plugins.add("p-one", "[tinkex.commands]\ngreet = p_one:Hello\n", COMMAND)
    done = invoke(["plugin", "show", "p-oen"])
    assert (done.stdout, done.exit_code) == ("", 1)
    assert "no distribution is called 'p-oen'" in done.stderr
    assert "Hint: Did you mean p-one?" in done.stderr
    assert "adds nothing to tinkex" in invoke(["plugin", "show", "pytest"]).stderr
    assert invoke(["plugin", "show", ""]).exit_code == 1


def test_a_hook_that_raises_or_exits_when_made_costs_one_warning(fake_plugins):
    for name, code in (("p-raise", "raise ValueError('x')"), ("p-exit", "raise SystemExit(3)")):
        hook = HOOK + f"\n    def __init__(self, command):\n        {code}\n"
        module = name.replace("-", "_")
        fake_plugins.add(name, f"[tinkex.hooks.config_show]\n{name} = {module}:Hook\n", hook)
    done = invoke(["config", "show", "-f", "json"])
    assert done.exit_code == 0
    assert sorted(line.split()[6] for line in done.stderr.splitlines()) == ["p-exit", "p-raise"]


PROFILES = """
def corp():
    return {"base_url": "http://127.0.0.1:9", "api_key": "tml-dummy"}

def wrong():
    return ["base_url"]

def misspelt():
    return {"base_ulr": "x"}
"""


def test_profiles_that_plugins_bring(fake_plugins, tmp_path, monkeypatch):
    names = ("corp", "wrong", "misspelt", "gone")
    entries = "".join(f"{name} = p_profiles:{name}\n" for name in names)
    fake_plugins.add("p-profiles", f"[tinkex.profiles]\n{entries}", PROFILES)
    config = tmp_path / "config.yaml"
    monkeypatch.setenv("TINKEX_CONFIG", str(config))
    done = invoke(["--profile", "corp", "config", "get", "base_url"])
    assert done.stdout == "http://127.0.0.1:9\n"
    rows = invoke(["profile", "list", "-f", "json"]).rows
    assert {"corp", "local"} <= {row["name"] for row in rows}
    assert {"wrong", "gone", "default"}.isdisjoint({row["name"] for row in rows})
    for name, what in (
        ("wrong", "no mapping of settings"),
        ("gone", "p-profiles does not load"),
        ("misspelt", "unknown setting 'base_ulr'"),
        ("default", "no profile is called 'default'"),
    ):
        done = invoke(["--profile", name, "run", "list"])
        assert (done.exit_code, done.stdout) == (1, "")
        assert what in done.stderr
        assert len(done.stderr.splitlines()) <= 2
    shown = invoke(["plugin", "show", "p-profiles", "--json"]).rows
    assert shown["profiles"] == ["corp", "misspelt", "wrong"]
    # What is written takes the place of what is brought, and begins with it.
    assert invoke(["--profile", "corp", "config", "set", "timeout", "5s"]).exit_code == 0
    assert "tml-dummy" in config.read_text()
    invoke(["profile", "add", "corp", "--base-url", "http://127.0.0.1:8", "--force"])
    assert invoke(["--profile", "corp", "config", "get", "base_url"]).stdout.endswith(":8\n")


def test_pools_of_the_file_are_known_too(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text("http_pools: {office: {insecure: true}, odd: {driver: nix}}\n")
    monkeypatch.setenv("TINKEX_CONFIG", str(config))
    done = invoke(["--http-pool", "ofice", "run", "list"])
    assert "no HTTP pool is called 'ofice' (from --http-pool)" in done.stderr
    assert "Known: default, local, odd, office." in done.stderr
    done = invoke(["--http-pool", "odd", "run", "list"])  # only an installed one can be a driver
    assert "'nix'" in done.stderr
    assert "Known: default, local." in done.stderr


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
