"""Options of lists that come in pages, and what is said about the rest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tinkex.commands.base import Lister
from tinkex.options import integer

if TYPE_CHECKING:
    from tinkex.api.http.pagination import Page, Walk

__all__ = ["add_paging", "holds_all", "tell_rest"]


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
