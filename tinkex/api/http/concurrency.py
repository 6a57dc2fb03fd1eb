"""Threads for blocking calls: the caller stays interruptible, and the program can always exit.

Every thread is a daemon, and the caller waits on a queue, so that Ctrl-C, SIGTERM and the end of
the program never wait for a call that is still running.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import length_hint
from typing import Generic, TypeVar

from tinkex.exceptions import LimitReached, RequestShown

#: Seconds between two checks for signals in a waiting thread.
_TURN = 0.5

T = TypeVar("T")
R = TypeVar("R")


def start_thread(work: Callable[[], None], name: str) -> None:
    """Call *work* in a thread that does not prevent the program from exiting.

    :raises LimitReached: the system allows no more threads.
    """
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as error:
        raise LimitReached("too many threads") from error


def map_ordered(
    do: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int = 8,
    window: int = 1000,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[R]:
    """Yield ``do(item)`` for each of *items*, in their order, with several calls at a time.

    Idle workers take items from *items*, one worker at a time. The first exception of any call is
    raised at once, even while earlier items are running. A caller that needs every outcome must
    return exceptions as results. After an exception, or once the iterator is closed, no further
    item is started, and the results of running calls are discarded.

    If open files or threads run out, the concurrency is reduced: an item whose call raises
    :exc:`LimitReached` is processed again, unless no other call was running.

    :param workers: maximum number of concurrent calls.
    :param window: maximum number of items started but not yet yielded; it bounds memory.
    :param on_done: called with the number of finished items, in the thread that iterates.
    :raises Exception: the first exception that *do* or *items* raised.
    :raises RequestShown: with the curl command lines of all items, after the last one.
    """
    if not length_hint(items, 1):
        return iter(())
    return _Pool(do, items, workers, window).results(on_done, ordered=True)


def map_unordered(
    do: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int = 8,
    window: int = 1000,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[R]:
    """Yield ``do(item)`` for each of *items* as the calls finish; see :func:`map_ordered`."""
    return _Pool(do, items, workers, window).results(on_done, ordered=False)


class _Pool(Generic[T, R]):
    """The workers of one call of :func:`map_ordered`, and the queue of their results."""

    def __init__(self, do: Callable[[T], R], items: Iterable[T], workers: int, window: int) -> None:
        self._do = do
        self._items: Iterator[tuple[int, T]] = enumerate(items)
        self._workers = workers
        #: Number of workers started, and of those that will take another item.
        self._started = self._active = 0
        #: A member for each started worker without an item; removed with the lock held.
        self._idle: deque[None] = deque()
        self._taking = threading.Lock()
        #: A permit for each further item; a semaphore takes twenty times as long.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._permit(window)
        self._stopped = False
        #: Index, result and exception of an item; ``None`` for a worker that has ended.
        self._done: queue.SimpleQueue[tuple[int, R | None, BaseException | None] | None]
        self._done = queue.SimpleQueue()

    def _permit(self, count: int) -> None:
        for _ in range(count):
            self._room.put(None)

    def _start(self) -> None:
        start_thread(self._work, "tinkex-worker")
        self._started += 1
        self._active += 1

    def _take(self) -> tuple[int, T, int] | None:
        """Return the next item, its index and the number of workers; ``None`` at the end."""
        with self._taking:
            found = None if self._stopped else next(self._items, None)
            if found is None:
                self._active -= 1
                return None
            if self._idle:
                self._idle.pop()
            elif self._started < self._workers:
                try:  # a worker for the next item
                    self._start()
                except LimitReached:
                    self._workers = self._started  # start no more
            return *found, self._active

    def _give_back(self, index: int, item: T, active: int, error: LimitReached) -> bool:
        """Put back an item whose call raised *error*; return whether this worker ends.

        :param active: the number of workers when its call began.
        :raises LimitReached: it was the only worker, so trying again does not help.
        """
        with self._taking:
            if max(active, self._active) == 1:
                raise error
            self._items = chain([(index, item)], self._items)
            self._workers = self._started  # start no more
            ends = self._active > 1
            self._active -= ends
            return ends

    def _work(self) -> None:
        """Process one item after the other; the target of each thread."""
        index = -1
        try:
            while True:
                self._room.get()
                taken = self._take()
                if taken is None:
                    return
                index, item, active = taken
                try:
                    self._done.put((index, self._do(item), None))
                except RequestShown as shown:  # takes no time, and the caller needs all of them
                    self._done.put((index, None, shown))
                except LimitReached as error:
                    if self._give_back(index, item, active, error):
                        return
                    self._permit(1)
                    continue
                self._idle.append(None)
        except BaseException as error:  # raised again in the thread that iterates
            self._done.put((index, None, error))
        finally:
            self._permit(1)
            self._done.put(None)

    def results(self, on_done: Callable[[int], None] | None, *, ordered: bool) -> Iterator[R]:
        """Start the workers, and yield results until all of them have ended."""
        early: dict[int, R] = {}
        shown: dict[int, RequestShown] = {}
        finished = position = ended = 0
        try:
            with self._taking:
                self._start()
            while ended < self._started:
                outcome = _next_of(self._done)
                if outcome is None:
                    ended += 1
                    continue
                index, result, error = outcome
                if isinstance(error, RequestShown):
                    shown[index] = error
                    self._permit(1)
                    continue
                if error is not None:
                    raise error
                early[index if ordered else finished] = result  # type: ignore[assignment]
                finished += 1
                if on_done is not None:
                    on_done(finished)
                while position in early:
                    self._permit(1)
                    yield early.pop(position)
                    position += 1
        finally:  # start no further item, and end the workers that wait for a permit
            self._stopped = True
            self._permit(self._workers)
        if shown:
            raise RequestShown(*(line for index in sorted(shown) for line in shown[index].lines))


def _next_of(done: queue.SimpleQueue[T], timeout: float = math.inf) -> T:
    """Return the next item of *done*.

    Python misses a signal that arrives just before a wait begins, so the wait is split.

    :raises queue.Empty: no item arrives within *timeout* seconds.
    """
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            return done.get(timeout=max(0.0, min(left, _TURN)))
        except queue.Empty:
            if left <= _TURN:
                raise


def run_in_thread(do: Callable[[], R], timeout: float | None = None) -> R:
    """Call ``do()`` in a thread, so that signals are handled while it runs; return its result.

    :param timeout: seconds to wait; ``None`` for no limit.
    :raises TimeoutError: *timeout* has passed; the call continues, and its result is discarded.
    :raises Exception: the exception that *do* raised.
    """
    done: queue.SimpleQueue[tuple[R | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((do(), None))
        except BaseException as error:  # raised again in the calling thread
            done.put((None, error))

    try:
        start_thread(work, "tinkex-call")
    except LimitReached:  # without a thread, the call is not interruptible
        work()
    try:
        result, error = _next_of(done, math.inf if timeout is None else timeout)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
