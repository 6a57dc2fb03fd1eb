"""``-f markdown`` on commands of tinkex."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinkex.columns import Size
from tinkex.testing import invoke, isolated
from tinkex_hello.formats import MarkdownFormatter


@pytest.fixture(autouse=True)
def _home(tmp_path: Path) -> Iterator[None]:
    with isolated(tmp_path):
        yield


def test_a_list_is_a_markdown_table() -> None:
    lines = invoke(["config", "show", "-f", "markdown", "-c", "name", "-c", "description"]).stdout

    assert lines.splitlines()[:2] == ["| Name | Description |", "| --- | --- |"]
    assert lines.splitlines()[2] == "| profile | default profile |"


def test_an_object_is_a_markdown_table() -> None:
    lines = invoke(["version", "-f", "markdown", "-c", "version"]).stdout.splitlines()

    assert lines[:2] == ["| Field | Value |", "| --- | --- |"]
    assert lines[2].startswith("| Version | 0.")


def test_a_cell_cannot_end_its_row() -> None:
    out = io.StringIO()

    MarkdownFormatter().emit_list(
        ("name", "size_bytes"), [("a|b\\c", Size(1200))], out, argparse.Namespace()
    )

    assert out.getvalue().splitlines()[2] == "| a\\|b\\\\c | 1.2 kB |"
