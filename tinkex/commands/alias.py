"""Aliases: names that the user gives to checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tinkex.columns import plain_text
from tinkex.commands import arguments
from tinkex.commands.base import Lister, ShowOne
from tinkex.config import aliases

__all__ = ["ListAlias", "RemoveAlias", "SetAlias"]


class SetAlias(ShowOne):
    """Set an alias for a checkpoint, to use as @NAME."""

    is_action = True
    notes = (
        "An alias stores a full path. After 'alias set prod @latest', @prod keeps referring to "
        "that checkpoint even when a newer one is saved."
    )
    column_names = ("alias", "tinker_path", "previous")
    examples = (
        "tinkex alias set prod run-123:final",
        "tinkex alias set prod @latest:sampler",
        "tinkex run --model-path @prod --prompt 'Once upon a time'",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "name", metavar="<alias>", help="alias name: letters, digits, '-', '_' and '.'"
        )
        arguments.add_path(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        name = aliases.checked_name(parsed_args.name)
        path = arguments.checkpoint_path(self, parsed_args.tinker_path)
        previous = aliases.write(name, path)
        self.result = path
        return self.column_names, (f"@{name}", path, previous)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        alias, path, previous = map(plain_text, record.values())
        return [f"{alias} is {path}" + (f" (was {previous})" if previous not in ("", path) else "")]


class ListAlias(Lister):
    """List all aliases."""

    column_names = ("alias", "tinker_path")
    examples = ("tinkex alias list", "tinkex alias list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        self.result = known = aliases.read()
        return self.column_names, [(f"@{name}", path) for name, path in known.items()]


class RemoveAlias(Lister):
    """Remove aliases without deleting their checkpoints."""

    is_action = True
    column_names = ("alias", "tinker_path")
    examples = ("tinkex alias remove prod", "tinkex alias remove prod staging")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "names", metavar="<alias>", nargs="+", help="alias names, with or without @"
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        self.result = removed = aliases.remove([n.removeprefix("@") for n in parsed_args.names])
        return self.column_names, [(f"@{name}", path) for name, path in removed.items()]

    def plain_row(self, record: Mapping[str, Any]) -> str:
        return f"Removed {plain_text(record['alias'])} ({plain_text(record['tinker_path'])})"
