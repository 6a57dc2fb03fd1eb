"""Arguments that name a checkpoint or a run, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tinkex.commands.base import Command, Lister, ShowOne

    AnyCommand = Command | Lister | ShowOne

__all__ = ["add_path", "add_paths", "checkpoint_path", "checkpoint_paths", "with_run"]

R = TypeVar("R")

_HELP = "checkpoint: tinker://RUN/KIND/NAME, RUN:NAME, RUN@latest or @latest"


def add_path(parser: argparse.ArgumentParser, name: str = "tinker_path") -> None:
    """Add an argument that names one checkpoint."""
    parser.add_argument(name, metavar="<tinker_path>", help=_HELP)


def add_paths(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add an argument ``tinker_paths`` that names any number of checkpoints."""
    parser.add_argument(
        "tinker_paths",
        metavar="<tinker_path>",
        nargs="*" if optional else "+",
        help=f"{_HELP}; several may be given, and all are tried",
    )


def checkpoint_path(command: AnyCommand, text: str, *, kind: str | None = None) -> str:
    """Return the path of the checkpoint that *text* names, and say it where it is not *text*.

    A full path costs no request, and needs no key.

    :param kind: ``training`` or ``sampler``: what is wanted where *text* leaves a choice.
    :raises UsageError: *text* names none, or several.
    """
    from tinkex.api.paths import TinkerPath
    from tinkex.api.resources.names import is_path, resolve_checkpoint

    if is_path(text):
        return str(TinkerPath.from_string(text))
    path = resolve_checkpoint(command.client, text, kind=kind)
    command.status(f"{text} is {path}")
    return path


def checkpoint_paths(command: AnyCommand, texts: list[str]) -> list[str]:
    """Return the paths that *texts* name, each once; all are read before anything is done."""
    return list(dict.fromkeys([checkpoint_path(command, text) for text in texts]))


def with_run(command: AnyCommand, text: str, do: Callable[[str], R]) -> R:
    """Return what *do* makes of the run that *text* names; say its id where it is not *text*.

    A full id costs no further request.

    :raises UsageError: *text* names none, or several.
    """
    from tinkex.api.resources import names

    def told(run_id: str) -> R:
        if run_id != text:
            command.status(f"{text} is {run_id}")
        return do(run_id)

    return names.with_run(command.client, text, told)
