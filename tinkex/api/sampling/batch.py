"""Sample many prompts concurrently.

The service holds the request for a result open, so each sample has a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from tinkex.api.http.concurrency import map_ordered, map_unordered
from tinkex.api.sampling.types import SampledRow, SampleResponse, SampleRow
from tinkex.exceptions import TinkexError, UsageError

#: Maximum number of concurrent samples, and of pooled connections.
MAX_CONCURRENCY = 256
#: Initial number of concurrent samples, unless a number is given.
_FIRST = 64
#: Minimum factor of the rates for keeping a doubled concurrency.
_GAIN = 1.1
#: Seconds to keep the concurrency after a rejection, or after doubling did not help.
_REST = 20.0
#: Minimum time in seconds for measuring a rate.
_WINDOW = 0.1
#: Samples ahead of the oldest unfinished one in ordered output: a multiple of the concurrency.
_AHEAD = 4


def sample_rows(
    rows: Iterable[SampleRow],
    sample: Callable[[SampleRow], tuple[SampleResponse, Sequence[int]]],
    spells: Callable[[], int],
    limit: ConcurrencyLimit,
    *,
    ordered: bool,
) -> Generator[SampledRow, None, None]:
    """Sample *rows* and yield results; see :meth:`tinkex.api.SamplingClient.sample_many`.

    :param sample: samples one row; also returns the last token ids of its prompt.
    :param spells: returns how many times the service has begun to reject samples.
    """
    failures: list[Exception] = []

    def admitted() -> Iterator[tuple[int, SampleRow]]:
        try:
            yield from enumerate(limit.admit(rows))
        except Exception as error:  # raised after the results of earlier rows
            failures.append(error)

    def sampled(numbered: tuple[int, SampleRow]) -> SampledRow:
        index, row = numbered
        try:
            response, tail = sample(row)
            return SampledRow(index, row, response, tail=tail)
        except TinkexError as error:
            return SampledRow(index, row, error=error)
        finally:
            limit.release()

    try:
        yield from (map_ordered if ordered else map_unordered)(
            sampled,
            admitted(),
            workers=limit.most,
            window=limit.most * _AHEAD,
            on_done=lambda _: limit.received(spells(), time.monotonic()),
        )
    finally:
        limit.close()
    if failures:
        raise failures[0]


class ConcurrencyLimit:
    """Limits the number of concurrent samples: fixed, or adapted to the rate of results.

    The number is doubled, and kept if the rate grows clearly; a rejection halves it. So it
    approaches the capacity of the service or of this machine.

    :param fixed: the number, or ``None`` to adapt it.
    :ivar value: the current number.
    :ivar most: the maximum number.
    :raises UsageError: *fixed* is out of range.
    """

    def __init__(self, fixed: int | None) -> None:
        if fixed is not None and not 1 <= fixed <= MAX_CONCURRENCY:
            raise UsageError(f"the concurrency must be from 1 to {MAX_CONCURRENCY}, not {fixed}")
        self.value = fixed or _FIRST
        self.most = fixed or MAX_CONCURRENCY
        self._fixed = fixed is not None
        self._running = self._unread = 0
        self._closed = False
        self._changed = threading.Condition()
        self._spells = 0
        self._before = 0  # the number before the current doubling; 0 if there is none
        self._rate = 0.0
        self._rest_until = 0.0
        self._count = -self.value  # of finished rows; rows before 0 only fill the pipeline
        self._since = 0.0

    def admit(self, rows: Iterable[SampleRow]) -> Iterator[SampleRow]:
        """Yield each of *rows* as soon as the limit allows."""
        remaining = iter(rows)
        while self._wait_for_room():
            try:
                row = next(remaining)
            except StopIteration:
                return
            yield row

    def close(self) -> None:
        """Admit no more rows."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def release(self) -> None:
        """Allow another row after one was sampled."""
        with self._changed:
            self._running -= 1
            self._changed.notify()

    def received(self, spells: int, now: float) -> None:
        """Allow another row after a result was received, and adapt the number.

        :param spells: how many times the service has begun to reject samples.
        :param now: the time, in seconds of a monotonic clock.
        """
        with self._changed:
            self._unread -= 1
            if not self._fixed:
                self._adapt(spells, now)
            self._changed.notify()

    def _wait_for_room(self) -> bool:
        with self._changed:
            while not self._closed and (
                self._running >= self.value or self._unread >= 2 * self.value
            ):
                self._changed.wait()
            self._running += 1
            self._unread += 1
            return not self._closed

    def _adapt(self, spells: int, now: float) -> None:
        if spells > self._spells:
            self._spells = spells
            self._settle(max(1, (self._before or self.value) // 2), now)
            return
        self._count += 1
        if self._count <= 0:
            self._since = now
        took = now - self._since
        # Results of a service that takes the same time for each arrive in waves: count whole ones.
        if self._count % self.value == 0 and took >= _WINDOW:
            self._judge(self._count / took, now)
            self._count = -self.value

    def _judge(self, rate: float, now: float) -> None:
        if self._before and rate < self._rate * _GAIN:
            self._settle(self._before, now)
        elif now >= self._rest_until and self.value < MAX_CONCURRENCY:
            self._before, self._rate = self.value, rate
            self.value = min(MAX_CONCURRENCY, self.value * 2)
        else:
            self._before = 0

    def _settle(self, value: int, now: float) -> None:
        self.value, self._before = value, 0
        self._rest_until = now + _REST
        self._count = -value
