"""The command ``hello``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tinkex.commands.base import ShowOne


class Hello(ShowOne):
    """Print a greeting and the number of training runs."""

    column_names = ("greeting", "training_runs")
    examples = ("tinkex hello --name Ada",)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--name", metavar="<name>", default="world", help="name to greet (default: world)"
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        greeting = self.settings.plugin("tinkex-hello").greeting
        runs = self.client.runs.list(limit=None)
        return self.column_names, (f"{greeting}, {parsed_args.name}!", len(runs))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"{record['greeting']} Training runs: {record['training_runs']}"]
