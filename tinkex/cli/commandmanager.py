"""Finds commands by entry points, importing only the one that runs.

cliff's own manager imports every command at every start, hides the errors of those that fail,
and takes unique prefixes for names (``checkpoint de`` would delete).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cliff.command
import cliff.commandmanager

from tinkex import plugins
from tinkex.commands import base
from tinkex.exceptions import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


_KINDS = (base.Command, base.Lister, base.ShowOne)


class LazyCommand:
    """An entry point whose import is guarded: what cliff's manager keeps for each name."""

    def __init__(self, entry_point: EntryPoint) -> None:
        self.entry_point = entry_point
        self.name = entry_point.name
        self.value = entry_point.value

    def load(self) -> type[cliff.command.Command]:
        """Return the command class.

        :raises PluginError: two plugins claim the name, the import fails, or it is no command.
        """
        return load(plugins.pick(plugins.COMMANDS, self.name))


def load(entry_point: EntryPoint) -> type[cliff.command.Command]:
    """Return the command class that *entry_point* names.

    :raises PluginError: the import fails, or it is no command of tinkex.
    """
    command = plugins.load(entry_point)
    if not (isinstance(command, type) and issubclass(command, _KINDS)):
        owner = plugins.distribution_of(entry_point)
        raise PluginError(
            f"{entry_point.value} of plugin {owner} is not a Command, Lister or ShowOne of "
            "tinkex.commands.base"
        )
    return command


class CommandManager(cliff.commandmanager.CommandManager):
    """Names by :mod:`tinkex.plugins`; exact names only; built-in names always win."""

    commands: dict[str, Any]

    def __init__(self) -> None:
        # cliff looks hooks up in "<namespace>.<command>"; the commands are in a group beside it.
        super().__init__(plugins.HOOKS)

    def _load_commands(self) -> None:
        self.load_commands(plugins.COMMANDS)

    def load_commands(self, namespace: str) -> None:
        self.group_list.append(namespace)
        for entry_point in plugins.entry_points(namespace):
            self.commands[entry_point.name.replace("_", " ")] = LazyCommand(entry_point)

    def add_command(self, name: str, command_class: type[cliff.command.Command]) -> None:
        # cliff adds its own `help` and `complete` to every application; ours are entry points.
        if name not in self.commands:
            super().add_command(name, command_class)

    def find_command(self, argv: list[str]) -> tuple[type[cliff.command.Command], str, list[str]]:
        """Return the class, the name and the remaining arguments of the longest match.

        :raises UsageError: no command has this name.
        :raises PluginError: the command does not load.
        """
        for end in range(self._get_last_possible_command_index(argv), 0, -1):
            name = " ".join(argv[:end])
            if name in self.commands:
                return self.commands[name].load(), name, argv[end:]
        words = argv[: self._get_last_possible_command_index(argv)][:3]
        from tinkex.cli.errors import unknown_command

        raise unknown_command(words or argv[:1], self.commands)

    def below(self, noun: str) -> list[str]:
        """Return the names of the commands below *noun*, which may itself be none."""
        return sorted(name for name in self.commands if name.startswith(noun + " "))
