"""The beginning of a new plugin."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinkex import plugins
from tinkex.commands.base import ShowOne
from tinkex.exceptions import UsageError
from tinkex.files import user_path

if TYPE_CHECKING:
    from tinkex.commands.skeleton import Names


class NewPlugin(ShowOne):
    """Write the skeleton of a plugin: a command, a format, a hook, and tests that pass."""

    is_action = True
    column_names = ("distribution", "package", "directory", "command", "format")
    examples = (
        "tinkex plugin new tinkex-stats",
        "tinkex plugin new tinkex-stats --directory ~/src/stats",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="<name>", help="name of the distribution: tinkex-stats")
        parser.add_argument(
            "--directory",
            metavar="<dir>",
            help="new or empty directory to write to (default: the name, in this directory)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.commands import skeleton

        names = skeleton.names_for(parsed_args.name)
        self._check_free(names)
        directory = user_path(parsed_args.directory or names.name)
        skeleton.write(skeleton.files(names), directory)
        self.result = {
            "distribution": names.name,
            "package": names.package,
            "directory": str(directory),
            "command": f"{names.noun} hello",
            "format": names.noun,
        }
        return self.column_names, tuple(self.result.values())

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        code = super().produce_output(parsed_args, column_names, data)
        self.app.stdout.flush()  # so that what is next is told last
        where = shlex.quote(self.result["directory"])
        self.status(f"Next: cd {where} && pip install -e '.[test]' && python -m pytest")
        return code

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Plugin {record['distribution']} written to {record['directory']}"]

    def _check_free(self, names: Names) -> None:
        groups = (plugins.LIST_FORMATTERS, plugins.SHOW_FORMATTERS)
        formats = {ep.name for group in groups for ep in plugins.entry_points(group)}
        taken = None
        if f"{names.noun} hello" in self.app.command_manager.commands:
            taken = f"the command '{names.noun} hello'"
        elif names.noun in formats:
            taken = f"the format '{names.noun}'"
        if taken:
            raise UsageError(
                f"{taken} already exists", hint="Choose another name; see: tinkex plugin list --all"
            )
