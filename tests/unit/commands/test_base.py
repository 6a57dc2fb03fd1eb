"""What the base classes give to every command, of tinkex or of a plugin."""

from __future__ import annotations

import pytest

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
note_list = p_note:ListNote
note_slow = p_note:SlowNote
note_some = p_note:SomeNote
note_show = p_note:ShowNote
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
    groups = (f"[tinkex.hooks.note_{word}]\nh = p_hook:OfRows" for word in ("list", "slow", "some"))
    hooks = "\n".join([*groups, "[tinkex.hooks.note_show]\nh = p_hook:OfOne\n"])
    fake_plugins.add("p-note", ENTRIES, COMMANDS)
    fake_plugins.add("p-hook", hooks, HOOKS)

    done = invoke(["note", *words, "-f", "plain"])

    assert (done.stdout, done.stderr) == (shown, "")
