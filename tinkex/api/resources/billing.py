"""What was used and what it cost: events by the hour, and the storage of the moment.

All amounts are gross estimates in US dollars, before credits; they are no invoice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.exceptions import Forbidden, UsageError

#: Longest window that the service answers for at once.
WINDOW = timedelta(days=14)
#: Endpoint that tells the storage of the moment and its price.
STORAGE = "billing/usage/checkpoints/current"
#: Windows that are asked for at the same time.
_CONCURRENCY = 4
_HOUR = timedelta(hours=1)
#: Kinds of usage that have a price.
_PRICED = frozenset({"training", "sampling_prefill", "sampling_sample", "storage"})


@dataclass(frozen=True)
class UsageEvent:
    """The usage of one kind in one hour.

    :ivar bucket_start: beginning of the hour, UTC; *bucket_end* is after its end.
    :ivar type: ``training``, ``sampling_prefill``, ``sampling_sample``, ``checkpoint``,
        ``storage``, or a kind that came later.
    :ivar token_count: tokens, for the kinds that have some.
    :ivar cached: whether prefill tokens came from the cache.
    :ivar count: checkpoint operations.
    :ivar gigabyte_hours: storage used.
    :ivar free: whether the storage costs nothing.
    :ivar estimated_cost_usd: its price, or ``None`` while nobody knows it.
    :ivar raw: the event as the service tells it.
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
        """Whether it will have a price and has none yet."""
        return self.estimated_cost_usd is None and self.type in _PRICED and not self.free

    @classmethod
    def from_json(cls, data: Any) -> UsageEvent:
        """Read one event.

        :raises tinkex.exceptions.InvalidResponse: *data* is not one.
        """
        event = schema.mapping(data, "data")
        info = schema.optional_mapping(event, "event_info") or {}
        rates = "effective_rate_usd_per_million_tokens", "effective_rate_usd_per_gigabyte_month"
        return cls(
            bucket_start=schema.time(event, "bucket_start"),
            bucket_end=schema.time(event, "bucket_end"),
            type=schema.text(info, "type"),
            base_model=schema.optional_text(event, "base_model"),
            user_id=schema.optional_text(event, "user_id"),
            user_name=schema.optional_text(event, "user_name"),
            session_id=schema.optional_text(event, "session_id"),
            project_id=schema.optional_text(event, "project_id"),
            token_count=schema.optional_int(info, "token_count") or 0,
            cached=bool(schema.optional_bool(info, "cached")),
            count=schema.optional_int(info, "count") or 0,
            gigabyte_hours=schema.optional_number(info, "gigabyte_hours") or 0.0,
            free=bool(schema.optional_bool(info, "free")),
            estimated_cost_usd=schema.optional_number(event, "estimated_cost_usd"),
            effective_rate_usd_per_million_tokens=schema.optional_number(event, rates[0]),
            effective_rate_usd_per_gigabyte_month=schema.optional_number(event, rates[1]),
            raw=event,
        )


@dataclass(frozen=True)
class Usage:
    """What was used in a span of time.

    :ivar start: its beginning, a full hour UTC.
    :ivar end: its end, a full hour UTC.
    :ivar events: in the order of time.
    :ivar sessions: session id → the metadata that its maker attached, or ``None``.
    :ivar cost_data_through: prices of events before it follow invoices, later ones the published
        rates; ``None`` when no day is complete.
    """

    start: datetime
    end: datetime
    events: tuple[UsageEvent, ...] = ()
    sessions: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    cost_data_through: datetime | None = None

    @property
    def cost_usd(self) -> float:
        """What the events cost that have a price."""
        return math.fsum(event.estimated_cost_usd or 0.0 for event in self.events)

    @property
    def unpriced(self) -> int:
        """How many events have no price yet."""
        return sum(event.is_unpriced for event in self.events)


@dataclass(frozen=True)
class StoredCheckpoints:
    """Checkpoints of one project and owner that occupy storage now."""

    project_id: str | None
    org_user_urn: str | None
    user_email: str | None
    user_name: str | None
    checkpoint_count: int
    size_bytes: int
    size_gigabytes: float | None
    estimated_monthly_cost_usd: float | None

    @classmethod
    def from_json(cls, data: Any) -> StoredCheckpoints:
        """Read one row.

        :raises tinkex.exceptions.InvalidResponse: *data* is not one.
        """
        row = schema.mapping(data, "data")
        return cls(
            project_id=schema.optional_text(row, "project_id"),
            org_user_urn=schema.optional_text(row, "org_user_urn"),
            user_email=schema.optional_text(row, "user_email"),
            user_name=schema.optional_text(row, "user_name"),
            checkpoint_count=schema.optional_int(row, "checkpoint_count") or 0,
            size_bytes=schema.optional_int(row, "size_bytes") or 0,
            size_gigabytes=schema.optional_number(row, "size_gigabytes"),
            estimated_monthly_cost_usd=schema.optional_number(row, "estimated_monthly_cost_usd"),
        )


@dataclass(frozen=True)
class CheckpointStorage:
    """What the checkpoints of the moment occupy.

    :ivar rate: US dollars for a gigabyte in a month of 720 hours, if known.
    :ivar rows: by project and owner.
    """

    rate: float | None = None
    rows: tuple[StoredCheckpoints, ...] = ()


class Billing:
    """What the organization used; needs the permission to see its billing."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def usage(self, start: datetime, end: datetime | None = None) -> Usage:
        """Return what was used from *start* to *end*, widened to full hours.

        :param start: aware; a span of more than 14 days is asked for in parts.
        :param end: aware; by default, and at the latest, now.
        :raises UsageError: the span is empty or lies in the future.
        """
        now = datetime.now(UTC)
        start = _utc(start)
        if start > now:
            raise UsageError("the span of time begins in the future")
        # What is yet to come has used nothing, and would only be asked for in many parts.
        start, end = aligned(start, now if end is None else min(_utc(end), now))
        parts = windows(start, end)
        deadline = self._transport.deadline("the usage")

        def ask(window: tuple[datetime, datetime]) -> Usage:
            first, last = window
            params = {"starting_on": _wire(first), "ending_before": _wire(last)}
            request = Request("GET", "billing/usage/events", params=params, what="billing usage")
            return _usage(self._ask(request, deadline), first, last)

        answers = list(map_ordered(ask, parts, workers=_CONCURRENCY))
        return _joined(answers, start, end)

    def storage(self, project_id: str | None = None) -> CheckpointStorage:
        """Return what checkpoints occupy now.

        :param project_id: only those of this project.
        """
        params = {"project_id": project_id} if project_id else {}
        request = Request("GET", STORAGE, params=params, what="the storage of checkpoints")
        deadline = self._transport.deadline("the storage of checkpoints")
        data = self._ask(request, deadline)
        rows = tuple(StoredCheckpoints.from_json(row) for row in schema.items(data, "data"))
        return CheckpointStorage(storage_rate(data), rows)

    def _ask(self, request: Request, deadline: Deadline) -> schema.Json:
        try:
            return self._transport.call(request, deadline).object()
        except Forbidden as error:
            error.hint = "The key's user needs the permission to see the organization's billing."
            raise


def storage_rate(data: schema.Json) -> float | None:
    """Return the price of a gigabyte in a month that an answer of :data:`STORAGE` tells."""
    return schema.optional_number(data, "effective_rate_usd_per_gigabyte_month")


def aligned(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return the span of full UTC hours that holds everything from *start* to *end*.

    :raises UsageError: *end* is not after *start*.
    """
    start, end = _utc(start), _utc(end)
    if end <= start:
        raise UsageError("the span of time is empty: its end is not after its beginning")
    first = start.replace(minute=0, second=0, microsecond=0)
    last = end.replace(minute=0, second=0, microsecond=0)
    return first, last if last == end else last + _HOUR


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except (OverflowError, ValueError) as error:  # before year 1 or after 9999
        raise UsageError(f"a time that UTC does not have: {moment}") from error


def windows(start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return *start* to *end* in parts that the service answers for."""
    count = math.ceil((end - start) / WINDOW)
    edges = [start + n * WINDOW for n in range(count)] + [end]
    return list(itertools.pairwise(edges))


def _wire(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:00:00Z")


def _usage(data: schema.Json, start: datetime, end: datetime) -> Usage:
    events = tuple(UsageEvent.from_json(event) for event in schema.items(data, "data"))
    sessions = {
        session_id: schema.optional_mapping(schema.mapping(about, "sessions"), "user_metadata")
        for session_id, about in (schema.optional_mapping(data, "sessions") or {}).items()
    }
    return Usage(start, end, events, sessions, schema.optional_time(data, "cost_data_through"))


def _joined(parts: Iterable[Usage], start: datetime, end: datetime) -> Usage:
    events: list[UsageEvent] = []
    sessions: dict[str, Mapping[str, Any] | None] = {}
    through: datetime | None = None
    for part in parts:
        events += part.events
        sessions |= part.sessions
        known = (through, part.cost_data_through)
        through = max((t for t in known if t is not None), default=None)
    return Usage(start, end, tuple(events), sessions, through)
