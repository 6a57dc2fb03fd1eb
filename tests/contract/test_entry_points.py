"""The conventions for the entry points of tinkex and of the plugins in this tree."""

from __future__ import annotations

import argparse
import configparser
import inspect
import re
from collections import Counter
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest

from tinkex import plugins, testing
from tinkex.options import Parser, add_global_options

ROOT = Path(__file__).resolve().parents[2]


def declared(setup_cfg: Path) -> tuple[str, set[tuple[str, str, str]]]:
    """Return the name and the entry points (group, name, value) of a ``setup.cfg``."""
    config = configparser.ConfigParser(interpolation=None, delimiters="=")
    config.optionxform = str  # type: ignore[assignment, method-assign]
    config.read(setup_cfg, encoding="utf-8")
    found = {
        (group.strip(), *(part.strip() for part in line.split("=", 1)))
        for group, lines in config["options.entry_points"].items()
        for line in lines.splitlines()
        if line.strip()
    }
    return config["metadata"]["name"], found  # type: ignore[return-value]


DISTRIBUTIONS = dict(
    declared(path) for path in [ROOT / "setup.cfg", *ROOT.glob("plugins/*/setup.cfg")]
)
ENTRY_POINTS = [
    EntryPoint(name, value, group)
    for found in DISTRIBUTIONS.values()
    for group, name, value in sorted(found)
]
COMMANDS = [ep for ep in ENTRY_POINTS if ep.group == plugins.COMMANDS]

#: Commands that are a noun alone and are not called as it is.
NOUNS_THAT_DO = {"checkpoint": "SaveCheckpoint", "run": "Sample"}


def label(entry_point: EntryPoint) -> str:
    return f"{entry_point.group}:{entry_point.name}"


def parser_of(entry_point: EntryPoint) -> argparse.ArgumentParser:
    name = entry_point.name.replace("_", " ")
    return entry_point.load()(None, None, name).get_parser(f"tinkex {name}")


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_distribution_is_installed_as_declared_and_passes_the_published_check(name: str):
    installed = {(ep.group, ep.name, ep.value) for ep in distribution(name).entry_points}

    assert installed == DISTRIBUTIONS[name], "run pip install -e again (make does)"
    if any(group.startswith("tinkex.") for group, _, _ in installed):  # not an engine alone
        testing.check_distribution(name)


def test_no_name_is_claimed_twice_and_every_group_is_one_that_tinkex_reads():
    counts = Counter((ep.group, ep.name) for ep in ENTRY_POINTS)
    assert [key for key, count in counts.items() if count > 1] == []

    ours = {group for group, _ in counts if group.startswith("tinkex.")}
    assert {g for g in ours if not g.startswith(f"{plugins.HOOKS}.")} <= set(plugins.GROUPS)


#: Commands that have no ``-f json``, each with the reason why.
WITHOUT_JSON = {
    "api": "prints the answer of the service, which is JSON",
    "complete": "prints a script, or lines for it",
    "help": "prints a page for a person",
    "local_serve": "prints its address, and goes on",
}


@pytest.mark.parametrize("entry_point", COMMANDS, ids=label)
def test_a_command_keeps_the_conventions(entry_point: EntryPoint):
    *nouns, verb = entry_point.name.split("_")
    words = "-".join((verb, *nouns)).split("-")
    expected = "".join(word.capitalize() for word in words)
    assert re.fullmatch(r"[a-z]+([_-][a-z]+)*", entry_point.name)
    assert entry_point.load().__name__ == NOUNS_THAT_DO.get(entry_point.name, expected)

    doc = inspect.getdoc(entry_point.load()) or ""
    assert re.fullmatch(r"[A-Z][^\n.]*\.", doc), doc
    assert len(doc) <= 90

    parser = parser_of(entry_point)
    options = parser._option_string_actions
    assert ({"-f", "--format", "--json"} <= set(options)) == (entry_point.name not in WITHOUT_JSON)
    assert [action.dest for action in parser._actions if not action.help] == []
    for action in _group(parser, "options"):
        longest = max(action.option_strings, key=len)
        assert re.fullmatch(r"--[a-z]+(-[a-z0-9]+)*", longest), longest
        if action.nargs != 0 and not action.choices:
            assert re.fullmatch(r"<[a-z_]+(=[a-z_]+)?>", str(action.metavar)), longest


@pytest.mark.parametrize("entry_point", COMMANDS, ids=label)
def test_o_is_short_for_output_wherever_there_is_output(entry_point: EntryPoint):
    options = parser_of(entry_point)._option_string_actions
    assert options.get("-o") is options.get("--output")


def test_no_option_of_a_command_shadows_a_global_one():
    """Another option that stored under the same name would change a setting without a word."""
    alone = Parser()
    add_global_options(alone, after_command=True)
    names = {action.dest for action in _group(alone, "global options")}
    for entry_point in COMMANDS:
        parser = parser_of(entry_point)
        storing = [action for action in parser._actions if action.dest in names]
        assert storing == _group(parser, "global options"), label(entry_point)


def _group(parser: argparse.ArgumentParser, title: str) -> list[argparse.Action]:
    return next(g for g in parser._action_groups if g.title == title)._group_actions
