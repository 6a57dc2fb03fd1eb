"""Retries and deadlines: when to send a request again, and how long an operation may take.

Both are decided outside of the HTTP pools, so that they apply to every pool and every wait is
reported.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tinkex.exceptions import ConnectionFailed, TimedOut, TinkexError, Unreachable

#: Methods whose repetition has no further effect.
REPEATABLE = frozenset({"GET", "PUT", "DELETE"})
#: Maximum seconds that a server may ask to wait; for a longer wait, its error is reported.
LONGEST_WAIT = 60.0
#: Maximum number of retries of a request.
ATTEMPTS = 5
#: Maximum after HTTP 500: an unexpected failure inside the server is usually permanent.
ATTEMPTS_AFTER_500 = 2
#: Maximum for a host that refuses the connection, so that it fails within two seconds.
ATTEMPTS_TO_CONNECT = 1
_FIRST_DELAY = 0.5
_AFTER_LOSS = 0.2
_LONGEST_BACKOFF = 10.0
_JITTER = 0.1
#: Independent of the state of :mod:`random`, which belongs to the program that uses the client.
_RANDOM = random.Random()  # noqa: S311
#: Seconds by which a wait may end late on a busy machine; if later, the process was suspended.
LATE = 1.0
#: Minimum number of seconds left after a suspension, or the whole time limit if that is shorter.
_AFTER_SUSPENSION = 10.0


@dataclass(frozen=True)
class Wait:
    """The reason why a client waits, passed to its ``on_wait``.

    :ivar operation: what the client waits for, as a noun: ``sampling``.
    :ivar elapsed: seconds since the operation began.
    :ivar queue_state: the server's value: ``active``, ``paused_capacity``,
        ``paused_rate_limit``; ``None`` if it sent none.
    :ivar reason: the reason as text: the server's own, or ``HTTP 503``.
    :ivar retry_in: seconds until the next try, if there will be one.
    :ivar note: a message to show that is not about waiting, such as one from the service.
    """

    operation: str
    elapsed: float
    queue_state: str | None = None
    reason: str | None = None
    retry_in: float | None = None
    note: str | None = None


OnWait = Callable[[Wait], None]


class Deadline:
    """The time that one operation of a client may take, retries and polling included.

    :param operation: a noun, used in messages: ``Timed out while awaiting sampling``.
    :param seconds: the time limit; it starts now.
    :param on_wait: called for every wait.
    :param patience: seconds by which waiting for a busy service may extend the limit.
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

        :raises TimedOut: no time is left.
        """
        left = self.seconds - self.elapsed
        if left <= 0:
            raise self.timed_out()
        return left

    def timed_out(self) -> TimedOut:
        """Return the error for an operation whose deadline has passed."""
        return TimedOut(f"Timed out while awaiting {self.operation}")

    def allows(self, seconds: float) -> bool:
        """Return whether a wait of *seconds* would leave time for another try."""
        return self.elapsed + seconds < self.seconds

    def excuse(self, seconds: float) -> None:
        """Extend the deadline by *seconds* spent waiting for a busy service, up to *patience*."""
        excused = min(seconds, self.patience)
        self.patience -= excused
        self.seconds += excused

    def excuse_suspension(self, error: TinkexError) -> None:
        """Extend the deadline by the time for which the process was suspended before *error*."""
        if isinstance(error, ConnectionFailed) and error.suspended:
            least = self.elapsed + min(self.seconds, _AFTER_SUSPENSION)
            self.seconds = max(self.seconds + error.suspended, least)

    def sleep(self, seconds: float) -> None:
        """Wait without reporting it; time during which the process was suspended does not count.

        :raises TimedOut: the deadline is before the end of the wait, or passes during it.
        """
        seconds = max(0.0, min(seconds, self.remaining()))
        began = time.monotonic()
        time.sleep(seconds)
        late = time.monotonic() - began - seconds
        if late > LATE:
            self.seconds += late
        self.remaining()

    def report(
        self,
        *,
        reason: str | None = None,
        retry_in: float | None = None,
        queue_state: str | None = None,
        note: str | None = None,
    ) -> None:
        """Report a :class:`~tinkex.api.Wait` to the ``on_wait`` of the client."""
        if self._on_wait is not None:
            self._on_wait(Wait(self.operation, self.elapsed, queue_state, reason, retry_in, note))

    def pause(self, seconds: float, reason: str) -> None:
        """Report the reason and the *seconds* until the next attempt, then wait.

        :raises TimedOut: the time is up.
        """
        self.report(reason=reason, retry_in=seconds)
        self.sleep(seconds)


class Retrying:
    """The retries of one call.

    :ivar may_be_done: an earlier attempt may have had an effect on the server.
    :param repeatable: repeating the call is harmless even if the server has acted on it.
    """

    def __init__(self, repeatable: bool) -> None:
        self._repeatable = repeatable
        self._attempts = self._attempts_to_connect = 0
        self.may_be_done = False

    def after_response(self, status: int, headers: Mapping[str, str]) -> float | None:
        """Return the seconds until the call is sent again, or ``None`` if it is not.

        :param headers: the response headers, with names in lower case.
        """
        wanted = headers.get("x-should-retry", "").lower()
        asked = retry_after(headers)
        is_transient = self._repeatable and (status in (408, 429) or 500 <= status != 501)
        # With any method, the request had no effect, and the server reports when to retry.
        is_transient |= status == 429 and asked is not None
        if wanted == "false" or not (wanted == "true" or is_transient):
            return None
        if asked is not None and asked > LONGEST_WAIT:
            return None
        if status == 500 and wanted != "true" and self._attempts >= ATTEMPTS_AFTER_500:
            return None
        backoff = self._next_backoff(_FIRST_DELAY)
        if backoff is None:
            return None
        self.may_be_done |= status != 429
        return backoff if asked is None else asked

    def pause_after(self, error: ConnectionFailed | TimedOut, deadline: Deadline) -> None:
        """Wait before a retry of the call that failed with *error*, or raise *error*."""
        deadline.excuse_suspension(error)
        unsent = isinstance(error, Unreachable)
        self._attempts_to_connect += unsent
        if self._attempts_to_connect > ATTEMPTS_TO_CONNECT or not (unsent or self._repeatable):
            raise error
        self.may_be_done |= not unsent
        wait = self._next_backoff(_AFTER_LOSS)
        if wait is None or not deadline.allows(wait):
            raise error
        deadline.pause(wait, str(error))

    def _next_backoff(self, first: float) -> float | None:
        """Count another attempt and return the delay before it; ``None`` after the last attempt."""
        self._attempts += 1
        if self._attempts > ATTEMPTS:
            return None
        if self._attempts == 1:
            return first
        backoff = _FIRST_DELAY * 2.0 ** (self._attempts - 1)
        return min(backoff + _RANDOM.uniform(0, _JITTER), _LONGEST_BACKOFF)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks the client to wait, or ``None`` if it does not ask.

    :param headers: the response headers, with names in lower case.
    """
    value = ""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if value.replace(".", "", 1).isdecimal() and value.isascii():
            return float(value) * unit
    from email.utils import parsedate_to_datetime  # takes 3 ms; few responses need it

    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
