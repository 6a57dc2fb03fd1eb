"""Command lines that are run from Python, for their typed results: :func:`tinkex.run`."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tinkex.cli.app import TinkexApp
from tinkex.cli.errors import as_tinkex_error
from tinkex.exceptions import TinkexError, UsageError


@dataclass(frozen=True)
class Result:
    """What a command run from Python returns.

    :ivar command: the command's name, such as ``checkpoint list``.
    :ivar value: its typed result: a page of checkpoints, a sample response, a metadata dict, …
    :ivar stdout: what the command line would have printed.
    """

    command: str
    value: Any
    stdout: str


def run(argv: Sequence[str]) -> Result:
    """Run one command line from Python; see :func:`tinkex.run`."""
    stdout = io.StringIO()
    app = TinkexApp(stdin=io.StringIO(), stdout=stdout, stderr=io.StringIO())
    app.remembers, app.keeps_result = False, True
    try:
        code = app.execute(_words(argv))
        if code:
            raise TinkexError(f"{app.operation_name()} ended with status {code}")
    except Exception as error:
        known = as_tinkex_error(error)
        if known is error:
            raise
        raise known from error
    finally:
        app.close()
    command = app.command
    name = command.cmd_name if command is not None else "help"
    return Result(name, getattr(command, "result", None), stdout.getvalue())


def _words(argv: Iterable[Any]) -> list[str]:
    """Return the words of a command line; a path is one, too.

    :raises UsageError: this is no list of words.
    """
    if isinstance(argv, (str, bytes)):
        raise UsageError(
            "a command line is a list of words, not one text",
            hint="For example: ['run', 'list'], or what shlex.split makes of the text.",
        )
    words = []
    for word in argv:
        try:
            words.append(os.fsdecode(word))
        except TypeError as error:
            raise UsageError(
                f"a word of a command line is a text, not {type(word).__name__}",
                hint="Numbers are written as texts: ['run', 'list', '--limit', '5'].",
            ) from error
    return words
