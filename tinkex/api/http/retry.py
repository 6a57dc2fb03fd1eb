"""When a request is made again, and after how long.

Counting, back-off and ``Retry-After`` are those of :class:`urllib3.util.Retry`. The decision is
taken above the transport adapter, so that every HTTP pool obeys it and every wait can be told.
"""

from __future__ import annotations

import math

from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError
from urllib3.util import Retry

from tinkex.api.http import errors
from tinkex.api.http.answers import Response
from tinkex.api.http.waiting import Deadline
from tinkex.config.pools import DEFAULT_RETRIES
from tinkex.exceptions import TinkexError

#: Methods whose repetition does no more than doing it once.
REPEATABLE = frozenset({"GET", "PUT", "DELETE"})
#: Longest wait that a server may ask for, in seconds; beyond it, its error is reported.
LONGEST_WAIT = 60.0
#: An unexpected failure inside the server is most often a permanent one.
ATTEMPTS_AFTER_500 = 2
#: A host that refuses is asked once more, so that its user hears of it within two seconds.
ATTEMPTS_TO_CONNECT = 1
_FIRST_DELAY = 0.5
_AFTER_LOSS = 0.2
_LONGEST_BACKOFF = 10


class Retrying:
    """The state of one call's repetitions.

    :ivar may_be_done: the server may have acted on an earlier try: it was not merely refused.
    :param repeatable: repeating the call does no harm even if the server has acted on it.
    :param attempts: repetitions after an answer or a lost connection, at most.
    """

    def __init__(self, method: str, repeatable: bool, attempts: int = DEFAULT_RETRIES) -> None:
        self._method = method
        self._repeatable = repeatable
        self.attempts = 0
        self.may_be_done = False
        self._retry = Retry(
            total=attempts,
            connect=ATTEMPTS_TO_CONNECT,
            backoff_factor=_FIRST_DELAY,
            backoff_max=_LONGEST_BACKOFF,
            backoff_jitter=0.1,
            allowed_methods=None,
        )

    def after_answer(self, answer: Response) -> float | None:
        """Return the seconds until *answer*'s call is made again, or ``None`` for never."""
        wanted = answer.headers.get("x-should-retry", "").lower()
        if wanted != "true" and (wanted == "false" or not self._is_transient(answer.status)):
            return None
        asked = retry_after(answer)
        if asked is not None and asked > LONGEST_WAIT:
            return None
        if answer.status == 500 and wanted != "true" and self.attempts >= ATTEMPTS_AFTER_500:
            return None
        backoff = self._count(None)
        if backoff is None:
            return None
        self.may_be_done |= answer.status != 429
        return asked if asked is not None else max(backoff, _FIRST_DELAY)

    def after_error(self, error: Exception) -> float | None:
        """Return the seconds until the call that raised *error* is made again, or ``None``."""
        unsent = errors.never_connected(error)
        if errors.is_lasting(error) or not (unsent or self._repeatable):
            return None
        backoff = self._count(ConnectTimeoutError() if unsent else HTTPError())
        self.may_be_done |= not unsent
        return None if backoff is None else max(backoff, _AFTER_LOSS)

    def pause_after(self, error: Exception, ours: TinkexError, deadline: Deadline) -> None:
        """Wait until the call that raised *error* is made again, or raise *ours* if it is not."""
        wait = self.after_error(error)
        if wait is None or not deadline.allows(wait):
            raise ours from error
        deadline.pause(wait, str(ours))

    def _is_transient(self, status: int) -> bool:
        return self._repeatable and (status in (408, 429) or status >= 500)

    def _count(self, error: Exception | None) -> float | None:
        try:
            self._retry = self._retry.increment(self._method, "", error=error)
        except MaxRetryError:
            return None
        self.attempts += 1
        return self._retry.get_backoff_time()


def retry_after(answer: Response) -> float | None:
    """Return the seconds that a server asks to wait, or ``None`` if it does not say."""
    try:
        milliseconds = float(answer.headers.get("retry-after-ms", "nan"))
    except ValueError:
        milliseconds = math.nan
    if math.isfinite(milliseconds) and milliseconds >= 0:
        return milliseconds / 1000
    value = answer.headers.get("retry-after", "")
    try:
        seconds = float(value) if value.replace(".", "", 1).isdigit() else _date(value)
    except (HTTPError, ValueError, OverflowError):
        return None
    return max(seconds, 0.0)


def _date(value: str) -> float:
    return Retry().parse_retry_after(value)
