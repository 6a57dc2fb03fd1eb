"""Errors of the API mention no options or commands; the command line adds hints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinkex
from tinkex import plugins

API = Path(tinkex.__file__).resolve().parent / "api"
NOUNS = {entry.name.partition("_")[0] for entry in plugins.entry_points(plugins.COMMANDS)}
#: An option, or the beginning of a command line.
COMMAND_LINE = re.compile(rf"--[a-z]|\btinkex ({'|'.join(sorted(NOUNS))})\b")
#: It prints command lines of curl.
EXEMPT = {"curl.py"}
FILES = sorted(path for path in API.rglob("*.py") if path.name not in EXEMPT)


def strings_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every string in *path* that is not a docstring."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield node.lineno, str(node.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(API)))
def test_no_string_of_the_api_names_an_option_or_a_command(path: Path):
    found = [(line, text) for line, text in strings_of(path) if COMMAND_LINE.search(text)]
    assert found == []
