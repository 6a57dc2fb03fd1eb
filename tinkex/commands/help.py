"""Help, of the program and of each command."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from typing import Any

from tinkex.cli.errors import unknown_command
from tinkex.commands.base import Command
from tinkex.exceptions import PluginError
from tinkex.options import print_paged

_IN_SHELL = """
in this shell:
  profile use <name>    use another profile, in this shell only
  <command> | less      pipe the output to a command of the system
  <command> > <file>    write the output to a file; >> appends
  exit                  leave; so does Ctrl-D
"""


class Help(Command):
    """Show help: of the program, of a noun, or of one command."""

    examples = ("tinkex help", "tinkex help checkpoint", "tinkex help checkpoint list")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("words", metavar="<command>", nargs="*", help="name of the command")

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        # In the interactive shell the next words are a command, not keys for a pager.
        paged = not self.app.interactive_mode
        words = [word for word in parsed_args.words if not word.startswith("-")]
        manager = self.app.command_manager
        name = " ".join(words)
        if not words:
            more = _IN_SHELL if self.app.interactive_mode else ""
            listing = "\ncommands:\n" + self._listing(sorted(manager.commands))
            print_paged(self.app.parser, self.app.stdout, listing + more, paged=paged)
        elif name not in manager.commands and manager.below(name):
            self.app.stdout.write(f"commands:\n{self._listing(manager.below(name))}")
        else:
            factory: Any
            factory, found, rest = manager.find_command(words)
            if rest:
                raise unknown_command(words, manager.commands)
            command = factory(self.app, self.app_args, found)
            print_paged(command.with_hooks(self.app.prog(found)), self.app.stdout, paged=paged)
        return 0

    def _listing(self, names: list[str]) -> str:
        """Return a line for each command: its name and the first line of its docstring.

        On a terminal, a long line is wrapped.
        """
        width = max(map(len, names)) + 2
        lines = [f"  {name:{width}}{self._summary(name)}" for name in names]
        if self.app.stdout.isatty():
            columns = max(shutil.get_terminal_size().columns, width + 30)
            indent = " " * (width + 2)
            lines = [textwrap.fill(line, columns, subsequent_indent=indent) for line in lines]
        return "\n".join([*lines, ""])

    def _summary(self, name: str) -> str:
        try:
            command = self.app.command_manager.load(name)
        except PluginError as error:
            return f"({error})"
        # As inspect.getdoc(), without importing inspect.
        documented = (cls.__doc__ for cls in command.__mro__ if cls.__doc__)
        return next(documented, "").strip().partition("\n")[0].rstrip(".")
