"""The table of the official command line is complete and lists only existing tinkex options."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.contract.test_official_sdk import pytestmark as needs_the_sdk
from tests.contract.test_official_sdk import with_the_sdk
from tinkex.cli.app import TinkexApp

PAGE = Path(__file__).resolve().parents[2] / "doc" / "source" / "reference" / "official-cli.rst"
#: Prints every command of the installed official program with its options.
INTROSPECT = """
import json, click
from tinker.cli.__main__ import main_cli
found = {}
def walk(command, path):
    context = click.Context(command, info_name=path[-1])
    options = [p for p in command.get_params(context) if p.param_type_name == "option"]
    group = isinstance(command, click.Group)
    found[" ".join(path)] = {
        "group": group,
        "options": [o for p in options for o in (*p.opts, *p.secondary_opts)],
    }
    for name in command.list_commands(context) if group else ():
        walk(command.get_command(context, name), [*path, name])
walk(main_cli, ["tinker"])
print(json.dumps(found))
"""
Named = tuple[str, tuple[str, ...]]


def named(cell: str) -> Named:
    """Return the command that *cell* names, and its options, of which the first may be with it."""
    first, *others = re.findall(r"``([^`]+)``", cell)
    words = first.split()
    command = [word for word in words if not word.startswith("-")]
    return " ".join(command), (*words[len(command) :], *others)


TABLE = re.findall(r"(?m)^   \* - (``.*)\n     - (.*)\n     -", PAGE.read_text(encoding="utf-8"))
ROWS = [(named(theirs), named(ours)) for theirs, ours in TABLE]


@pytest.fixture(scope="module")
def app() -> TinkexApp:
    return TinkexApp()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join([row[0][0], *row[0][1]]))
def test_what_the_table_names_exists(row: tuple[Named, Named], app: TinkexApp):
    program, _, name = row[1][0].partition(" ")
    assert program == "tinkex"
    if name:
        command = app.command_manager.commands[name].load()
        options = command(app, None, name).get_parser(name).option_strings()
    else:
        options = app.parser.option_strings()

    assert [option for option in row[1][1] if option not in options] == []


def test_every_row_is_read_and_has_both_directions():
    """An option there has an option here, unless the row is of a command alone."""
    assert len(ROWS) == PAGE.read_text(encoding="utf-8").count("\n   * - ") - 1
    assert [theirs for theirs, ours in ROWS if bool(theirs[1]) != bool(ours[1])] == []


def has_row(command: str, option: str | None = None) -> bool:
    return any(
        theirs[0] == command and (option in theirs[1] if option else not theirs[1])
        for theirs, _ in ROWS
    )


class TestInstalledProgram:
    pytestmark = needs_the_sdk

    @pytest.fixture(scope="class")
    @classmethod
    def official(cls):
        return json.loads(with_the_sdk("-c", INTROSPECT, env=dict(os.environ)))

    def test_has_nothing_that_the_table_lacks(self, official):
        commands = [name for name, found in official.items() if not found["group"]]
        lacking = [name for name in commands if not has_row(name)]
        for name, found in official.items():
            for option in found["options"]:
                # Help is one row, that of the program.
                if not has_row("tinker" if option == "--help" else name, option):
                    lacking.append(f"{name} {option}")

        assert len(commands) >= 19
        assert lacking == []

    def test_has_all_that_the_table_names(self, official):
        def has(name: str, options: tuple[str, ...]) -> bool:
            known = {"-h", *official[name]["options"]} if name in official else set()
            return name in official and known.issuperset(options)

        gone = [theirs for theirs, _ in ROWS if not has(*theirs)]

        assert gone == []
