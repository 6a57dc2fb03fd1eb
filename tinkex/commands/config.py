"""The effective settings."""

from __future__ import annotations

import argparse
from typing import Any

from tinkex.columns import Structure
from tinkex.commands.base import Lister


class ShowConfig(Lister):
    """Show every effective setting and where it comes from, the key masked."""

    operation = "Config show"
    column_names = ("name", "value", "origin")
    examples = ("tinkex config show", "tinkex --profile local config show -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.settings import effective

        self.result = self.settings
        rows = [
            (name, Structure(value), origin) for name, value, origin in effective(self.settings)
        ]
        return self.column_names, rows
