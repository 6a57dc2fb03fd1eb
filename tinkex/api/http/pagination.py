"""Lists in pages: one page, or a walk through all pages with several requests at a time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence, Set
from datetime import datetime
from typing import Any, Generic, TypeVar

from tinkex.api.http import schema
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.exceptions import UsageError

T = TypeVar("T")

#: Maximum number of pages requested at the same time.
CONCURRENCY = 8


class Page(list[T]):
    """Part of a list, as a list.

    :ivar total: number of items in the whole list, or ``None`` if unknown.
    :ivar offset: number of items skipped.
    :ivar note: how the list was obtained, where that matters to its reader.
    """

    def __init__(
        self,
        items: Iterable[T] = (),
        total: int | None = None,
        offset: int = 0,
        note: str | None = None,
    ) -> None:
        super().__init__(items)
        self.total = total
        self.offset = offset
        self.note = note

    @classmethod
    def of(
        cls, items: Sequence[T], limit: int | None, offset: int, note: str | None = None
    ) -> Page[T]:
        """Return *limit* of the complete list *items*, from *offset* on."""
        end = None if limit is None else offset + limit
        return cls(items[offset:end], len(items), offset, note)


#: Fetches one page: ``(limit, offset)`` → its items, and the total if the server reports it.
Fetch = Callable[[int, int], tuple[list[T], int | None]]


def positive_limit(limit: int | None, offset: int) -> int | None:
    """Return *limit* with 0 as ``None`` (all).

    :raises UsageError: a number below zero.
    """
    if offset < 0 or (limit is not None and limit < 0):
        raise UsageError("a limit or an offset cannot be below zero")
    return limit or None


class Walk(Generic[T]):
    """The items of a list in the server's order, fetched while they are iterated over, once.

    After the first page, the others are fetched concurrently where the server reports the total.
    The total only says how many pages to expect: some servers report 0 beyond the end, so a list
    ends with a page that is shorter than requested. Items that are added during the walk move
    others to the next page; an item that the page before has had, by its *key*, is dropped.

    :ivar total: number of items in the whole list as far as known; final at the end of the walk.
    """

    def __init__(
        self,
        fetch: Fetch[T],
        limit: int | None,
        offset: int,
        page_size: int,
        key: Callable[[T], Hashable] = lambda item: item,
    ) -> None:
        self.total: int | None = None
        self.offset = offset
        self.note: str | None = None
        self._fetch = fetch
        self._end = None if limit is None else offset + limit
        self._page_size = page_size
        self._key = key
        self._reached = offset
        self._previous: Set[Hashable] = frozenset()
        self._first: list[T] | None = None
        self._count = 0
        self._ended = False

    def first(self) -> list[T]:
        """Return the items of the first page, which is fetched once."""
        if self._first is None:
            self._first = self._take(*self._fetched(self.offset))
        return self._first

    def distinct(self) -> list[T]:
        """Walk to the end and return all items, each once even if it was on several pages."""
        return list({self._key(item): item for item in self}.values())

    def page(self) -> Page[T]:
        """Walk to the end and return all items."""
        found = list(self)
        return Page(found, self.total, self.offset, self.note)

    def __len__(self) -> int:
        """Return the number of items so far."""
        return self._count

    def __iter__(self) -> Iterator[T]:
        yield from self.first()
        self._first = []
        while starts := self._starts():
            pages = map_ordered(self._fetched, starts, workers=CONCURRENCY, window=CONCURRENCY)
            for page in pages:
                yield from self._take(*page)
                if self._ended:
                    break

    def _starts(self) -> Sequence[int]:
        """Return the offsets of the pages to fetch next."""
        if self._ended:
            return []
        if self.total is None:
            return [self._reached]
        end = self.total if self._end is None else min(self.total, self._end)
        return range(self._reached, end, self._page_size)

    def _fetched(self, start: int) -> tuple[int, list[T], int | None]:
        """Return the number of items requested at *start*, those received, and the total."""
        size = self._page_size if self._end is None else min(self._page_size, self._end - start)
        items, total = self._fetch(size, start)
        # Some servers send the whole list, whatever is requested.
        return size, items if self._end is None else items[:size], total

    def _take(self, size: int, items: list[T], total: int | None) -> list[T]:
        """Record that the page after the last has been received and return its new items."""
        keyed = {self._key(item): item for item in items}
        new = [item for key, item in keyed.items() if key not in self._previous]
        self._previous = keyed.keys()
        is_first = self._reached == self.offset
        self._reached += len(items)
        self._count += len(new)
        if total and total >= self._reached:
            self.total = total
        is_last = len(items) < size
        if is_last and is_first and items and self.total and self.total > self._reached:
            # The server's pages are smaller than requested.
            self._page_size, is_last = len(items), False
        if is_last and (items or not self.offset):
            self.total = self._reached
        self._ended = (
            is_last
            or not new  # the server ignores the offset: the walk would never end
            or self._reached == self._end
            or self._reached == self.total
        )
        return new


def walk(
    transport: Transport,
    request: Request,
    read: Callable[[Any], T],
    deadline: Deadline,
    *,
    limit: int | None,
    offset: int,
    page_size: int,
    key: Callable[[T], Hashable] = lambda item: item,
    rows: Callable[[schema.Json, str], list[Any]] = schema.rows,
) -> Walk[T]:
    """Return the walk through the list at ``request.path``, which is also its name in a page.

    :param read: makes an item of its JSON form.
    :param rows: returns the items of a page by their name.
    """

    def fetch(size: int, start: int) -> tuple[list[T], int | None]:
        params = {**request.params, "limit": size, "offset": start}
        data = transport.call(dataclasses.replace(request, params=params), deadline).object()
        return [read(item) for item in rows(data, request.path)], total_count(data)

    return Walk(fetch, limit, offset, page_size, key)


def newest_first(
    walk: Callable[[int | None, int], Walk[T]],
    time: Callable[[T], datetime],
    limit: int | None,
    offset: int,
) -> Walk[T] | Page[T]:
    """Return *limit* items from *offset* on, the newest first, whatever the server's order.

    If the first page is in this order, the server is trusted, and what is not needed is not read.
    Else the whole list is read and sorted.

    :param walk: returns the walk with a limit and an offset.
    """
    found = walk(limit and max(limit, 2), offset)  # one item shows no order
    seen = found.first()
    if offset and len(seen) == 1:
        seen = walk(2, offset - 1).first()
    times = list(map(time, seen))
    if all(newer >= older for newer, older in itertools.pairwise(times)):
        return Page(found.first()[:1], found.total, offset) if limit == 1 else found
    everything = walk(None, 0) if limit or offset else found
    return Page.of(sorted(everything.distinct(), key=time, reverse=True), limit, offset)


def total_count(data: schema.Json) -> int | None:
    """Return the total that the cursor of a list reports, or ``None``."""
    cursor = schema.optional_mapping(data, "cursor")
    return schema.optional_int(cursor, "total_count") if cursor else None
