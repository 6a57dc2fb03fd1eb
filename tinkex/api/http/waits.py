"""What somebody who waits is told; imported when there is something to tell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wait:
    """Why nothing has come back yet; handed to the ``on_wait`` of a client.

    :ivar operation: what is being waited for, as a noun: ``sampling``.
    :ivar elapsed: seconds since the operation began.
    :ivar queue_state: the server's word: ``active``, ``paused_capacity``,
        ``paused_rate_limit``; ``None`` when it said nothing.
    :ivar reason: why, in words: the server's reason, or ``HTTP 503``.
    :ivar retry_in: seconds until the next try, when there will be one.
    :ivar note: something to tell apart from waiting, such as a message of the service.
    """

    operation: str
    elapsed: float
    queue_state: str | None = None
    reason: str | None = None
    retry_in: float | None = None
    note: str | None = None
