"""Pages of lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, overload

from tinkex.api.reading import Json, optional_int, optional_mapping
from tinkex.exceptions import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Sequence[T], Generic[T]):
    """Part of a list; a sequence of its items.

    :ivar items: the items, in the server's order.
    :ivar total: how many there are in all, or ``None`` if nobody knows.
    :ivar offset: how many were skipped.
    :ivar note: how the list came about, if that matters to its reader.
    """

    items: list[T] = field(default_factory=list)
    total: int | None = None
    offset: int = 0
    note: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self.items[index]


#: Asks for one page: ``(limit, offset)`` → its items and the total, if the server told.
Fetch = Callable[[int, int], tuple[list[T], int | None]]


def checked(limit: int | None, offset: int) -> int | None:
    """Return *limit* with 0 as ``None`` (all).

    :raises UsageError: a number below zero.
    """
    if offset < 0 or (limit is not None and limit < 0):
        raise UsageError("a limit or an offset cannot be below zero")
    return limit or None


def collect(fetch: Fetch[T], limit: int | None, offset: int, page_size: int) -> Page[T]:
    """Ask for pages until *limit* items are there or the list ends.

    The list ends with a page that is shorter than asked for; totals are not relied upon, since
    some servers say 0 beyond the end.
    """
    found: list[T] = []
    total: int | None = None
    while limit is None or len(found) < limit:
        size = page_size if limit is None else min(page_size, limit - len(found))
        items, told = fetch(size, offset + len(found))
        items = items[:size]
        if items and found and items[0] == found[-len(items)]:
            break  # the server ignores the offset: going on would never end
        found += items
        reached = offset + len(found)
        total = told if told is not None and (items or told) and told >= reached else total
        if len(items) < size:
            total = reached if items or not offset else total
            break
        if total is not None and total <= reached:
            break
    return Page(found, total, offset)


def total_count(data: Json) -> int | None:
    """Return the total that a listing's cursor tells, or ``None``."""
    cursor = optional_mapping(data, "cursor")
    return optional_int(cursor, "total_count") if cursor else None
