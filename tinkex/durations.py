"""Spans of time and moments as people type them: ``7d``, ``1h30m``, ``2026-11-01``, ``yesterday``.

Everything is UTC: that is what the service keeps, bills and answers in.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from tinkex.exceptions import UsageError

#: Seconds of each unit. A month has no fixed length, and ``m`` is a minute.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_PART = r"(\d{1,12}(?:\.\d{1,6})?)\s*([smhdwy])"
_SPAN = re.compile(rf"(?:{_PART}\s*)+", re.ASCII | re.IGNORECASE)
#: Longest span, so that sums with any date of this age stay dates.
_LONGEST = timedelta(days=100 * 365)

_SPAN_HINT = "Give a number with a unit: 90s, 45m, 12h, 7d, 2w, 1y; or several: 1h30m."
_MOMENT_HINT = (
    "Give a date (2026-11-01), a time (2026-11-01T15:30, in UTC unless it says otherwise), "
    "how long ago (30d, 12h), today, yesterday or now."
)


def parse_duration(text: str, *, bare: str | None = None) -> timedelta:
    """Return the span of time that *text* means: ``90s``, ``7d``, ``1h30m``, ``1.5d``.

    :param bare: unit (``s``, ``m``, ``h``, ``d``, ``w``, ``y``) of a number without one; without
        it, such a number is refused.
    :raises UsageError: not a span of time, zero, or longer than a hundred years.
    """
    words = text.strip()
    if bare is not None and re.fullmatch(r"\d{1,12}(?:\.\d{1,6})?", words, re.ASCII):
        words += bare
    span = _span(words)
    if span is None:
        raise UsageError(f"not a span of time: {text[:40]!r}", hint=_SPAN_HINT)
    if not timedelta() < span <= _LONGEST:
        raise UsageError(f"not a usable span of time: {text[:40]!r}", hint=_SPAN_HINT)
    return span


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """Return the moment that *text* means, in UTC.

    :param text: an ISO 8601 date (midnight UTC) or time (UTC unless it has an offset), a span of
        time (that long before *now*; ``ago`` may follow), ``now``, ``today``, ``yesterday``.
    :param now: the present, with a zone; that of the clock by default.
    :raises UsageError: not a moment, or one outside the years 1 to 9999.
    """
    now = (now or datetime.now(UTC)).astimezone(UTC)
    words = " ".join(text.split()).lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if words in named:
        return named[words]
    span = _span(words.removesuffix(" ago"))
    try:
        if span is not None and span <= _LONGEST:
            return now - span
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"not a moment: {text[:40]!r}", hint=_MOMENT_HINT) from None


def _span(words: str) -> timedelta | None:
    """Return the sum of the parts of *words*, or ``None`` if they are something else."""
    if not _SPAN.fullmatch(words):
        return None
    parts = re.findall(_PART, words, re.ASCII | re.IGNORECASE)
    seconds = sum(float(number) * _UNITS[unit.lower()] for number, unit in parts)
    # Far beyond what a timedelta holds; the caller refuses it.
    return timedelta(seconds=min(seconds, _LONGEST.total_seconds() * 2))
