"""A format for Markdown tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from cliff.columns import FormattableColumn
from cliff.formatters.base import ListFormatter, SingleFormatter

from tinkex.columns import heading, plain_text


class MarkdownFormatter(ListFormatter, SingleFormatter):
    """A table for issues, chats and wikis."""

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """Add no options."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        _write_row(map(heading, column_names), stdout)
        _write_row(["---"] * len(column_names), stdout)
        for row in data:
            _write_row(map(_cell, row), stdout)

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        rows = zip(map(heading, column_names), data, strict=True)
        self.emit_list(("field", "value"), rows, stdout, parsed_args)


def _cell(value: Any) -> str:
    # Readable sizes and times; -f json has the raw values.
    text = value.human_readable() if isinstance(value, FormattableColumn) else plain_text(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")


def _write_row(cells: Iterable[str], stdout: TextIO) -> None:
    stdout.write("| " + " | ".join(cells) + " |\n")
