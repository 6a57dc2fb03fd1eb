"""What can go wrong in the service, in the two shapes the protocol has for it."""

from __future__ import annotations

import logging
from typing import Any, Literal

#: Below the program's own, so that ``--debug`` and ``--log-file`` hold for it too.
log = logging.getLogger("tinkex.local")

Category = Literal["user", "server"]


class Problem(Exception):
    """A request that is answered with an error status and ``{"detail": …}``.

    :param status: the HTTP status, 400 or above.
    :param detail: a sentence, or a list of validation findings (``loc``, ``msg``, ``type``).
    """

    def __init__(self, status: int, detail: str | list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class OperationError(Exception):
    """A long-running operation that failed; ``retrieve_future`` reports it with status 200.

    :param category: ``user`` when repeating the same request cannot help.
    """

    def __init__(self, message: str, category: Category = "user") -> None:
        super().__init__(message)
        self.category: Category = category


def bad_request(detail: str) -> Problem:
    """Return the refusal of an invalid request."""
    return Problem(400, detail)


def not_found(what: str, name: str) -> Problem:
    """Return the refusal of an unknown name: ``Unknown session 'x'``."""
    return Problem(404, f"Unknown {what} {name!r}")


def conflict(detail: str) -> Problem:
    """Return the refusal of a request that contradicts the present state."""
    return Problem(409, detail)


def note_fault(what: str, error: Exception) -> None:
    """Log a fault of ours in one line; where it happened is for ``--debug`` only."""
    log.error("%s failed: %s: %s", what, type(error).__name__, error)
    log.debug("where %s failed", what, exc_info=error)
