"""Plugins: found by entry points alone, and unable to harm each other."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

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
"""
CLASH = f"""{COMMAND}
    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument("--timeout", help="clashes with a global option")
        return parser
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
    ("code", "what"),
    [
        ("raise ImportError('no such thing')", "no such thing"),
        ("import sys; sys.exit(9)", "SystemExit"),
        ("def broken(:", "SyntaxError"),
        ("", "has no attribute 'Hello'"),
        ("Hello = 3", "is not a Command, Lister or ShowOne"),
        ("from cliff.command import Command as Hello", "is not a Command, Lister or ShowOne"),
        (CLASH, "--timeout"),
    ],
)
def test_a_broken_command_costs_others_nothing_and_its_users_one_line(fake_plugins, code, what):
    fake_plugins.add("p-broken", "[tinkex.commands]\nbad = p_broken:Hello\n", code)
    assert invoke(["version"]).stderr == ""
    assert invoke(["help"]).exit_code == 0
    done = invoke(["bad"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert what in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_what_a_plugin_prints_when_imported_is_no_result(fake_plugins):
    fake_plugins.add(
        "p-loud", "[tinkex.commands]\ngreet = p_loud:Hello\n", "print('loud')" + COMMAND
    )
    assert invoke(["greet"]).stdout == "hello\n"
    assert "loud" not in invoke(["help"]).stdout


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
    fake_plugins.add(
        "p-hook", "[tinkex.hooks.config_get]\nh = p_hook:Hook\n", HOOK.replace(old, new)
    )
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


def test_a_hook_that_does_nothing_changes_nothing(fake_plugins):
    plain = invoke(["config", "show"]).stdout
    code = HOOK.replace("return parsed_args", "pass").replace(
        "return names, rows *", "return None #"
    )
    fake_plugins.add("p-hook", "[tinkex.hooks.config_show]\nh = p_hook:Hook\n", code)
    assert invoke(["config", "show"]).stdout == plain


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
    assert "two plugins define the command 'greet': p-one and p-two" in done.stderr
    assert invoke(["version"]).exit_code == 0


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
    assert "two plugins define" in invoke(["greet"]).stderr


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


# ---------------------------------------------------------------------- finding entry points


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only directory of the search path."""
    plugins.installed.cache_clear()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def install(place: Path, name: str, text: str | bytes) -> None:
    metadata = place / name
    metadata.mkdir(parents=True)
    project = name.partition("-")[0].partition(".")[0]
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1\n")
    content = text if isinstance(text, bytes) else text.encode()
    (metadata / "entry_points.txt").write_bytes(content)


def command(name: str) -> str:
    return f"[{GROUP}]\n{name} = {name}:Command\n"


def found(group: str = GROUP) -> list[str]:
    return sorted(entry_point.name for entry_point in entry_points(group))


@pytest.mark.parametrize("name", ["one-1.0.dist-info", "one.egg-info", "one-1-py3.11.egg-info"])
def test_every_form_of_metadata_is_read(place: Path, name: str):
    install(place, name, command("one"))

    assert found() == ["one"]


def test_an_entry_point_says_whose_it_is(place: Path):
    install(place, "one-1.0.dist-info", command("a"))

    (entry_point,) = entry_points(GROUP)

    assert (entry_point.group, entry_point.value) == (GROUP, "a:Command")
    assert entry_point.dist is not None
    assert entry_point.dist.name == "one"


def test_an_egg_is_read(place: Path, monkeypatch: pytest.MonkeyPatch):
    egg = place / "one-1.0-py3.11.egg"
    install(egg, "EGG-INFO", command("one"))
    monkeypatch.setattr(sys, "path", [str(egg)])

    assert found() == ["one"]


def test_an_archive_on_the_path_is_read(place: Path, monkeypatch: pytest.MonkeyPatch):
    archive = place / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("one-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: one\n")
        file.writestr("one-1.0.dist-info/entry_points.txt", command("one"))
    monkeypatch.setattr(sys, "path", [str(archive)])

    assert found() == ["one"]


@pytest.mark.parametrize("first", [command("new"), "[console_scripts]\nx = x:main\n"])
def test_the_first_distribution_of_a_name_counts(
    place: Path, monkeypatch: pytest.MonkeyPatch, first: str
):
    install(place / "before", "My_Plugin-2.dist-info", first)
    install(place / "after", "my.plugin-1.dist-info", command("old"))
    monkeypatch.setattr(sys, "path", [str(place / "before"), str(place / "after")])

    assert found() == (["new"] if "new" in first else [])


@pytest.mark.parametrize(
    "broken",
    [b"[tinkex.commands]\n\xff\xfe = x:Y\n", b"[tinkex.commands]\nno equals sign\n"],
)
def test_a_broken_file_costs_its_own_plugin_only(place: Path, broken: bytes):
    install(place, "bad-1.dist-info", broken)
    install(place, "good-1.dist-info", command("good"))

    assert "good" in found()


def test_what_is_no_directory_or_no_metadata_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    (place / "one-1.0.dist-info").write_text("a file")
    (place / "two-1.0.dist-info").mkdir()
    (place / "three").mkdir()
    (place / "no.zip").write_text("no archive")
    missing = [str(place / "missing"), str(place / "no.zip"), "", str(place)]
    monkeypatch.setattr(sys, "path", missing)
    monkeypatch.chdir(place)

    assert found() == []


def test_the_path_is_looked_at_once(place: Path, monkeypatch: pytest.MonkeyPatch):
    install(place, "one-1.0.dist-info", command("one"))
    assert found() == ["one"]
    install(place, "two-1.0.dist-info", command("two"))

    assert found() == ["one"]

    monkeypatch.setattr(sys, "path", [*sys.path, str(place / "more")])
    assert found() == ["one", "two"]


def test_a_caller_may_change_the_list(place: Path):
    install(place, "one-1.0.dist-info", command("one"))
    plugins.entry_points(GROUP).clear()

    assert found() == ["one"]


def test_it_finds_what_importlib_finds(monkeypatch: pytest.MonkeyPatch):
    from importlib.metadata import entry_points as all_entry_points

    monkeypatch.undo()
    plugins.installed.cache_clear()

    for group in all_entry_points().groups:
        if not group.startswith("tinkex."):
            continue
        theirs = {(ep.name, ep.value) for ep in all_entry_points(group=group)}
        assert {(ep.name, ep.value) for ep in entry_points(group)} == theirs
