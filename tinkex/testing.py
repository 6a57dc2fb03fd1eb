"""Helpers for the tests of plugins.

:func:`invoke` runs a command line in this process and returns all that a user would see;
:func:`check_distribution` checks the entry points of a distribution against what tinkex promises
its users of every command.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from typing import Any

from tinkex import plugins
from tinkex.exceptions import TinkexError

__all__ = ["Invocation", "check_distribution", "invoke"]


@dataclass(frozen=True)
class Invocation:
    """What one command line left behind.

    :ivar stdout: the result, and nothing else.
    :ivar stderr: status lines and errors.
    :ivar exit_code: 0 for success.
    """

    stdout: str
    stderr: str
    exit_code: int

    @property
    def rows(self) -> Any:
        """The decoded output of a command run with ``-f json``."""
        return json.loads(self.stdout)


class _Stream(io.StringIO):
    def __init__(self, text: str = "", *, terminal: bool = False) -> None:
        super().__init__(text)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def invoke(argv: Sequence[str], *, stdin: str = "", terminal: bool = False) -> Invocation:
    """Run *argv* (the words after ``tinkex``) and return what came of it.

    :param stdin: what the command finds on standard input.
    :param terminal: all three streams claim to be a terminal.
    """
    from tinkex.shell import TinkexApp

    stdout, stderr = _Stream(terminal=terminal), _Stream(terminal=terminal)
    app = TinkexApp(_Stream(stdin, terminal=terminal), stdout, stderr)
    code = app.run(list(argv))
    return Invocation(stdout.getvalue(), stderr.getvalue(), code)


def check_distribution(name: str) -> None:
    """Check every entry point that the distribution *name* adds to tinkex.

    :raises AssertionError: lists each fault: it does not load, a command is no tinkex command, its
        docstring is not one sentence, an argument has no help, an option hides a global one.
    """
    found = [
        ep
        for ep in distribution(name).entry_points
        if ep.group in plugins.GROUPS or ep.group.startswith(plugins.HOOKS + ".")
    ]
    faults = [fault for entry_point in found for fault in _faults(entry_point)]
    if not found:
        faults = [f"{name} has no entry point in any group of tinkex"]
    if faults:
        raise AssertionError("\n".join(faults))


def _faults(entry_point: Any) -> Iterator[str]:
    label = f"{entry_point.group}: {entry_point.name}"
    try:
        loaded = plugins.load(entry_point)
    except TinkexError as error:
        yield f"{label}: {error}"
        return
    if entry_point.group == plugins.COMMANDS:
        yield from (f"{label}: {fault}" for fault in _command_faults(loaded, entry_point.name))


def _command_faults(command: Any, name: str) -> Iterator[str]:
    from tinkex.commands.base import Command, Lister, ShowOne

    if not (isinstance(command, type) and issubclass(command, (Command, Lister, ShowOne))):
        yield "is no Command, Lister or ShowOne of tinkex.commands.base"
        return
    doc = inspect.getdoc(command) or ""
    if "\n" in doc or not doc.endswith("."):
        yield "its docstring must be one sentence that ends with a full stop"
    try:
        parser = command(None, None, name.replace("_", " ")).get_parser(name)  # type: ignore[arg-type]
    except (argparse.ArgumentError, ValueError) as error:
        yield f"its options clash: {error}"
        return
    for action in parser._actions:
        if not action.help:
            yield f"the argument {action.dest} has no help"
