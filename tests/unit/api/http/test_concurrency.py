"""map_ordered and run_in_thread: bounded, in order, and never in the way of an interruption."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.until import until
from tinkex.api.http.concurrency import map_ordered, map_unordered, run_in_thread
from tinkex.exceptions import LimitReached, NotFound

#: Seconds after which a test that hangs is ended.
GUARD = 60


def test_results_come_in_order_with_no_more_calls_at_once_than_workers():
    lock, running, most, counts = threading.Lock(), 0, 0, []
    meet = threading.Barrier(2, timeout=GUARD)

    def do(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if number < 2:
            meet.wait()  # two calls run at the same time
        with lock:
            running -= 1
        return number * 2

    found = list(map_ordered(do, iter(range(40)), workers=4, on_done=counts.append))

    assert found == [number * 2 for number in range(40)]
    assert counts == list(range(1, 41))
    assert 2 <= most <= 4


@pytest.mark.parametrize("ordered", [True, False])
def test_the_result_of_a_later_item_waits_for_an_earlier_one_where_order_matters(ordered):
    last = threading.Event()

    def do(number: int) -> int:
        if number == 9:
            last.set()
        elif number == 0:
            assert last.wait(GUARD)
        return number

    found = list((map_ordered if ordered else map_unordered)(do, iter(range(10)), workers=2))

    assert sorted(found) == list(range(10))
    assert (found.index(0) < found.index(9)) is ordered


def test_items_are_taken_only_within_the_window():
    taken: list[int] = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ordered(str, items(), workers=4, window=4)
    for number in range(10):
        assert next(results) == str(number)
        assert len(taken) <= number + 1 + 4
    assert list(results) == [str(number) for number in range(10, 100)]


def test_an_exception_is_raised_while_an_earlier_item_still_runs():
    never = threading.Event()

    def do(number: int) -> None:
        if number == 0:
            never.wait(GUARD)
        else:
            raise NotFound("gone", status=404)

    with pytest.raises(NotFound):
        list(map_ordered(do, range(3)))
    never.set()


def test_an_exception_of_the_items_is_raised():
    def items():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(map_ordered(str, items(), workers=2))


@pytest.mark.parametrize("end", ["closed", "failed"])
def test_workers_end_with_the_iterator(end):
    before, begun, first = set(threading.enumerate()), [], threading.Event()

    def do(number: int) -> int:
        begun.append(number)
        if number == 3 and end == "failed":
            assert first.wait(GUARD)
            raise ZeroDivisionError
        return number

    results = map_ordered(do, range(1000), workers=4, window=4)
    next(results)
    first.set()
    if end == "failed":
        with pytest.raises(ZeroDivisionError):
            list(results)
    else:
        next(results)
        results.close()
    until(lambda: not set(threading.enumerate()) - before)
    assert len(begun) < 1000


def test_a_call_in_a_thread_returns_raises_or_is_given_up():
    never = threading.Event()

    assert run_in_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_in_thread(lambda: 1 // 0, 30)
    with pytest.raises(TimeoutError):
        run_in_thread(lambda: never.wait(GUARD), 0.01)
    never.set()


def test_fewer_calls_are_made_at_a_time_where_a_limit_is_reached():
    """As with open files: of four calls at once, more than two fail."""
    lock, running, tried = threading.Lock(), 0, []
    meet = threading.Barrier(4, timeout=GUARD)

    def do(number: int) -> int:
        nonlocal running
        if number < 4 and number not in tried:
            tried.append(number)
            meet.wait()
        with lock:
            running += 1
            if running > 2:
                running -= 1
                raise LimitReached("too many open files")
        until(lambda: len(tried) == 4)
        time.sleep(0.01)
        with lock:
            running -= 1
        return number

    assert list(map_ordered(do, range(40), workers=4)) == list(range(40))


@pytest.mark.parametrize("workers", [1, 4])
def test_a_limit_that_leaves_room_for_no_call_at_all_is_an_error(workers):
    def do(number: int) -> None:
        raise LimitReached("too many open files")

    with pytest.raises(LimitReached):
        list(map_ordered(do, range(40), workers=workers))


def few_threads(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let only so many threads be started."""
    real, left = threading.Thread.start, iter(range(most))

    def start(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_fewer_threads_than_asked_for_do_all_of_the_work(monkeypatch):
    few_threads(monkeypatch, 2)
    assert list(map_ordered(str, range(40), workers=8)) == [str(n) for n in range(40)]
    assert run_in_thread(lambda: 7, 30) == 7


def test_no_thread_at_all_is_reported_in_one_sentence(monkeypatch):
    few_threads(monkeypatch, 0)
    with pytest.raises(LimitReached, match="too many threads"):
        list(map_ordered(str, range(40)))


@pytest.mark.parametrize("wait", [run_in_thread, lambda do: list(map_ordered(lambda _: do(), [1]))])
def test_ctrl_c_just_before_the_wait_is_noticed(wait):
    """No system call is interrupted then, as if another thread got the signal."""
    never = threading.Event()

    def block() -> None:
        time.sleep(0.1)
        _thread.interrupt_main()
        never.wait(GUARD)

    with pytest.raises(KeyboardInterrupt):
        wait(block)
    never.set()


SCRIPT = """
import sys, threading, time
from tinkex.api.http.concurrency import map_ordered, run_in_thread
def block(_=None):
    time.sleep(0.5)  # until the main thread has started the threads and waits
    print(end="started\\n", flush=True)
    threading.Event().wait()
try:
    list(map_ordered(block, range(3))) if sys.argv[1] == "map" else run_in_thread(block)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("kind", ["map", "run"])
def test_an_interrupt_ends_the_wait_and_the_program(kind):
    program = subprocess.Popen([sys.executable, "-c", SCRIPT, kind], stdout=subprocess.PIPE)
    try:
        assert program.stdout.readline().startswith(b"started")
        os.kill(program.pid, signal.SIGINT)
        assert program.wait(GUARD) == 130
    finally:
        program.kill()
        program.stdout.close()
        program.wait()
