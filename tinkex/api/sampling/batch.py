"""Sampling many prompts side by side: threads, how many of them, and results as they come.

A sample waits for its result in a request of its own, so each that is under way has a thread.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinkex.api.sampling.types import SampleResponse, SamplingParams
from tinkex.exceptions import TinkexError, UsageError

if TYPE_CHECKING:
    from tinkex.api.sampling.client import SamplingClient
    from tinkex.api.sampling.tokenizer import Tokenizer

#: Most rows under way at once; there are as many pooled connections.
MOST = 256
#: Rows under way at once in the beginning, unless a number is given.
_FIRST = 32
#: How much faster twice as many rows must come for it to stay so.
_GAIN = 1.1
#: Seconds to leave the number alone after twice as many did not help, or the service refused.
_REST = 20.0
#: Seconds over which a rate is taken at the least.
_WINDOW = 0.25
#: Seconds that one row may wait for a busy service, besides the time of the settings.
PATIENCE = 3600.0
#: Rows taken ahead of the oldest unfinished one, for each under way, to keep an order.
_AHEAD = 4

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SampleRow:
    """One of many prompts.

    :ivar prompt: token ids, or a text, or messages (``{"role": …, "content": …}``); the last two
        need a tokenizer.
    :ivar params: how tokens are drawn.
    :ivar num_samples: continuations.
    :ivar key: anything; it comes back with the result.
    """

    prompt: Prompt
    params: SamplingParams | None = None
    num_samples: int = 1
    key: Any = None


@dataclass(frozen=True)
class SampledRow:
    """What became of one prompt; one of *response* and *error* is ``None``.

    :ivar index: the row's place among all, from 0.
    :ivar row: the row itself.
    """

    index: int
    row: SampleRow
    response: SampleResponse | None = None
    error: TinkexError | None = None


class SampledRows(Iterator[SampledRow]):
    """Results as they complete; made by :meth:`tinkex.api.SamplingClient.sample_many`.

    :ivar under_way: rows handed to the service whose result has not been yielded.
    """

    def __init__(
        self,
        client: SamplingClient,
        rows: Iterable[SampleRow],
        concurrency: int | None,
        *,
        ordered: bool,
        tokenizer: Tokenizer | None,
    ) -> None:
        if concurrency is not None and not 1 <= concurrency <= MOST:
            raise UsageError(f"the concurrency must be from 1 to {MOST}, not {concurrency}")
        self._client = client
        self._rows = enumerate(rows)
        self._ordered = ordered
        self._tokenizer = tokenizer
        self._level = Level(concurrency)
        self._todo: queue.SimpleQueue[tuple[int, SampleRow] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[SampledRow | BaseException | None] = queue.SimpleQueue()
        self._threads = 0
        self._exhausted = False
        self._failure: BaseException | None = None
        self._stopped_at: float | None = None
        self._early: dict[int, SampledRow] = {}
        self._next = 0
        self.under_way = 0
        # Threads that wait for rows end also when nobody wants the other results any more.
        self._dismiss = weakref.finalize(self, self._todo.put, None)

    @property
    def concurrency(self) -> int:
        """Rows that may be under way at once, at the moment."""
        return self._level.limit

    def __iter__(self) -> SampledRows:
        return self

    def __next__(self) -> SampledRow:
        while True:
            self._hand_out()
            if self._ordered and self._next in self._early:
                self._next += 1
                return self._early.pop(self._next - 1)
            if not self.under_way:
                self._dismiss()
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                raise StopIteration
            found = self._wait()
            if found is not None and not self._ordered:
                return found
            if found is not None:
                self._early[found.index] = found

    def stop(self, patience: float) -> None:
        """Take no more rows, and give those under way *patience* seconds; a signal handler may.

        The results that come in time are still yielded. In an order, those with a gap before
        them are not.
        """
        self._exhausted = True
        self._stopped_at = time.monotonic() + patience
        self._done.put(None)

    def _wait(self) -> SampledRow | None:
        left = None if self._stopped_at is None else self._stopped_at - time.monotonic()
        try:
            found = self._done.get(timeout=None if left is None else max(0.0, left))
        except queue.Empty:
            self.under_way = 0  # they have had their time
            return None
        if found is None:
            return None
        self.under_way -= 1
        if isinstance(found, BaseException):
            self._exhausted, self._failure = True, self._failure or found
            return None
        self._level.completed(self._client.backpressure.spells, time.monotonic())
        return found

    def _hand_out(self) -> None:
        while not self._exhausted and self.under_way < self._level.limit:
            held = self.under_way + len(self._early)
            if self._ordered and held >= self._level.limit * _AHEAD:
                return
            try:
                index, row = next(self._rows)
            except StopIteration:
                self._exhausted = True
                return
            except Exception as error:  # what is under way is finished first
                self._exhausted, self._failure = True, error
                return
            if self._threads <= self.under_way:
                self._threads += 1
                work = (self._todo, self._done, self._client, self._tokenizer)
                threading.Thread(target=_work, args=work, name="tinkex-sample", daemon=True).start()
            self.under_way += 1
            self._todo.put((index, row))


def _work(
    todo: queue.SimpleQueue[tuple[int, SampleRow] | None],
    done: queue.SimpleQueue[SampledRow | BaseException | None],
    client: SamplingClient,
    tokenizer: Tokenizer | None,
) -> None:
    """Sample one row after the other; it knows nothing of who wants them, and so keeps nobody."""
    while (found := todo.get()) is not None:
        index, row = found
        try:
            done.put(SampledRow(index, row, response=_sampled(client, tokenizer, row)))
        except TinkexError as error:
            done.put(SampledRow(index, row, error=error))
        except BaseException as error:  # it is raised again where the rows are wanted
            done.put(error)
    todo.put(None)  # for the next thread


def _sampled(client: SamplingClient, tokenizer: Tokenizer | None, row: SampleRow) -> SampleResponse:
    deadline = client.deadline(patience=PATIENCE)
    tokens = _tokens(tokenizer, row.prompt, deadline.remaining())
    return client.sample(tokens, row.params, row.num_samples, deadline=deadline)


def _tokens(tokenizer: Tokenizer | None, prompt: Prompt, seconds: float) -> Sequence[int]:
    if not isinstance(prompt, str) and (not prompt or isinstance(prompt[0], int)):
        return prompt  # type: ignore[return-value]
    if tokenizer is None:
        raise UsageError("a prompt that is not token ids needs a tokenizer")
    if isinstance(prompt, str):
        return tokenizer.encode(prompt, timeout=seconds)
    return tokenizer.encode_messages(prompt, timeout=seconds)  # type: ignore[arg-type]


class Level:
    """How many rows are under way at once: a fixed number, or found out.

    Twice as many are tried, and kept if the rows come clearly faster; after a refusal it is half
    as many. So it settles where the service, or this machine, can do no more.

    :param fixed: the number, or ``None``.
    """

    def __init__(self, fixed: int | None) -> None:
        self.limit = fixed or _FIRST
        self._fixed = fixed is not None
        self._spells = 0
        self._before = 0  # the number before the trial of twice as many; 0 if there is none
        self._rate = 0.0
        self._rest_until = 0.0
        self._count = 0
        self._since: float | None = None

    def completed(self, spells: int, now: float) -> None:
        """Count a completed row.

        :param spells: how often the service has begun to refuse.
        """
        if self._fixed:
            return
        if spells > self._spells:
            self._spells = spells
            self._settle(max(1, (self._before or self.limit) // 2), now)
            return
        if self._since is None:
            self._since = now
        self._count += 1
        took = now - self._since
        if self._count >= self.limit and took >= _WINDOW:
            self._judge(self._count / took, now)
            self._count, self._since = 0, now

    def _judge(self, rate: float, now: float) -> None:
        if self._before and rate < self._rate * _GAIN:
            self._settle(self._before, now)
        elif now >= self._rest_until and self.limit < MOST:
            self._before, self._rate = self.limit, rate
            self.limit = min(MOST, self.limit * 2)
        else:
            self._before = 0

    def _settle(self, limit: int, now: float) -> None:
        self.limit, self._before = limit, 0
        self._rest_until = now + _REST
        self._count, self._since = 0, now
