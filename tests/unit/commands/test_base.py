"""What the base classes give to every command, of tinkex or of a plugin."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tinkex.files import plugin_directory
from tinkex.testing import invoke

COMMANDS = """
from tinkex.commands.base import Lister, ShowOne

class ListNote(Lister):
    "List notes."
    column_names = ("name", "text")
    plain_columns = ("text",)
    def take_action(self, parsed_args):
        return self.column_names, [("a", "first"), ("b", "second")]

class SlowNote(ListNote):
    "List notes, one after the other."
    def take_action(self, parsed_args):
        return self.column_names, iter([("a", "first"), ("b", "second")])

class SomeNote(ListNote):
    "List notes that are worth a line."
    def plain_row(self, record):
        return record["name"] * len(record) if record["name"] == "a" else None

class ShowNote(ShowOne):
    "Show a note."
    column_names = ("text",)
    def plain_lines(self, record):
        return [f"Note: {record['text']}"]
    def take_action(self, parsed_args):
        return self.column_names, ("first",)
"""
HOOKS = """
from cliff.hooks import CommandHook
from tinkex.columns import Size

class OfRows(CommandHook):
    def get_parser(self, parser):
        return parser
    def get_epilog(self):
        return ""
    def before(self, parsed_args):
        return parsed_args
    def after(self, parsed_args, data):
        names, rows = data
        return ("size", *names, "owner"), ((Size(1500), *row, "me") for row in rows)

class OfOne(OfRows):
    def after(self, parsed_args, data):
        names, values = data
        return (*names, "file_size"), (*values, Size(1500))
"""
ENTRIES = """
[tinkex.commands]
memo_list = p_note:ListNote
memo_slow = p_note:SlowNote
memo_some = p_note:SomeNote
memo_show = p_note:ShowNote
"""


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["list"], "first\t1500\tme\nsecond\t1500\tme\n"),
        (["slow"], "first\t1500\tme\nsecond\t1500\tme\n"),
        (["some"], "aa\t1500\tme\n"),
        (["show"], "Note: first\nFile size: 1500\n"),
        (["list", "-c", "owner", "-c", "text"], "first\tme\nsecond\tme\n"),
    ],
    ids=" ".join,
)
def test_columns_that_a_hook_adds_follow_the_plain_line(fake_plugins, words, shown):
    groups = (f"[tinkex.hooks.memo_{word}]\nh = p_hook:OfRows" for word in ("list", "slow", "some"))
    hooks = "\n".join([*groups, "[tinkex.hooks.memo_show]\nh = p_hook:OfOne\n"])
    fake_plugins.add("p-note", ENTRIES, COMMANDS)
    fake_plugins.add("p-hook", hooks, HOOKS)

    done = invoke(["memo", *words, "-f", "plain"])

    assert (done.stdout, done.stderr) == (shown, "")


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        (["OfRows", "OfRows"], "'h1' of plugin p-hook 1.0 adds the column 'size', which another"),
        (["OfText"], "'h0' of plugin p-hook 1.0 adds the column 'text', which the command already"),
    ],
)
def test_a_column_that_two_want_is_refused(fake_plugins, hooks, words):
    entries = [f"h{number} = p_hook:{hook}" for number, hook in enumerate(hooks)]
    of_text = HOOKS.replace("OfRows", "OfText").replace('"size"', '"text"').split("class OfOne")[0]
    fake_plugins.add("p-note", ENTRIES, COMMANDS)
    fake_plugins.add("p-hook", "\n".join(["[tinkex.hooks.memo_list]", *entries]), HOOKS + of_text)

    done = invoke(["memo", "list", "-f", "json"])

    assert (done.exit_code, done.stdout) == (1, "")
    assert f"the hook {words}" in done.stderr


def test_an_unknown_column_leads_to_the_option_that_may_add_it(fake_plugins):
    option = 'parser.add_argument("--owner", action="store_true", help="add it")'
    code = HOOKS.replace("        return parser", f"        {option}\n        return parser", 1)
    fake_plugins.add("p-note", ENTRIES, COMMANDS)
    fake_plugins.add("p-hook", "[tinkex.hooks.memo_list]\nh = p_hook:OfRows\n", code)
    for words in (["-c", "ownr"], ["--sort-column", "ownr"]):
        done = invoke(["memo", "list", *words])
        assert "no column named 'ownr'" in done.stderr
        assert done.stderr.endswith(". Plugin options that may add columns: --owner (p-hook).\n")
        assert "Plugin options" not in invoke(["memo", "list", "--owner", *words]).stderr


PLACES = """
from tinkex.commands.base import Command

class KeepNote(Command):
    "Keep a note."
    def take_action(self, parsed_args):
        for directory in (self.data_dir, self.cache_dir):
            (directory / "note").write_text("kept")
"""


def places(home: Path) -> list[Path]:
    """Return the directories of the plugin ``P.Keep``."""
    return [home / below / "tinkex/plugins/p-keep" for below in (".local/share", ".cache")]


def test_a_plugin_has_private_directories_for_data_and_cache(fake_plugins, home: Path):
    fake_plugins.add("P.Keep", "[tinkex.commands]\nmemo_keep = P.Keep:KeepNote\n", "")
    (fake_plugins.directory / "P").mkdir()
    (fake_plugins.directory / "P" / "Keep.py").write_text(PLACES)

    done = invoke(["memo", "keep"])

    assert (done.stderr, done.exit_code) == ("", 0)
    assert [(place / "note").read_text() for place in places(home)] == ["kept", "kept"]
    assert [stat.S_IMODE(place.stat().st_mode) for place in places(home)] == [0o700, 0o700]
    assert [plugin_directory(kind, "p_keep") for kind in ("data", "cache")] == places(home)
    state = plugin_directory("state", "p_keep")
    assert state == home / ".local" / "state" / "tinkex" / "plugins" / "p-keep"
    assert state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda place: place.mkdir(mode=0o755), "other users can access it"),
        (lambda place: place.symlink_to(place.parent), "it is not a directory"),
        (lambda place: place.write_text(""), "it is not a directory"),
    ],
    ids=["open", "link", "file"],
)
def test_a_directory_that_another_user_may_have_planted_is_refused(
    fake_plugins, home: Path, plant, reason: str
):
    fake_plugins.add("p-keep", "[tinkex.commands]\nmemo_keep = p_keep:KeepNote\n", PLACES)
    place = places(home)[0]
    place.parent.mkdir(parents=True)
    plant(place)

    done = invoke(["memo", "keep"])

    assert done.exit_code == 1
    assert done.stderr.endswith(f": cannot use {place}: {reason}\nHint: Move or rename it.\n")
