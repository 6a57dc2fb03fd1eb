"""Options and arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tinkex.exceptions import UsageError
from tinkex.options import integer, moment

if TYPE_CHECKING:
    from tinkex.api.http.pagination import Page, Walk
    from tinkex.api.resources.selection import Selection
    from tinkex.commands.base import Command, Lister, ShowOne

    AnyCommand = Command | Lister | ShowOne

__all__ = [
    "SCOPES",
    "add_filters",
    "add_model_options",
    "add_order",
    "add_paging",
    "add_path",
    "add_paths",
    "add_scope",
    "add_type",
    "check_model_options",
    "checkpoint_path",
    "checkpoint_paths",
    "checkpoint_type",
    "given_filters",
    "holds_all",
    "selection",
    "sorting",
    "tell_rest",
    "with_run",
]

R = TypeVar("R")

#: Words for a kind of checkpoint: those of paths, and the service's own.
TYPE_WORDS = ("weights", "sampler_weights", "external_weights", "training", "sampler", "external")
SCOPES = ("owned", "accessible")
_PATH_HELP = "checkpoint: tinker://RUN/KIND/NAME, RUN:NAME, RUN@latest or @latest"


def add_path(parser: argparse.ArgumentParser, name: str = "tinker_path") -> None:
    """Add an argument that names one checkpoint."""
    parser.add_argument(name, metavar="<tinker_path>", help=_PATH_HELP)


def add_paths(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add an argument ``tinker_paths`` that names any number of checkpoints."""
    parser.add_argument(
        "tinker_paths",
        metavar="<tinker_path>",
        nargs="*" if optional else "+",
        help=f"{_PATH_HELP}; several may be given, and all are tried",
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


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add ``--run-id``, ``--type``, ``--before``, ``--after``, ``--public``, ``--not-public``."""
    group = parser.add_argument_group("which checkpoints")
    group.add_argument(
        "--run-id",
        metavar="<run_id>",
        help="those of this training run; a pattern such as 'nightly*' may match several",
    )
    add_type(group, "those of this type")
    group.add_argument(
        "--before", metavar="<time>", type=moment, help="those saved before: 2026-11-01, 7d (ago)"
    )
    group.add_argument(
        "--after", metavar="<time>", type=moment, help="those saved at this time or after it"
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--public", action="store_true", default=None, help="those that are published"
    )
    either.add_argument(
        "--not-public",
        dest="public",
        action="store_false",
        default=None,
        help="those that are not published",
    )


def add_type(parser: argparse._ActionsContainer, meaning: str) -> None:
    """Add ``--type``; *meaning* begins its help."""
    parser.add_argument(
        "--type",
        dest="checkpoint_type",
        metavar="<type>",
        choices=TYPE_WORDS,
        help=f"{meaning}: weights, sampler_weights or external_weights "
        "(also: training, sampler, external)",
    )


def checkpoint_type(parsed_args: argparse.Namespace) -> str | None:
    """Return the type that ``--type`` names, in the service's word."""
    from tinkex.api.resources.selection import TYPES

    return TYPES.get(parsed_args.checkpoint_type)


def add_scope(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add ``--access-scope``; without *default* the service has its own."""
    parser.add_argument(
        "--access-scope",
        metavar="<scope>",
        choices=SCOPES,
        default=default,
        help="owned, or accessible: all that the key may read "
        f"(default: {default or 'the service decides'})",
    )


def add_order(parser: argparse.ArgumentParser, fields: Sequence[str]) -> None:
    """Add ``--sort`` by one of *fields*."""
    parser.add_argument(
        "--sort",
        metavar="<field>[:desc]",
        choices=[field + order for field in fields for order in ("", ":desc")],
        help="sort the whole list by this field, with :desc the largest or newest first; "
        "one of: " + ", ".join(fields) + " (default: as the service has it)",
    )


def sorting(parsed_args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``--sort`` says, as the arguments of ``select``."""
    field, _, order = (parsed_args.sort or "").partition(":")
    return {"sort": field or None, "descending": order == "desc"}


def given_filters(parsed_args: argparse.Namespace) -> bool:
    """Tell whether any option says which checkpoints are meant."""
    names = ("run_id", "checkpoint_type", "before", "after", "public")
    return any(getattr(parsed_args, name, None) is not None for name in names)


def selection(parsed_args: argparse.Namespace, run_id: str | None) -> Selection:
    """Return which checkpoints the options mean, of *run_id* where one is named."""
    from tinkex.api.resources.selection import Selection

    return Selection(
        run_id=run_id,
        checkpoint_type=checkpoint_type(parsed_args),
        before=parsed_args.before,
        after=parsed_args.after,
        public=getattr(parsed_args, "public", None),
    )


def add_paging(parser: argparse.ArgumentParser, things: str) -> None:
    """Add ``--limit`` and ``--offset`` to *parser*."""
    parser.add_argument(
        "--limit",
        metavar="<int>",
        type=integer(0),
        default=20,
        help=f"most {things} to return; 0 means all (default: 20)",
    )
    parser.add_argument(
        "--offset",
        metavar="<int>",
        type=integer(0),
        default=0,
        help=f"{things} to skip first (default: 0)",
    )


def tell_rest(command: Lister, page: Page[Any] | Walk[Any], things: str) -> None:
    """Say on standard error when there is more than was asked for."""
    if page.offset and not len(page):
        total = f"{things} that there are" if page.total is None else page.total
        command.status(f"Nothing to show: --offset {page.offset} skips all {total}.")
    if page.total is not None and page.offset + len(page) < page.total:
        command.status(f"{len(page)} of {page.total} {things} shown; --limit 0 shows all.")


def holds_all(page: Page[Any] | Walk[Any]) -> bool:
    """Tell whether *page* surely has everything there is."""
    return page.offset == 0 and page.total is not None and len(page) >= page.total


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--base-model`` and ``--model-path``."""
    parser.add_argument(
        "--base-model", metavar="<id>", help="base model, such as meta-llama/Llama-3.1-8B"
    )
    parser.add_argument(
        "--model-path",
        metavar="<path>",
        help="instead of --base-model: a checkpoint (tinker://RUN/KIND/NAME, RUN:NAME, @latest), "
        "a downloaded one's directory, or the metadata file of a saved one",
    )


def check_model_options(parsed_args: argparse.Namespace, command: str) -> None:
    """Refuse none and both of the two.

    :raises UsageError: not exactly one is given.
    """
    given = [bool(parsed_args.base_model), bool(parsed_args.model_path)]
    if all(given):
        raise UsageError(
            "--base-model and --model-path exclude each other", hint="Leave one of them out."
        )
    if not any(given):
        raise UsageError(
            f"--base-model or --model-path is required for {command} command",
            hint=f"For example: --base-model Qwen/Qwen3-8B. Other commands: tinkex help {command}",
        )
