"""Walks through lists in pages, on servers of every kind."""

from __future__ import annotations

import threading

import pytest

from tinkex.api.http.pagination import CONCURRENCY, Page, Walk
from tinkex.exceptions import InvalidResponse


def walked(fetch, limit=None, offset=0, page_size=10) -> Page:
    return Walk(fetch, limit, offset, page_size).page()


def test_a_total_of_zero_is_trusted_at_the_beginning_only():
    assert walked(lambda size, start: ([], 0), 20).total == 0
    beyond = walked(lambda size, start: ([], 0), 20, 40)
    assert (beyond, beyond.total) == ([], None)


@pytest.mark.parametrize(
    ("limit", "offset", "expected"),
    [
        (None, 0, range(1000)),
        (None, 995, range(995, 1000)),
        (95, 0, range(95)),
        (100, 7, range(7, 107)),
        (5000, 0, range(1000)),
        (1, 999, range(999, 1000)),
    ],
)
@pytest.mark.parametrize("total", [True, False])
def test_pages_come_in_order(limit, offset, expected, total):
    def fetch(size, start):
        return list(range(1000))[start : start + size], 1000 if total else None

    assert walked(fetch, limit, offset) == list(expected)


def test_pages_are_fetched_concurrently_within_a_bound():
    running, most = [], []
    lock, together = threading.Lock(), threading.Barrier(CONCURRENCY)
    total = 10 * (4 * CONCURRENCY + 1)

    def fetch(size, start):
        with lock:
            running.append(start)
            most.append(len(running))
        if start:
            together.wait(60)  # passes only where that many meet
        with lock:
            running.remove(start)
        return list(range(start, min(start + size, total))), total

    assert len(walked(fetch)) == total
    assert max(most) == CONCURRENCY


@pytest.mark.parametrize("total", [True, False])
def test_an_item_that_moves_to_the_next_page_comes_once(total):
    # Before each page but the first, a new item is inserted in front of all others.
    def fetch(size, start):
        moved = [-1] * (start // 10)
        items = [*moved, *range(100)][start : start + size]
        return items, 100 if total else None

    assert walked(fetch) == list(range(91 if total else 100))


@pytest.mark.parametrize("where", [0, 10, 50, 90])
def test_the_failure_of_a_page_is_raised(where):
    def fetch(size, start):
        if start == where:
            raise InvalidResponse("broken")
        return list(range(start, start + size)), 100

    with pytest.raises(InvalidResponse, match="broken"):
        walked(fetch)


def test_a_walk_knows_how_far_it_is():
    walk = Walk(lambda size, start: (list(range(start, start + size)), 30), None, 0, 10)
    assert (len(walk), walk.first(), len(walk), walk.total) == (0, list(range(10)), 10, 30)
    assert list(walk) == list(range(30))
    assert len(walk) == 30


@pytest.mark.parametrize("limit", [None, 20, 17])
def test_the_pages_of_a_server_may_be_smaller_than_requested(limit):
    def fetch(size, start):
        return list(range(25))[start : start + min(size, 4)], 25

    assert walked(fetch, limit) == list(range(25))[:limit]


def test_lists_of_odd_servers_end():
    def emptied(size, start):
        items = list(range(100)) if start < 30 else list(range(3))
        return items[start : start + size], len(items)

    def growing(size, start):
        length = 25 if start < 20 else 40
        return list(range(length))[start : start + size], length

    assert set(range(30)) <= set(walked(emptied)) <= set(range(100))
    assert walked(growing) == list(range(40))
    assert walked(lambda size, start: (list(range(size)), None)) == list(range(10))  # no offset
    assert walked(lambda size, start: (list(range(50)), None), 7) == list(range(7))  # no limit
    assert walked(lambda size, start: (list(range(50)), None)) == list(range(50))
    assert walked(lambda size, start: (list(range(50)), 50)) == list(range(50))
