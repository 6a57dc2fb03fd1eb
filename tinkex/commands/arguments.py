"""Options and arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tinkex.exceptions import TinkexError, UsageError
from tinkex.options import future, integer, moment

if TYPE_CHECKING:
    from tinkex.api import Checkpoint, TrainingRun
    from tinkex.api.http.pagination import Page, Walk
    from tinkex.commands.base import Command, Lister, ShowOne

    AnyCommand = Command | Lister | ShowOne

#: Names that plugins may use; see the page "Plugin API".
__all__ = [
    "add_formats",
    "add_limit",
    "add_model_options",
    "add_paging",
    "add_path",
    "add_paths",
    "add_run",
    "add_scope",
    "check_stdin",
    "checkpoint_path",
    "checkpoint_paths",
    "print_rest",
    "shorten_paths",
    "with_run",
]

R = TypeVar("R")
L = TypeVar("L", "Checkpoint", "TrainingRun")

#: Checkpoint types: as named in paths, then as named by the service.
TYPE_WORDS = ("weights", "sampler_weights", "external_weights", "training", "sampler", "external")
_PATH_FORMS = "tinker://RUN/KIND/NAME, RUN:NAME, RUN@latest, @latest or @ALIAS"


def add_path(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``tinker_path``, which names one checkpoint; see :func:`checkpoint_path`."""
    parser.add_argument("tinker_path", metavar="<tinker_path>", help=f"checkpoint: {_PATH_FORMS}")


def add_paths(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the argument ``tinker_paths``, which names checkpoints; see :func:`checkpoint_paths`.

    :param optional: allow no path at all.
    """
    parser.add_argument(
        "tinker_paths",
        metavar="<tinker_path>",
        nargs="*" if optional else "+",
        help=f"checkpoints: {_PATH_FORMS}",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``run_id``, which names one training run; see :func:`with_run`."""
    parser.add_argument(
        "run_id",
        metavar="<run_id>",
        help="training run: an id, the start of an id, @latest, or the @ALIAS of one of its "
        "checkpoints",
    )


def checkpoint_path(command: AnyCommand, text: str, *, kind: str | None = None) -> str:
    """Return the full path of the checkpoint that *text* names; print it if it differs.

    A full path is returned unchanged, and an alias is replaced, without a request.

    :param kind: ``training`` or ``sampler``: the kind to prefer if *text* names several.
    :raises UsageError: *text* names no checkpoint, or several.
    """
    from tinkex.api.paths import TinkerPath, is_path
    from tinkex.api.resources.names import resolve_checkpoint
    from tinkex.config import aliases

    if is_path(text):
        return str(TinkerPath.from_string(text))
    known = aliases.expand(text)
    if known != text:
        path = str(TinkerPath.from_string(known))
    else:
        path = resolve_checkpoint(command.client, text, kind=kind)
    command.status(f"{text} is {path}")
    return path


def checkpoint_paths(command: AnyCommand, texts: list[str]) -> list[str]:
    """Return the full paths that *texts* name, without duplicates."""
    return list(dict.fromkeys([checkpoint_path(command, text) for text in texts]))


def shorten_paths(command: Lister) -> None:
    """Show short names, such as ``699b8252:sampler/first``, if full paths do not fit a table.

    For lists with a column ``tinker_path``; machine-readable formats keep the full path.
    """

    def short(paths: Sequence[str]) -> list[str]:
        from tinkex.api.resources.names import short_checkpoints

        return short_checkpoints(paths, complete=False)

    command.presentation.short["tinker_path"] = ("Name", short)


def with_run(command: AnyCommand, text: str, do: Callable[[str], R]) -> R:
    """Return ``do(run_id)`` for the run that *text* names; print the id if it differs.

    *text* is tried as an id first; the runs are listed only if the service does not know it.

    :param do: a request for one run, such as ``self.client.runs.get``.
    :raises UsageError: *text* names no run, or several.
    """
    from tinkex.api.resources import names
    from tinkex.config import aliases

    def announce(run_id: str) -> R:
        if run_id != text:
            command.status(f"{text} is {run_id}")
        return do(run_id)

    return names.with_run(command.client, aliases.expand(text), announce)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the filters of ``checkpoint list``: ``--run-id``, ``--type``, ``--before`` and others."""
    group = add_run_filters(parser)
    group.add_argument(
        "--before",
        metavar="<time>",
        type=moment,
        help="only checkpoints saved before this time (2026-11-01, or 7d for 7 days ago)",
    )
    group.add_argument(
        "--after",
        metavar="<time>",
        type=moment,
        help="only checkpoints saved at this time or later",
    )
    group.add_argument(
        "--expires-before",
        metavar="<time>",
        type=future,
        help="only checkpoints that expire before this time (2026-12-01, or 3d for 3 days "
        "from now)",
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--public", action="store_true", default=None, help="only published checkpoints"
    )
    either.add_argument(
        "--not-public",
        dest="public",
        action="store_false",
        default=None,
        help="only checkpoints that are not published",
    )


def add_run_filters(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add ``--run-id`` and ``--type``, and return their group."""
    group = parser.add_argument_group("filters")
    group.add_argument(
        "--run-id",
        metavar="<run_id>",
        help="only this training run, or runs that match a pattern such as 'nightly*'",
    )
    add_type(group)
    return group


def add_type(parser: argparse._ActionsContainer) -> None:
    """Add ``--type``."""
    parser.add_argument(
        "--type",
        dest="checkpoint_type",
        metavar="<type>",
        choices=TYPE_WORDS,
        help="checkpoint type: weights, sampler_weights or external_weights "
        "(also: training, sampler, external)",
    )


def checkpoint_type(parsed_args: argparse.Namespace) -> str | None:
    """Return the value of ``--type`` as the service names it."""
    from tinkex.api.resources.selection import TYPES

    return TYPES.get(parsed_args.checkpoint_type)


def given_filters(parsed_args: argparse.Namespace) -> bool:
    """Return whether any filter is given."""
    names = ("run_id", "checkpoint_type", "before", "after", "public", "expires_before")
    return any(getattr(parsed_args, name, None) is not None for name in names)


def select_checkpoints(
    command: AnyCommand, parsed_args: argparse.Namespace, limit: int | None = None, offset: int = 0
) -> Page[Checkpoint]:
    """Return the checkpoints that match the filters, in the order of ``--sort``."""
    from tinkex.api.resources.selection import Selection, is_pattern

    def given(name: str) -> Any:
        return getattr(parsed_args, name, None)

    def select(run_id: str | None) -> Page[Checkpoint]:
        kind = checkpoint_type(parsed_args)
        others = {name: given(name) for name in ("before", "after", "public", "expires_before")}
        wanted = Selection(run_id, kind, **others)
        return command.client.checkpoints.select(
            wanted, limit, offset, access_scope=given("access_scope"), **sorting(parsed_args)
        )

    run_id = parsed_args.run_id
    if run_id is None or is_pattern(run_id):
        return select(run_id)
    return with_run(command, run_id, select)


def add_scope(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add ``--access-scope``; without *default*, the service's default applies."""
    parser.add_argument(
        "--access-scope",
        metavar="<scope>",
        choices=("owned", "accessible"),
        default=default,
        help="owned, or accessible for everything that the key can read "
        f"(default: {default or 'set by the service'})",
    )


def add_order(parser: argparse.ArgumentParser, fields: Sequence[str]) -> None:
    """Add ``--sort`` by one of *fields*."""
    parser.add_argument(
        "--sort",
        metavar="<field>[:desc]",
        choices=[field + order for field in fields for order in ("", ":desc")],
        help="field to sort the whole list by, with :desc for descending order; one of "
        + ", ".join(fields)
        + " (default: newest first)",
    )


def sorting(parsed_args: argparse.Namespace) -> dict[str, Any]:
    """Return the value of ``--sort`` as keyword arguments of ``select``."""
    field, _, order = (getattr(parsed_args, "sort", None) or "").partition(":")
    return {"sort": field or None, "descending": order == "desc"}


def add_paging(parser: argparse.ArgumentParser, things: str) -> None:
    """Add ``--limit`` and ``--offset``.

    :param things: plural noun for the rows, such as ``notes``.
    """
    add_limit(parser, things)
    parser.add_argument(
        "--offset",
        metavar="<int>",
        type=integer(0),
        default=0,
        help=f"number of {things} to skip (default: 0)",
    )


def add_limit(parser: argparse.ArgumentParser, things: str) -> None:
    """Add ``--limit``, whose value is a whole number; 0 means all.

    :param things: plural noun for the rows, such as ``notes``.
    """
    parser.add_argument(
        "--limit",
        metavar="<int>",
        type=integer(0),
        default=20,
        help=f"maximum number of {things} to return; 0: all (default: 20)",
    )


def print_rest(command: Lister, page: Page[Any] | Walk[Any], things: str) -> None:
    """Print on standard error how many *things* are not shown, if any."""
    if page.offset and not len(page):
        total = things if page.total is None else f"{page.total} {things}"
        command.status(f"Nothing to show: --offset {page.offset} skips all {total}.")
    if page.total is not None and page.offset + len(page) < page.total:
        command.status(f"{len(page)} of {page.total} {things} shown; --limit 0 shows all.")


def list_rows(
    command: Lister,
    found: Page[L] | Walk[L],
    things: str,
    row: Callable[[L], tuple[Any, ...]],
    name: Callable[[L], str],
    *,
    whole: bool,
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows, then report unknown and hidden ones; store names for completion.

    :param things: ``checkpoints`` or ``runs``.
    :param whole: the list is unfiltered.
    """
    from tinkex.cli.completion import KEPT

    if found.note:
        command.status(found.note)
    latest: list[str] = []
    odd = 0
    for item in found:
        odd += not item.is_known
        if len(latest) < KEPT:
            latest.append(name(item))
        yield row(item)
    if odd:
        have, are = ("has", "is") if odd == 1 else ("have", "are")
        command.status(
            f"{odd} of the {things} {have} missing or unknown values and {are} shown as received."
        )
    print_rest(command, found, things)
    command.app.remember(things, latest, whole=whole and holds_all(found))


def check_stdin(command: AnyCommand, what: str) -> None:
    """Check that standard input, which provides *what*, does not also provide the key.

    :raises UsageError: it provides both.
    """
    if command.app.option("api_key") == "-":
        raise UsageError(
            f"standard input can provide the key or the {what}, not both",
            hint="Read the key from a file with --api-key @FILE, or set TINKER_API_KEY.",
        )


def holds_all(page: Page[Any] | Walk[Any]) -> bool:
    """Return whether *page* is known to hold the whole list."""
    return page.offset == 0 and page.total is not None and len(page) >= page.total


def add_formats(parser: argparse.ArgumentParser, formats: Sequence[str], text: str) -> None:
    """Add ``-f`` with *formats* and ``--json`` to a command that writes its output itself."""
    parser.add_argument("-f", "--format", dest="formatter", choices=formats, help=text)
    parser.add_argument(
        "--json", action="store_const", const="json", dest="formatter", help="same as -f json"
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--base-model`` and ``--model-path``."""
    parser.add_argument(
        "--base-model", metavar="<id>", help="base model, such as meta-llama/Llama-3.1-8B"
    )
    parser.add_argument(
        "--model-path",
        metavar="<path>",
        help="instead of --base-model: a checkpoint (tinker://RUN/KIND/NAME, RUN:NAME, @latest, "
        "@ALIAS), the directory of a downloaded checkpoint, a file in it, or a saved metadata "
        "file",
    )


def check_model_options(parsed_args: argparse.Namespace, command: str) -> None:
    """Check that exactly one of ``--base-model`` and ``--model-path`` is given.

    :raises UsageError: neither or both are given.
    """
    if parsed_args.base_model and parsed_args.model_path:
        raise UsageError(
            "use either --base-model or --model-path", hint="Omit one of the two options."
        )
    if not parsed_args.base_model and not parsed_args.model_path:
        raise UsageError(
            f"--base-model or --model-path is required for {command} command",
            hint="For example: --base-model Qwen/Qwen3-8B; see 'tinkex model list'. "
            f"For help: tinkex help {command}",
        )


def add_unload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unload",
        action="store_true",
        help="unload the new training run afterwards, to free a slot on a server that limits "
        "the number of runs; SkyRL then cannot sample from the run, and TuFT deletes it",
    )


def unload(command: AnyCommand, run_id: str) -> None:
    """Unload a run whose checkpoint is saved; a failure only prints a warning."""
    try:
        command.client.runs.unload(run_id)
    except TinkexError as error:
        command.app.warn(f"cannot unload the training run {run_id}: {error}")
