"""Usage over any span of time, added up; storage; in the shapes of the official service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tinkex.api.resources.billing import (
    DIMENSIONS,
    StoredCheckpoints,
    Usage,
    UsageEvent,
    aligned,
    summarize,
)
from tinkex.exceptions import InvalidResponse, UsageError

EVENTS = "billing/usage/events"
STORAGE = "billing/usage/checkpoints/current"


def event(hour: str, kind: str = "training", cost: float | None = 1.0, **more):
    info = {"type": kind} | ({"token_count": 1000} if kind != "storage" else {})
    info |= more.pop("info", {})
    return {
        "bucket_start": f"{hour}:00:00Z",
        "bucket_end": f"{hour}:59:59Z",
        "base_model": "Qwen/Qwen3-8B",
        "user_id": "tml:organization_user:1",
        "user_name": "Ada",
        "session_id": "s-1",
        "project_id": "p-1",
        "estimated_cost_usd": cost,
        "effective_rate_usd_per_million_tokens": 0.5,
        "event_info": info,
        **more,
    }


def answer(*events, through=None, sessions=None):
    return {"data": list(events), "sessions": sessions or {}, "cost_data_through": through}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [("10:00", "12:00", (10, 12)), ("10:59", "12:01", (10, 13)), ("10:20", "10:40", (10, 11))],
)
def test_a_span_is_widened_to_full_hours(start, end, hours):
    day = "2026-11-01T"
    assert aligned(at(day + start), at(day + end)) == tuple(at(f"{day}{h}:00") for h in hours)
    with pytest.raises(UsageError, match="must be after its start"):
        aligned(at(day + end), at(day + start))


def test_a_long_span_is_requested_in_parts_and_joined(client, server):
    def reply(seen):
        first = seen.query["starting_on"][:13]
        through = "2026-01-15T00:00:00Z" if first < "2026-01-15" else None
        sessions = {f"s-{first}": {"user_metadata": {"run": first}}}
        return server.reply(answer(event(first), through=through, sessions=sessions))

    server.on("GET", EVENTS, reply)
    usage = client.billing.usage(at("2026-01-01T00:30"), at("2026-02-01T00:00"))

    asked = sorted(
        (seen.query["starting_on"], seen.query["ending_before"]) for seen in server.requests(EVENTS)
    )
    assert asked == [
        ("2026-01-01T00:00:00Z", "2026-01-15T00:00:00Z"),
        ("2026-01-15T00:00:00Z", "2026-01-29T00:00:00Z"),
        ("2026-01-29T00:00:00Z", "2026-02-01T00:00:00Z"),
    ]
    assert [e.bucket_start.day for e in usage.events] == [1, 15, 29]
    assert usage.cost_usd == 3.0
    assert usage.cost_data_through == at("2026-01-15T00:00")
    assert len(usage.sessions) == 3


def test_the_future_is_not_requested(client, server):
    now, hour = datetime.now(UTC), timedelta(hours=1)
    with pytest.raises(UsageError, match="future"):
        client.billing.usage(now + 24 * hour, now + 48 * hour)
    assert server.seen == []
    server.on("GET", EVENTS, {"data": []})
    usage = client.billing.usage(now - hour, datetime.max.replace(tzinfo=UTC))
    assert usage.end <= datetime.now(UTC) + hour
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "reply",
    [
        {"data": 3},
        {"data": [{"event_info": {"type": "training"}}]},
        {"data": [event("2026-01-01T00", info={"token_count": "x"})]},
        {"data": [event("2026-01-01T00", cost="dear")]},
        {"data": [event("2026-01-01T00", cost=float("1e300"))]},
        {"data": [], "sessions": {"s": 3}},
    ],
)
def test_unexpected_responses(client, server, reply):
    server.on("GET", EVENTS, reply)
    with pytest.raises(InvalidResponse):
        client.billing.usage(at("2026-01-01T00:00"), at("2026-01-02T00:00"))


@pytest.fixture
def usage() -> Usage:
    raw = [
        event("2026-01-02T00", cost=0.1, session_id="s-2", base_model="B"),
        event("2026-01-01T00", "sampling_prefill", cost=0.2, info={"cached": True}),
        event("2026-01-01T01", "sampling_prefill", cost=None),
        event("2026-01-01T02", "sampling_sample", cost=4.0, session_id=None),
        event("2026-01-01T03", "checkpoint", cost=None, info={"count": 2, "token_count": None}),
        event("2026-01-01T03", "storage", cost=None, info={"gigabyte_hours": 1.5, "free": True}),
        event("2026-01-01T04", "storage", cost=0.3, info={"gigabyte_hours": 0.5}),
    ]
    events = tuple(map(UsageEvent.from_json, raw))
    return Usage(at("2026-01-01T00:00"), at("2026-01-03T00:00"), events)


def test_by_day_is_in_order_with_every_quantity(usage):
    one, two = summarize(usage, "day")
    assert (one.key, two.key) == ("2026-01-01", "2026-01-02")
    assert (one.prefill_tokens, one.cached_tokens, one.sampled_tokens) == (2000, 1000, 1000)
    assert (one.checkpoints, one.gigabyte_hours, one.unpriced) == (2, 2.0, 1)
    assert (two.training_tokens, two.cost_usd) == (1000, 0.1)


@pytest.mark.parametrize("by", DIMENSIONS)
def test_a_summary_covers_all_events(usage, by):
    assert (usage.cost_usd, usage.unpriced) == (pytest.approx(4.6), 1)
    found = summarize(usage, by)
    assert sum(summary.cost_usd for summary in found) == pytest.approx(usage.cost_usd)
    assert sum(summary.unpriced for summary in found) == usage.unpriced
    if by != "day":
        assert [t.cost_usd for t in found] == sorted((t.cost_usd for t in found), reverse=True)


def test_a_summary_by_run_uses_the_sessions(usage):
    found = summarize(usage, "run", {"s-1": ["s-1:train:0", "s-1:train:1"], "s-2": []})
    assert {summary.key for summary in found} == {None, "s-1:train:0, s-1:train:1", "session s-2"}
    with pytest.raises(UsageError, match="colour"):
        summarize(usage, "colour")


def test_storage(client, server):
    row = {"project_id": "p-1", "size_bytes": 2 * 10**9, "estimated_monthly_cost_usd": 0.62}
    server.on("GET", STORAGE, {"effective_rate_usd_per_gigabyte_month": 0.31, "data": [row, {}]})
    storage = client.billing.storage("p-1")
    assert server.seen[0].query == {"project_id": "p-1"}
    assert (storage.rate, len(storage.rows)) == (0.31, 2)
    assert storage.rows == (StoredCheckpoints(**row), StoredCheckpoints())


@pytest.mark.parametrize(
    ("reply", "rate"),
    [
        *(({"effective_rate_usd_per_gigabyte_month": rate}, rate) for rate in (0.31, 0, None)),
        *(({"effective_rate_usd_per_gigabyte_month": rate}, None) for rate in ("much", True, -1)),
        *((reply, None) for reply in ({}, "text", ("x", 404), ("no role", 403), ("oops", 500))),
    ],
)
def test_the_price_of_storage_is_known_or_not(server, client, reply, rate):
    server.on("GET", STORAGE, server.reply(*(reply if isinstance(reply, tuple) else (reply,))))
    assert client.billing.storage_rate() == rate
    assert len(server.seen) == 1
