"""Times on the wire: aware, UTC, with a ``Z``."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

#: Key in the WSGI environment: seconds a caller waits for a response, if less than a long poll.
PATIENCE = "tinkex_local.patience"


def iso(seconds: float | None) -> str | None:
    """Return the moment *seconds* after the epoch as ``2026-01-31T12:00:00.000000Z``."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def http_date(seconds: float) -> str:
    """Return the moment as an HTTP header wants it."""
    return formatdate(seconds, usegmt=True)
