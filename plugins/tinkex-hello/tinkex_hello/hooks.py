"""The hook."""

from __future__ import annotations

import argparse
from typing import Any

from cliff.hooks import CommandHook


class ChangedHook(CommandHook):
    """Adds ``--changed`` to ``tinkex config show``."""

    def get_parser(self, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument(
            "--changed", action="store_true", help="leave out settings with their default value"
        )
        return parser

    def get_epilog(self) -> str:
        return ""

    def before(self, parsed_args: argparse.Namespace) -> argparse.Namespace:
        return parsed_args

    def after(self, parsed_args: argparse.Namespace, return_code: Any) -> Any:
        # A command that prints rows returns its column names and its rows.
        names, rows = return_code
        if parsed_args.changed:
            origin = list(names).index("origin")
            rows = [row for row in rows if row[origin] not in ("default", "not set")]
        return names, rows
