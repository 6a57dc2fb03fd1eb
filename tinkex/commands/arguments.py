"""Options that choose checkpoints, and those that put a list in order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinkex.options import moment

if TYPE_CHECKING:
    from tinkex.api.resources.selection import Selection

__all__ = [
    "SCOPES",
    "add_filters",
    "add_order",
    "add_scope",
    "add_type",
    "checkpoint_type",
    "given_filters",
    "selection",
    "sorting",
]

#: Words for a kind of checkpoint: those of paths, and the service's own.
TYPE_WORDS = ("weights", "sampler_weights", "external_weights", "training", "sampler", "external")
SCOPES = ("owned", "accessible")


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
