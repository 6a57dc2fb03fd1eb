"""tinkex: a command-line client for the Tinker API, a plugin-based cliff application."""

from __future__ import annotations

from tinkex.version import __version__

# That of typing, whose import would double the time of `--version`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinkex.cli.app import Result

__all__ = ["__version__", "run"]


def run(argv: Sequence[str]) -> Result:
    """Run one command line from Python.

    Nothing is printed, the process does not exit, and no log handler is left. Files named by
    ``--output`` are written as on the command line.

    :param argv: the arguments after ``tinkex``: ``["checkpoint", "list", "--limit", "5"]``.
    :returns: the command's name, its typed result, and the output that it would have printed.
    :raises tinkex.exceptions.TinkexError: the command failed.
    """
    from tinkex.cli import app

    return app.run(argv)
