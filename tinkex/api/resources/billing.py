"""Usage and its cost: hourly events, summaries of them, and current storage.

All amounts are gross estimates in US dollars before credits, not an invoice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.exceptions import Forbidden, TinkexError, UsageError

#: Longest time span of one request.
WINDOW = timedelta(days=14)
#: Endpoint that reports current storage and its price.
_STORAGE = "billing/usage/checkpoints/current"
#: Member of its response with US dollars per gigabyte per month.
_RATE = "effective_rate_usd_per_gigabyte_month"
#: Number of time spans requested concurrently.
_CONCURRENCY = 4
#: Time limit in seconds of a request for the price, if it is optional.
_PATIENCE = 5.0
#: Types of usage that have a price.
_PRICED = frozenset({"training", "sampling_prefill", "sampling_sample", "storage"})


@dataclass(frozen=True)
class UsageEvent:
    """The usage of one type in one hour.

    :ivar bucket_start: beginning of the hour, UTC; *bucket_end* is the beginning of the next.
    :ivar type: ``training``, ``sampling_prefill``, ``sampling_sample``, ``checkpoint``,
        ``storage``, or a type added later.
    :ivar cached: whether prefill tokens came from the cache.
    :ivar count: checkpoint operations.
    :ivar free: whether the storage is free of charge.
    :ivar estimated_cost_usd: its price, or ``None`` while unknown.
    :ivar raw: the event as received.
    """

    bucket_start: datetime
    bucket_end: datetime
    type: str
    base_model: str | None = None
    user_id: str | None = None
    user_name: str | None = None
    session_id: str | None = None
    project_id: str | None = None
    token_count: int = 0
    cached: bool = False
    count: int = 0
    gigabyte_hours: float = 0.0
    free: bool = False
    estimated_cost_usd: float | None = None
    effective_rate_usd_per_million_tokens: float | None = None
    effective_rate_usd_per_gigabyte_month: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_unpriced(self) -> bool:
        """Whether the event will have a price but has none yet."""
        return self.estimated_cost_usd is None and self.type in _PRICED and not self.free

    @classmethod
    def from_json(cls, data: Any) -> UsageEvent:
        """Create an event from its JSON form *data*."""
        event = schema.mapping(data, "data")
        info = schema.optional_mapping(event, "event_info") or {}
        return schema.read(cls, {**event, **info}, "data", raw=event)


@dataclass(frozen=True)
class Usage:
    """Usage in a time span of full UTC hours, with its events sorted by time.

    :ivar sessions: session id → the metadata attached by its creator, or ``None``.
    :ivar cost_data_through: prices before this time are from invoices, later ones from the
        published rates; ``None`` if no day is complete.
    """

    start: datetime
    end: datetime
    events: tuple[UsageEvent, ...] = ()
    sessions: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    cost_data_through: datetime | None = None

    @property
    def cost_usd(self) -> float:
        """Sum of the known prices."""
        return math.fsum(event.estimated_cost_usd or 0.0 for event in self.events)

    @property
    def unpriced(self) -> int:
        """Number of events without a price yet."""
        return sum(event.is_unpriced for event in self.events)


@dataclass(frozen=True)
class StoredCheckpoints:
    """The stored checkpoints of one project and owner."""

    project_id: str | None = None
    org_user_urn: str | None = None
    user_email: str | None = None
    user_name: str | None = None
    checkpoint_count: int = 0
    size_bytes: int = 0
    size_gigabytes: float | None = None
    estimated_monthly_cost_usd: float | None = None


@dataclass(frozen=True)
class CheckpointStorage:
    """The current storage of checkpoints, by project and owner.

    :ivar rate: US dollars per gigabyte per month of 720 hours, if known.
    """

    rate: float | None = None
    rows: tuple[StoredCheckpoints, ...] = ()


class Billing:
    """The usage of the organization; the key's user needs permission to view its billing."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def usage(self, start: datetime, end: datetime | None = None) -> Usage:
        """Return the usage from *start* to *end*, widened to full hours.

        :param start: timezone-aware; a span of more than 14 days takes several requests.
        :param end: timezone-aware; by default, and at the latest, now.
        :raises UsageError: the span is empty or in the future.
        """
        now = datetime.now(UTC)
        if start > now:
            raise UsageError("the time span starts in the future")
        start, end = aligned(start, now if end is None else min(end, now))
        deadline = self._transport.deadline("the usage data")

        def request(window: tuple[datetime, datetime]) -> schema.Json:
            edges = [f"{edge:%Y-%m-%dT%H}:00:00Z" for edge in window]
            params = dict(zip(("starting_on", "ending_before"), edges, strict=True))
            what = "usage data"
            return self._call(
                Request("GET", "billing/usage/events", params=params, what=what), deadline
            )

        parts = list(map_ordered(request, windows(start, end), workers=_CONCURRENCY))
        events = [UsageEvent.from_json(e) for part in parts for e in schema.items(part, "data")]
        sessions = {
            session_id: schema.optional_mapping(schema.mapping(about, "sessions"), "user_metadata")
            for part in parts
            for session_id, about in (schema.optional_mapping(part, "sessions") or {}).items()
        }
        through = [schema.optional_time(part, "cost_data_through") for part in parts]
        return Usage(start, end, tuple(events), sessions, max(filter(None, through), default=None))

    def storage(self, project_id: str | None = None) -> CheckpointStorage:
        """Return the current storage of checkpoints.

        :param project_id: only the storage of this project.
        """
        params = {"project_id": project_id} if project_id else {}
        what = "checkpoint storage usage"
        request = Request("GET", _STORAGE, params=params, what=what)
        data = self._call(request, self._transport.deadline(what))
        rows = [schema.read(StoredCheckpoints, row, "data") for row in schema.items(data, "data")]
        return CheckpointStorage(schema.optional_number(data, _RATE), tuple(rows))

    def storage_rate(self) -> float | None:
        """Return the price of storage in US dollars per gigabyte per month, or ``None``.

        Never raises: only some services have billing, and only some keys may view it.
        """
        patience = min(_PATIENCE, self._transport.settings.timeout)
        deadline = self._transport.deadline("the storage price", patience)
        # Not retried: most servers do not bill, and report that in many ways.
        request = Request("GET", _STORAGE, repeatable=False)
        try:
            rate = schema.optional_number(self._transport.call(request, deadline).object(), _RATE)
        except TinkexError:
            return None
        return rate if rate is not None and rate >= 0 else None

    def _call(self, request: Request, deadline: Deadline) -> schema.Json:
        try:
            return self._transport.call(request, deadline).object()
        except Forbidden as error:
            error.hint = "The key's owner needs permission to view the organization's billing data."
            raise


def aligned(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return the smallest span of full UTC hours that covers *start* to *end*.

    :raises UsageError: *end* is not after *start*.
    """
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    if end <= start:
        raise UsageError("the end of the time span must be after its start")
    last = end.replace(minute=0, second=0, microsecond=0)
    last = last if last == end else last + timedelta(hours=1)
    return start.replace(minute=0, second=0, microsecond=0), last


def windows(start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Split *start* to *end* into spans of at most :data:`WINDOW`."""
    count = math.ceil((end - start) / WINDOW)
    return list(itertools.pairwise([*(start + n * WINDOW for n in range(count)), end]))


@dataclass(frozen=True)
class UsageSummary:
    """The sums of a group of usage events.

    :ivar key: the day, session or other key of the group; ``None`` if not reported.
    :ivar prefill_tokens: prompt tokens, including those from the cache.
    :ivar cached_tokens: prompt tokens from the cache.
    :ivar checkpoints: checkpoint operations.
    :ivar cost_usd: sum of the known prices.
    :ivar unpriced: number of events without a price yet.
    """

    key: str | None
    training_tokens: int
    prefill_tokens: int
    cached_tokens: int
    sampled_tokens: int
    checkpoints: int
    gigabyte_hours: float
    cost_usd: float
    unpriced: int


_KEYS: Mapping[str, Callable[[UsageEvent], str | None]] = {
    "day": lambda event: event.bucket_start.date().isoformat(),
    "session": lambda event: event.session_id,
    "model": lambda event: event.base_model,
    "user": lambda event: event.user_name or event.user_id,
    "project": lambda event: event.project_id,
    "type": lambda event: event.type,
}
#: The dimensions that usage can be summarized by.
DIMENSIONS = (*_KEYS, "run")


def summarize(
    usage: Usage, by: str, runs_of: Mapping[str, Sequence[str]] | None = None
) -> list[UsageSummary]:
    """Summarize *usage* in groups: days in order, other groups by price, the highest first.

    :param by: ``day``, ``session``, ``model``, ``user``, ``project``, ``type`` or ``run``.
    :param runs_of: session id → its training runs, for ``run``, since events belong to sessions.
        Runs of the same session share a group; a session without runs is a separate group.
    :raises UsageError: *by* is not a dimension.
    """
    if by not in DIMENSIONS:
        hint = f"Use one of {', '.join(DIMENSIONS)}."
        raise UsageError(f"usage cannot be summarized by {by!r}", hint=hint)

    def run(event: UsageEvent) -> str | None:
        runs = ", ".join((runs_of or {}).get(event.session_id or "", ()))
        return runs or (event.session_id and f"session {event.session_id}")

    groups: dict[str | None, list[UsageEvent]] = {}
    for event in usage.events:
        groups.setdefault(_KEYS.get(by, run)(event), []).append(event)
    found = [_summary(key, events) for key, events in groups.items()]
    if by == "day":
        return sorted(found, key=lambda summary: summary.key or "")
    return sorted(found, key=lambda summary: (-summary.cost_usd, summary.key or ""))


def _summary(key: str | None, events: Sequence[UsageEvent]) -> UsageSummary:
    def tokens(kind: str, wanted: Iterable[bool] = (True, False)) -> int:
        return sum(e.token_count for e in events if e.type == kind and e.cached in wanted)

    return UsageSummary(
        key=key,
        training_tokens=tokens("training"),
        prefill_tokens=tokens("sampling_prefill"),
        cached_tokens=tokens("sampling_prefill", (True,)),
        sampled_tokens=tokens("sampling_sample"),
        checkpoints=sum(event.count for event in events),
        gigabyte_hours=math.fsum(event.gigabyte_hours for event in events),
        cost_usd=math.fsum(event.estimated_cost_usd or 0.0 for event in events),
        unpriced=sum(event.is_unpriced for event in events),
    )
