"""What the service bills for storage."""

from __future__ import annotations

import math

from tinkex.api.requesting import Request
from tinkex.api.transport import Transport
from tinkex.exceptions import TinkexError

#: Seconds that may be spent on asking: whoever asks can do without.
_PATIENCE = 5.0


def storage_rate(transport: Transport) -> float | None:
    """Return the rate in US dollars per gigabyte and month, or ``None``; never raises."""
    patience = min(_PATIENCE, transport.settings.timeout)
    deadline = transport.deadline("the price of storage", patience)
    # Not to be repeated: most servers have no bills, and say so in many ways.
    request = Request("GET", "billing/usage/checkpoints/current", repeatable=False)
    try:
        rate = (
            transport.call(request, deadline).object().get("effective_rate_usd_per_gigabyte_month")
        )
    except TinkexError:
        return None
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        return None
    return float(rate) if math.isfinite(rate) and rate >= 0 else None
