"""Help for the program and for each command."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from tinkex import plugins
from tinkex.cli.commandmanager import Formatters
from tinkex.cli.errors import unknown_command
from tinkex.commands.base import Command
from tinkex.options import Parser, describe_formats, print_paged

#: Heading in the program's help → patterns of its commands; the first match counts.
_GROUPS = {
    "checkpoints": ("checkpoint", "checkpoint *", "alias *"),
    "sampling": ("run", "run batch", "model *", "tokens *"),
    "runs": ("run *", "session *"),
    "account": ("auth *", "billing *"),
    "settings": ("config *", "profile *", "complete", "doctor"),
    "plugins": ("plugin *",),
    "others": ("api", "help", "version"),
}
_IN_SHELL = """
in this shell:
  profile use <name>    switch to another profile, in this shell only
  <command> | less      pipe the output to a system command
  <command> > <file>    write the output to a file; >> appends
  exit                  leave the shell (also Ctrl-D)
"""


class Help(Command):
    """Show help for a command, a command group or tinkex itself."""

    notes = "'help options' describes the common options."
    examples = ("tinkex help", "tinkex help checkpoint list", "tinkex help options")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("words", metavar="<command>", nargs="*", help="command name")

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        # In the interactive shell the next words are a command, not keys for a pager.
        paged = not self.app.interactive_mode
        words = [word for word in parsed_args.words if not word.startswith("-")]
        manager, stdout = self.app.command_manager, self.app.stdout
        name = " ".join(words)
        if not words:
            more = "\n" + self._groups(manager.commands)
            more += _IN_SHELL if self.app.interactive_mode else ""
            print_paged(self.app.parser, stdout, more, paged=paged)
        elif name == "options":
            print_paged(self._shared_options(), stdout, paged=paged)
        elif name not in manager.commands and manager.below(name):
            stdout.write(f"commands:\n{manager.listing(manager.below(name), stdout)}")
        else:
            factory: Any
            factory, found, rest = manager.find_command(words)
            if rest:
                raise unknown_command(words, manager.commands)
            command = factory(self.app, self.app_args, found)
            print_paged(command.with_hooks(self.app.prog(found)), stdout, paged=paged)
        return 0

    def _groups(self, names: Iterable[str]) -> str:
        """Return a line for each command, below the heading of its group."""
        found: dict[str, list[str]] = {heading: [] for heading in _GROUPS}
        for name in sorted(names):
            fits = (h for h in _GROUPS if any(fnmatchcase(name, p) for p in _GROUPS[h]))
            found[next(fits, "plugins")].append(name)
        listing = self.app.command_manager.listing
        return "\n".join(
            f"{heading}:\n{listing(below, self.app.stdout)}" for heading, below in found.items()
        )

    def _shared_options(self) -> argparse.ArgumentParser:
        """Return a parser whose help describes the common options."""
        usage = f"{self.app.prog('<command>')} [options]"
        page = Parser(usage=usage, description="Options that many commands accept.")
        groups: dict[str | None, argparse._ArgumentGroup] = {}
        manager = self.app.command_manager
        for name in ("model list", "version"):  # a list, and one thing
            command: Any = manager.load(name)(self.app, self.app_args, name)  # type: ignore[arg-type]
            for shared in command.get_parser(name).folded:
                group = groups.setdefault(shared.title, page.add_argument_group(shared.title))
                known = page.option_strings()
                for action in shared._group_actions:
                    if action.option_strings[0] not in known:
                        group._add_action(action)
        default = "table on a terminal if the command only reads data, otherwise plain"
        kinds = (plugins.LIST_FORMATTERS, plugins.SHOW_FORMATTERS)
        formats = sorted({name for kind in kinds for name in Formatters(kind).names()})
        page._option_string_actions["-f"].help = describe_formats(formats, default)
        return page
