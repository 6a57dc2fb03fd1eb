"""Errors of the service, in the two forms of the protocol."""

from __future__ import annotations

import logging
from typing import Any, Literal

#: A child of tinkex's logger, so that ``--debug`` and ``--log-file`` apply to it.
log = logging.getLogger("tinkex.local")

Category = Literal["user", "server"]


class Problem(Exception):
    """An error that is returned as an error status with ``{"detail": …}``.

    :param status: the HTTP status, 400 or above.
    :param detail: a sentence, or a list of validation findings (``loc``, ``msg``, ``type``).
    """

    def __init__(self, status: int, detail: str | list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class OperationError(Exception):
    """A long-running operation that failed; ``retrieve_future`` reports it with status 200.

    :param category: ``user`` if repeating the same request cannot help.
    """

    def __init__(self, message: str, category: Category = "user") -> None:
        super().__init__(message)
        self.category: Category = category


def bad_request(detail: str) -> Problem:
    """Return the error for an invalid request (400)."""
    return Problem(400, detail)


def not_found(what: str, name: str) -> Problem:
    """Return the error for an unknown name: ``Unknown session 'x'``."""
    return Problem(404, f"Unknown {what} {name!r}")


def conflict(detail: str) -> Problem:
    """Return the error for a request that conflicts with the current state."""
    return Problem(409, detail)


def note_fault(what: str, error: Exception) -> None:
    """Log an internal error in one line; the traceback is logged only with ``--debug``."""
    log.error("%s failed: %s: %s", what, type(error).__name__, error)
    log.debug("where %s failed", what, exc_info=error)
