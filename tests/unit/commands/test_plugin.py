"""``tinkex plugin list``, ``show`` and ``new``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_plugins import COMMAND, FORMATTER, HOOK
from tinkex.testing import invoke


def test_plugin_list_shows_why_an_entry_point_is_not_used(fake_plugins, monkeypatch):
    entries = "[tinkex.commands]\ngreet = p_good:Hello\ngreet_all = p_good:Hello\n"
    hooks = "[tinkex.hooks.run_list]\nh = p_good:Hook\n[tinkex.formatters.list]\na = p_good:Shout\n"
    fake_plugins.add("p-good", entries + hooks, COMMAND + HOOK + FORMATTER, version="2.5")
    fake_plugins.add("p-bad", "[tinkex.commands]\nbad = p_bad:Hello\n", "raise ImportError('gone')")
    fake_plugins.add("p-shadow", "[tinkex.commands]\nversion = p_shadow:Hello\n", COMMAND)
    for name in ("p_one", "p_two"):
        entry = f"[tinkex.commands]\nhi = {name}:Hello\n"
        fake_plugins.add(name.replace("_", "-"), entry, COMMAND)
    rows = {row["distribution"]: row for row in invoke(["plugin", "list", "-f", "json"]).rows}
    adds = {"commands": ["greet", "greet all"], "formats": ["a"], "hooks": ["run list"]}
    assert tuple(rows["p-good"].values()) == ("p-good", "2.5", adds, None)
    assert rows["p-bad"]["error"] == "tinkex.commands: bad: ImportError: gone"
    assert "tinkex already uses this name" in rows["p-shadow"]["error"]
    assert rows["p-one"]["error"].endswith("also claimed by p-two")
    assert "tinkex" not in rows
    everything = invoke(["plugin", "list", "--all", "-f", "json"]).rows
    assert [row["error"] for row in everything if row["distribution"] == "tinkex"] == [None]


def test_plugin_list_has_one_line_a_distribution_at_80_columns(fake_plugins, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    entries = "[tinkex.commands]\ngreet = p_all:Hello\ngreet_all = p_all:Hello\n"
    pool = "[tinkex.http_pools]\npipe = p_all:Pool\n"
    fake_plugins.add("p-all", entries + pool, COMMAND + CLASH, version="3.1")
    hooks = "[tinkex.hooks.run_list]\nh = p_bad:Gone\n[tinkex.command]\ngreet = p_bad:Hello\n"
    fake_plugins.add("p-bad", hooks, HOOK)
    fake_plugins.add("p-off", entries, HOOK)
    monkeypatch.setenv("TINKEX_PLUGINS", "-p-off")
    done = invoke(["plugin", "list"], terminal=True)
    lines = [re.sub(r"[ |]+", " ", line).strip() for line in done.stdout.splitlines()]
    assert [line for line in lines if line.startswith("p-")] == [
        "p-all 3.1 2 commands, HTTP pool",
        "p-bad 1.0 hook broken",
        "p-off 1.0 2 commands off",
    ]
    assert done.stderr == "To see the errors in p-bad: tinkex plugin show p-bad\n"
    plain = invoke(["plugin", "list"]).stdout.splitlines()
    assert "p-all\t3.1\t2 commands, HTTP pool\t" in plain
    assert "p-off\t1.0\t2 commands\tnot used: TINKEX_PLUGINS disables p-off" in plain


def test_plugin_list_shows_what_tinkex_plugins_says(fake_plugins, monkeypatch):
    for name in ("p_one", "p_two"):
        entry = f"[tinkex.commands]\nhi = {name}:Hello\n"
        fake_plugins.add(name.replace("_", "-"), entry, COMMAND)
    for value, one, two in (
        ("p.one,p-nix,q-nix", None, "not used: TINKEX_PLUGINS omits p-two"),
        ("-P_two,-p-nix", None, "not used: TINKEX_PLUGINS disables p-two"),
    ):
        monkeypatch.setenv("TINKEX_PLUGINS", value)
        done = invoke(["plugin", "list", "-f", "json"])
        errors = {row["distribution"]: row["error"] for row in done.rows}
        assert (errors["p-one"], errors["p-two"]) == (one, two)
        plain = invoke(["plugin", "list"]).stderr
        assert plain.startswith("TINKEX_PLUGINS lists plugins that are not installed: "), plain
        assert ("p-nix (did you mean p-" in plain, "q-nix (" in plain) == (True, False)
        assert "TINKEX_PLUGINS lists plugins that are not installed: " in invoke(["doctor"]).stdout


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
from tinkex.plugins import HttpPool, TokenizerSource

class Clash(Hello):
    "Clash."
    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument("--timeout")
        return parser

class Pool(HttpPool):
    def build(self, settings): pass

class Shelf(TokenizerSource):
    def find(self, model, *, network): pass
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
        "formats": ["shout"],
        "http_pools": ["pipe"],
        "tokenizers": ["shelf"],
        "profiles": [],
        "settings": [],
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
    assert "the plugin 'p-oen' is not installed" in done.stderr
    assert "Hint: Did you mean p-one?" in done.stderr
    assert "adds nothing to tinkex" in invoke(["plugin", "show", "pytest"]).stderr
    assert invoke(["plugin", "show", ""]).exit_code == 1


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("-", "Tinkex-X", "a/b", "../a", "a--b", "a-", "1a", "tinkex-", "tinkex-1", "ä", "a_b"),
        *("a.b", "class", "json", "requests"),
        *["tinkex", "yaml", "tinkex-local", "tinkex-table", "tinkex-json"],
        *("", "a b", "a" * 61),
    ],
)
def test_bad_names_are_refused_and_nothing_is_written(name, cwd):
    done = invoke(["plugin", "new", "--", name])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Plugin new failed. Please check your inputs: ")
    assert "Hint: " in done.stderr
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        ("tinkex-local", "tinkex-local is already installed", "tinkex plugin show tinkex-local"),
        ("requests2 --noun run", "commands that start with 'run' already exist", "--noun WORD"),
        ("tinkex-facts --noun version", "the command 'version' already exists", "--noun WORD"),
        ("tinkex-runs --noun json", "the format 'json' already exists", "--noun WORD"),
        ("tinkex-x --noun 1a", "invalid command word: '1a'", "--noun stat."),
        (
            "json",
            "'json' is a Python keyword or the name of an existing package",
            "such as tinkex-json.",
        ),
    ],
)
def test_a_name_that_is_taken_has_a_hint(cwd, words, problem, hint):
    done = invoke(["plugin", "new", *words.split()])
    assert problem in done.stderr
    assert hint in done.stderr.splitlines()[1]
    assert list(cwd.iterdir()) == []


def test_the_noun_of_the_commands_may_be_given(cwd):
    made = invoke(["plugin", "new", "tinkex-runnings", "--noun", "walk-round", "--json"]).rows
    assert (made["command"], made["format"]) == ("walk-round list", "walk-round")
    hook = (cwd / "tinkex-runnings" / "tinkex_runnings" / "hooks.py").read_text()
    assert '"walk_round_text"' in hook


def test_directory_may_be_elsewhere_new_or_empty(cwd):
    (cwd / "empty").mkdir()
    inode = (cwd / "empty").stat().st_ino
    for directory in ("empty", "a/b/c", str(cwd / "absolute")):
        done = invoke(["plugin", "new", "tinkex-x", "--directory", directory, "--json"])
        assert done.rows["directory"] == directory, done.stderr
        assert (cwd / directory / "tinkex_x" / "commands.py").is_file()
    assert (cwd / "empty").stat().st_ino == inode
    assert (cwd / "a" / "b" / "c").stat().st_mode & 0o777 == (cwd / "a").stat().st_mode & 0o777


def test_what_is_there_is_never_touched(cwd):
    (cwd / "full").mkdir()
    (cwd / "full" / "mine.txt").write_text("mine")
    (cwd / "file").write_text("mine")
    for directory, what in (
        ("full", "is not empty"),
        ("file", "is not a directory"),
        ("file/x", "cannot"),
        ("~no-such-user/x", "no such home directory"),
    ):
        done = invoke(["plugin", "new", "tinkex-x", "--directory", directory])
        assert (done.exit_code, done.stdout) == (1, "")
        assert what in done.stderr, done.stderr
    assert sorted(p.name for p in cwd.rglob("*")) == ["file", "full", "mine.txt"]
