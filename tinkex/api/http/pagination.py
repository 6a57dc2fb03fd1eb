"""Pages of lists, fetched side by side once it is known how many there are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Generic, TypeVar, overload

from tinkex.api.http.concurrency import in_order
from tinkex.api.http.schema import Json, optional_int, optional_mapping
from tinkex.exceptions import UsageError

T = TypeVar("T")

#: Pages that are asked for at the same time, at most.
CONCURRENCY = 8
#: Pages that are planned at once: a total may be any number.
_PLANNED = 1000


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


def collect(
    fetch: Fetch[T],
    limit: int | None,
    offset: int,
    page_size: int,
    key: Callable[[T], Hashable] | None = None,
) -> Page[T]:
    """Ask for pages until *limit* items are there or the list ends; see :class:`Walk`."""
    return Walk(fetch, limit, offset, page_size, key).page()


class Walk(Generic[T]):
    """The items of a list, page by page, each once, in the server's order; to be walked once.

    The list ends with a page that is shorter than asked for; totals are not relied upon, since
    some servers say 0 beyond the end. They only say how many pages are worth asking for at once:
    while these are on their way something may be added or deleted. What is added moves an item
    from one page to the next; by its *key* it is told once. What is deleted moves one to the page
    before, which has been read: a total that has shrunk tells, and those items are asked for again.

    :param limit: how many items at most; ``None`` for all.
    :param offset: how many to skip.
    :param key: what an item is known by; itself, unless told.

    :ivar total: how many there are in all as far as is known; final when the walk has ended.
    :ivar offset: how many are skipped.
    :ivar note: see :class:`Page`.
    """

    def __init__(
        self,
        fetch: Fetch[T],
        limit: int | None,
        offset: int,
        page_size: int,
        key: Callable[[T], Hashable] | None = None,
    ) -> None:
        self.total: int | None = None
        self.offset = offset
        self.note: str | None = None
        self._count = 0
        self._fetch = fetch
        self._limit = limit
        self._page_size = page_size
        self._key = key or (lambda item: item)
        #: Keys of this page and the one before: what moves, moves to a neighbour.
        self._seen: Set[Hashable] = frozenset()
        self._latest: Set[Hashable] = frozenset()
        self._reached = offset
        self._told = 0  # the total of the latest page
        self._ended = False
        self._first: list[T] | None = None

    def first(self) -> list[T]:
        """Return the items of the first page, which is fetched once."""
        if self._first is None:
            self._first = self._take(self._size(), *self._ask(self._size(), self.offset))
        return self._first

    def page(self) -> Page[T]:
        """Walk to the end and return all items."""
        found = list(self)
        return Page(found, self.total, self.offset)

    def __len__(self) -> int:
        """Return how many items have come so far."""
        return self._count

    def __iter__(self) -> Iterator[T]:
        yield from self.first()
        self._first = []
        while self._goes_on():
            starts = self._next_starts()
            # One after the other until it is known how many pages there are.
            asked = in_order(self._ask_at, starts, CONCURRENCY)
            for start, items, told in asked:
                yield from self._slipped(start, told)
                yield from self._take(self._size(start), items, told)
                if not self._goes_on():
                    break

    def _goes_on(self) -> bool:
        return not self._ended

    def _size(self, start: int | None = None) -> int:
        """Return how many items the page at *start* is to have."""
        if self._limit is None:
            return self._page_size
        start = self._reached if start is None else start
        return min(self._page_size, self.offset + self._limit - start)

    def _room(self) -> int | None:
        """Return how many items may still come."""
        return None if self._limit is None else self._limit - self._count

    def _ask_at(self, start: int) -> tuple[int, list[T], int | None]:
        return start, *self._ask(self._size(start), start)

    def _ask(self, size: int, start: int) -> tuple[list[T], int | None]:
        items, told = self._fetch(size, start)
        return items[:size], told

    def _slipped(self, start: int, told: int | None) -> list[T]:
        """Return what has moved to before *start*, because something before it was deleted."""
        lost = self._told - told if told else 0
        size = min(lost, self._page_size, start - self.offset)
        if size <= 0:
            return []
        items, _ = self._ask(size, start - size)
        keyed = {self._key(item): item for item in items}
        new = [item for key, item in keyed.items() if key not in self._seen][: self._room()]
        self._seen |= keyed.keys()
        self._latest |= keyed.keys()
        self._count += len(new)
        return new

    def _take(self, size: int, items: list[T], told: int | None) -> list[T]:
        """Note that a page has come and return those of its items that are new."""
        if items and told is not None:
            self._told = told
        keyed = {self._key(item): item for item in items}
        new = [item for key, item in keyed.items() if key not in self._seen][: self._room()]
        self._seen = self._latest | keyed.keys()
        self._latest = keyed.keys()
        self._count += len(new)
        if items and not new:
            self._ended = True  # the server ignores the offset: going on would never end
            return []
        self._reached += len(items)
        if told is not None and (items or told) and told >= self._reached:
            self.total = told
        short = len(items) < size
        if short and items and self._first is None and self.total and self.total > self._reached:
            # The server gives fewer at a time than it was asked for, and has more.
            self._page_size, short = len(items), False
        if short:
            self.total = self._reached if items or not self.offset else self.total
        enough = self._limit is not None and self._reached >= self.offset + self._limit
        last = self.total is not None and self.total <= self._reached
        self._ended = short or enough or last
        return new

    def _next_starts(self) -> list[int]:
        """Return where the pages begin that are to be fetched side by side."""
        if self.total is None:
            return [self._reached]
        end = self.total
        if self._limit is not None:
            end = min(end, self.offset + self._limit)
        return list(range(self._reached, end, self._page_size)[:_PLANNED])


def total_count(data: Json) -> int | None:
    """Return the total that a listing's cursor tells, or ``None``."""
    cursor = optional_mapping(data, "cursor")
    return optional_int(cursor, "total_count") if cursor else None
