"""Paginated lists: a single page, or an iterator over all pages with concurrent requests."""

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
    """Consecutive items of a longer list.

    :ivar total: number of items in the whole list, or ``None`` if unknown.
    :ivar offset: number of items skipped.
    :ivar note: how the list was obtained, if the user should know.
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
        """Return a page of the complete list *items*: *limit* items, starting at *offset*."""
        end = None if limit is None else offset + limit
        return cls(items[offset:end], len(items), offset, note)


#: Function that fetches a page: ``(limit, offset)`` → its items, and the total if reported.
Fetch = Callable[[int, int], tuple[list[T], int | None]]


def positive_limit(limit: int | None, offset: int) -> int | None:
    """Return *limit*, with ``None`` in place of 0 (all).

    :raises UsageError: *limit* or the offset is negative.
    """
    if offset < 0 or (limit is not None and limit < 0):
        raise UsageError("limit and offset must not be negative")
    return limit or None


class Walk(Generic[T]):
    """A one-time iterator over the items of a list, which fetches pages as needed.

    The items are in the server's order. A page that is shorter than requested ends the list. If the
    server reports the total, all pages after the first are fetched concurrently. The total does not
    end the list, because some servers report a total of 0 beyond the end.

    If the server adds an item during the iteration, the last item of a page moves to the next page.
    Therefore, an item whose *key* was on the previous page is dropped.

    :ivar total: number of items in the whole list as far as known; final after the last page.
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
        """Return the items of the first page; it is fetched only once."""
        if self._first is None:
            self._first = self._take(*self._fetched(self.offset))
        return self._first

    def distinct(self) -> list[T]:
        """Fetch all pages and return their items without duplicates."""
        return list({self._key(item): item for item in self}.values())

    def page(self) -> Page[T]:
        """Fetch all pages and return their items as one page."""
        found = list(self)
        return Page(found, self.total, self.offset, self.note)

    def __len__(self) -> int:
        """Return the number of items fetched so far."""
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
        """Return the number of items requested at *start*, the received items, and the total."""
        size = self._page_size if self._end is None else min(self._page_size, self._end - start)
        items, total = self._fetch(size, start)
        # Some servers ignore the limit and send the whole list.
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
            or not new  # the server ignores the offset: the iteration would never end
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
    """Return an iterator over the list at ``request.path``; the path is also its name in a page.

    :param read: converts the JSON form of an item.
    :param rows: returns the items of a page, given the page and their name.
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
    """Return *limit* items starting at *offset*, newest first, regardless of the server's order.

    If the first page is in this order, only the pages needed are fetched. Otherwise the whole list
    is fetched and sorted.

    :param walk: returns the iterator for a limit and an offset.
    """
    found = walk(limit and max(limit, 2), offset)  # a single item has no order
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
