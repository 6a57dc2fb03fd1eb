"""Many things at once: bounded, in order, all tried."""

from __future__ import annotations

import threading
import time

import pytest

from tinkex.api.http.concurrency import each, in_order
from tinkex.exceptions import NotFound, UsageError


def test_outcomes_come_in_the_order_of_the_things():
    def do(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * 2

    counts: list[int] = []
    found = list(each(do, range(40), workers=8, on_done=counts.append))
    assert found == [(n, n * 2, None) for n in range(40)]
    assert counts == list(range(1, 41))


def test_no_more_than_so_many_at_once():
    lock, meeting, now, most = threading.Lock(), threading.Barrier(4), 0, 0

    def do(_: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        meeting.wait(60)  # passes only where four come together
        with lock:
            now -= 1

    list(each(do, range(32), workers=4))
    assert most == 4


def test_a_failure_is_an_outcome_and_stops_nobody():
    def do(number: int) -> int:
        if number == 2:
            raise NotFound("gone", status=404)
        return number

    found = list(each(do, range(5)))
    assert [result for _, result, _ in found] == [0, 1, None, 3, 4]
    assert [str(error) for _, _, error in found if error] == ["gone (HTTP 404)"]


def test_a_bug_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(each(lambda n: 1 // n, [1, 0]))


def test_whoever_stops_early_stops_what_has_not_begun():
    begun: list[int] = []
    before, go = set(threading.enumerate()), threading.Event()

    def do(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise UsageError("enough")
        go.wait(60)

    outcomes = each(do, range(1000), workers=2)
    _, _, error = next(outcomes)
    assert error
    outcomes.close()
    go.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert len(begun) <= 3


def test_nothing_to_do():
    assert list(each(str, [])) == []


def test_results_come_in_order_and_by_the_same_few_threads():
    threads: set[int] = set()
    meeting = threading.Barrier(5)

    def do(number: int) -> int:
        threads.add(threading.get_ident())
        meeting.wait(60)
        return number * 2

    assert list(in_order(do, range(40), workers=5)) == [n * 2 for n in range(40)]
    assert len(threads) == 5


def test_no_more_results_wait_than_there_are_workers():
    begun: list[int] = []
    results = in_order(lambda n: begun.append(n) or n, range(100), workers=4)
    for number in range(10):
        assert next(results) == number
        assert len(begun) <= number + 1 + 4


@pytest.mark.parametrize("why", ["closed", "failed"])
def test_threads_end_with_whoever_asked(why):
    before = set(threading.enumerate())

    def do(number: int) -> int:
        return 1 // (3 - number) if why == "failed" else number

    results = in_order(do, range(100), workers=4)
    next(results)
    ours = set(threading.enumerate()) - before
    if why == "failed":
        with pytest.raises(ZeroDivisionError):
            list(results)
    results.close()
    for thread in ours:
        thread.join(60)
        assert not thread.is_alive()
