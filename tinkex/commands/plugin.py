"""What is installed."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from tinkex import commandmanager, plugins
from tinkex.commands.base import Lister
from tinkex.exceptions import PluginError


class ListPlugin(Lister):
    """List every entry point that tinkex uses, and why one does not load."""

    column_names = ("group", "name", "distribution", "version", "error")
    droppable = ("version",)
    examples = ("tinkex plugin list", "tinkex plugin list --all -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--all", action="store_true", help="also what tinkex itself brings, not only plugins"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        found = list(plugins.claims())
        names = Counter((ep.group, ep.name) for ep, _ in found)
        builtin = {(ep.group, ep.name) for ep, _ in found if plugins.is_builtin(ep)}
        rows = []
        for entry_point, distribution in found:
            key = (entry_point.group, entry_point.name)
            own = plugins.is_builtin(entry_point)
            if own and not parsed_args.all:
                continue
            error = self._trouble(entry_point, key in builtin and not own, names[key])
            rows.append((*key, distribution.name, distribution.version, error))
        self.result = [
            dict(zip(self.column_names, row, strict=True)) for row in sorted(rows, key=str)
        ]
        if not rows:
            self.status("No plugins are installed.")
        return self.column_names, rows

    @staticmethod
    def _trouble(entry_point: Any, shadowed: bool, count: int) -> str | None:
        if shadowed:
            return "not used: tinkex has one of this name"
        if count > 1 and not plugins.is_builtin(entry_point) and not _is_hook(entry_point.group):
            return "claimed by more than one plugin"
        try:
            if entry_point.group == plugins.COMMANDS:
                commandmanager.load(entry_point)
            else:
                plugins.load(entry_point)
        except PluginError as error:
            return str(error.__cause__ or error)
        return None


def _is_hook(group: str) -> bool:
    # Any number of hooks may listen to one command.
    return group.startswith(plugins.HOOKS + ".")
