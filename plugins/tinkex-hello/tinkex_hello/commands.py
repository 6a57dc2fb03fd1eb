"""The command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tinkex.commands.base import ShowOne


class Hello(ShowOne):
    """Greet, and count the training runs on the service."""

    column_names = ("greeting", "training_runs")
    examples = ("tinkex hello --name Ada",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--name", metavar="<name>", default="world", help="name to greet (default: world)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        runs = self.client.runs.list(limit=None)
        return self.column_names, (f"Hello, {parsed_args.name}!", len(runs))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"{record['greeting']} Training runs: {record['training_runs']}"]
