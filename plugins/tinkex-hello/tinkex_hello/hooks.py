"""A hook that adds an option to a command of tinkex."""

from __future__ import annotations

import argparse
from typing import Any

from cliff.hooks import CommandHook

from tinkex.files import plugin_directory


class NotesHook(CommandHook):
    """Adds ``--notes`` to ``tinkex checkpoint list``."""

    def get_parser(self, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument(
            "--notes", action="store_true", help="add a column with each checkpoint's note"
        )
        return parser

    def get_epilog(self) -> str:
        return ""

    def before(self, parsed_args: argparse.Namespace) -> argparse.Namespace:
        return parsed_args

    def after(self, parsed_args: argparse.Namespace, return_code: Any) -> Any:
        # A command that prints rows returns its column names and its rows.
        names, rows = return_code
        if not parsed_args.notes:
            return names, rows
        from tinkex_hello.notes import read_notes

        notes = read_notes(plugin_directory("data", "tinkex-hello"))
        place = list(names).index("tinker_path")
        # A generator: the rows may come page by page.
        return (*names, "note"), ((*row, notes.get(row[place], {}).get("note")) for row in rows)
