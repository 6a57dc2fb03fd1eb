"""The price of storage, for those who can do without it."""

from __future__ import annotations

from tinkex.api.http.transport import Request, Transport
from tinkex.api.resources import billing
from tinkex.exceptions import TinkexError

#: Seconds that may be spent on asking: whoever asks can do without.
_PATIENCE = 5.0


def storage_rate(transport: Transport) -> float | None:
    """Return the rate in US dollars per gigabyte and month, or ``None``; never raises."""
    patience = min(_PATIENCE, transport.settings.timeout)
    deadline = transport.deadline("the price of storage", patience)
    # Not to be repeated: most servers have no bills, and say so in many ways.
    request = Request("GET", billing.STORAGE, repeatable=False)
    try:
        rate = billing.storage_rate(transport.call(request, deadline).object())
    except TinkexError:
        return None
    return rate if rate is not None and rate >= 0 else None
