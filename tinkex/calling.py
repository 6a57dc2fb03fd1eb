"""Command lines that are run from Python, for their typed results: :func:`tinkex.run`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinkex.exceptions import TinkexError
from tinkex.reports import as_tinkex_error
from tinkex.shell import TinkexApp


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
        code = app.execute(argv)
        if code:
            raise TinkexError(f"{app.operation_name()} ended with status {code}")
    except TinkexError:
        raise
    except Exception as error:
        raise as_tinkex_error(error) from error
    finally:
        app.close()
    command = app.command
    name = command.cmd_name if command is not None else "help"
    return Result(name, getattr(command, "result", None), stdout.getvalue())
