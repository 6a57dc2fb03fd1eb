"""tinkex: the command line for the Tinker API, as a plugin-based cliff application."""

from __future__ import annotations

# What `typing.TYPE_CHECKING` is; importing typing would double the time of `--version`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinkex.cli.calling import Result

__version__ = "0.1.0"
__all__ = ["__version__", "run"]


def run(argv: Sequence[str]) -> Result:
    """Run one command line from Python.

    Nothing is printed, the process does not exit, and no log handler stays behind. Files named by
    ``--output`` are written as on the command line.

    :param argv: the words after ``tinkex``: ``["checkpoint", "list", "--limit", "5"]``.
    :returns: the command's name, its typed result, and what it would have printed.
    :raises tinkex.exceptions.TinkexError: the command failed.
    """
    from tinkex.cli import calling

    return calling.run(argv)
