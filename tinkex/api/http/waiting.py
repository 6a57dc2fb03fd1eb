"""How long an operation may take, and telling somebody while it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tinkex.exceptions import TimedOut

if TYPE_CHECKING:
    from tinkex.api.http.waits import Wait


OnWait = Callable[["Wait"], None]


class Deadline:
    """The time that one operation of a client may take, retries and polling included.

    :param operation: a noun, used in messages: ``Timed out while awaiting sampling``.
    :param seconds: the allowance; it starts now.
    :param on_wait: is told about every wait.
    :param patience: seconds that waiting for a busy service may add to the allowance.
    """

    def __init__(
        self,
        operation: str,
        seconds: float,
        on_wait: OnWait | None = None,
        *,
        patience: float = 0.0,
    ) -> None:
        self.operation = operation
        self.seconds = seconds
        self.patience = patience
        self._on_wait = on_wait
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the operation began."""
        return time.monotonic() - self._start

    def remaining(self) -> float:
        """Return the seconds left, always more than zero.

        :raises TimedOut: none are left.
        """
        left = self.seconds - self.elapsed
        if left <= 0:
            raise self.timed_out()
        return left

    def timed_out(self) -> TimedOut:
        """Return the error that says so."""
        return TimedOut(f"Timed out while awaiting {self.operation}")

    def allows(self, seconds: float) -> bool:
        """Tell whether a wait of *seconds* would leave time for another try."""
        return self.elapsed + seconds < self.seconds

    def excuse(self, seconds: float) -> None:
        """Do not count *seconds* that a busy service took, as far as there is patience."""
        excused = min(seconds, self.patience)
        self.patience -= excused
        self.seconds += excused

    def sleep(self, seconds: float) -> None:
        """Wait without a word.

        :raises TimedOut: the time is up, at the latest when it is.
        """
        time.sleep(max(0.0, min(seconds, self.remaining())))
        self.remaining()

    def tell(
        self,
        *,
        reason: str | None = None,
        retry_in: float | None = None,
        queue_state: str | None = None,
        note: str | None = None,
    ) -> None:
        """Pass a :class:`~tinkex.api.Wait` on to whoever asked for it."""
        if self._on_wait is not None:
            from tinkex.api.http.waits import Wait

            elapsed = self.elapsed
            self._on_wait(Wait(self.operation, elapsed, queue_state, reason, retry_in, note))

    def pause(self, seconds: float, reason: str) -> None:
        """Say that the next try comes in *seconds* and why, then wait.

        :raises TimedOut: the time is up.
        """
        self.tell(reason=reason, retry_in=seconds)
        self.sleep(seconds)
