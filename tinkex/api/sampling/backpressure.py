"""Holding back when a service says that it has enough: shared by all samples of one client.

The rule is that of the official SDK (0.38, ``internal_client_holder``): an answer of 429 to a
sample that is handed in is no failure. Every sample of the client waits a moment, the refused one
is sent again as it was, and for some seconds only a few are handed in at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tinkex.api.http.waiting import Deadline

#: Samples being handed in at once: normally, and for a while after a refusal.
USUAL, NARROW = 400, 10
#: Seconds, after the wait that follows a refusal, for which few are handed in.
NARROW_SECONDS = 10.0
#: Bytes that a token is reckoned with, and up to which a request counts as small.
_TOKEN_BYTES, _SMALL = 10, 128 * 1024
#: Seconds to hold back after a refusal, for small requests and for others.
_SMALL_PAUSE, _LARGE_PAUSE = 1.0, 5.0


def pause_after_refusal(prompt_tokens: int) -> float:
    """Return the seconds to hold back when a prompt of so many tokens was refused."""
    return _SMALL_PAUSE if prompt_tokens * _TOKEN_BYTES <= _SMALL else _LARGE_PAUSE


class Backpressure:
    """A gate through which samples are handed in.

    :ivar refusals: answers of 429 so far.
    :ivar spells: times that the service began to refuse: refusals while everybody holds back
        already belong to the same one.
    """

    def __init__(self) -> None:
        self.refusals = 0
        self.spells = 0
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._closed_until = 0.0
        self._narrow_until = 0.0

    @property
    def is_shut(self) -> bool:
        """Whether everybody waits at the moment."""
        return time.monotonic() < self._closed_until

    @contextmanager
    def passing(self, deadline: Deadline) -> Iterator[None]:
        """Wait for the gate; who is inside the block is handing a sample in.

        :raises tinkex.exceptions.TimedOut: the gate stays shut for longer than *deadline*.
        """
        self._enter(deadline)
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()

    def refused(self, pause: float) -> None:
        """Shut the gate for *pause* seconds, and open it only a little after that."""
        now = time.monotonic()
        with self._changed:
            self.refusals += 1
            if now >= self._narrow_until:
                self.spells += 1
            self._closed_until = max(self._closed_until, now + pause)
            self._narrow_until = self._closed_until + NARROW_SECONDS

    def _enter(self, deadline: Deadline) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                shut = self._closed_until - now
                narrow = self._narrow_until - now
                if shut <= 0 and self._inside < (NARROW if narrow > 0 else USUAL):
                    self._inside += 1
                    return
                wait = shut if shut > 0 else narrow if narrow > 0 else None
                left = deadline.remaining()
                self._changed.wait(left if wait is None else min(wait, left))
                deadline.excuse(time.monotonic() - now)
