"""Usage in the form of the billing endpoints, without costs.

Tokens are counted from stored requests, checkpoints from existing ones.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any

from tinkex_local.problems import Problem, bad_request
from tinkex_local.state.service import OWNER, Service
from tinkex_local.state.store import from_json, iso

_HOUR = 3600
#: Maximum length of a time window in seconds.
_WINDOW = 14 * 86400
_FREE: dict[str, Any] = {
    "estimated_cost_usd": 0.0,
    "effective_rate_usd_per_million_tokens": 0.0,
    "effective_rate_usd_per_gigabyte_month": None,
}

_SAMPLES = """
SELECT cast(operations.created / 3600 AS INTEGER) * 3600 AS hour, samplers.session_id AS session,
    json_extract(payload, '$.base_model') AS model,
    sum(json_array_length(payload, '$.spec.tokens')) AS prefill,
    sum((SELECT sum(json_array_length(value, '$.tokens'))
         FROM json_each(result, '$.sequences'))) AS sampled
FROM operations LEFT JOIN samplers ON operations.scope = 'sampler ' || samplers.id
WHERE kind = 'sample' AND state = 'done' AND operations.created >= ? AND operations.created < ?
GROUP BY hour, session, model ORDER BY hour, sampled DESC
"""
_TRAINING = """
SELECT cast(operations.created / 3600 AS INTEGER) * 3600 AS hour, runs.session_id AS session,
    runs.base_model AS model, sum(json_extract(payload, '$.tokens')) AS tokens
FROM operations JOIN runs ON operations.scope = 'run ' || runs.id
WHERE kind IN ('forward', 'forward_backward') AND state = 'done'
    AND operations.created >= ? AND operations.created < ?
GROUP BY hour, session, model ORDER BY hour
"""
_CHECKPOINTS = """
SELECT cast(checkpoints.created / 3600 AS INTEGER) * 3600 AS hour, runs.session_id AS session,
    runs.base_model AS model, count(*) AS count
FROM checkpoints JOIN runs ON runs.id = checkpoints.run_id
WHERE checkpoints.created >= ? AND checkpoints.created < ? AND listed
GROUP BY hour, session, model ORDER BY hour
"""


def events(service: Service, query: dict[str, str]) -> dict[str, Any]:
    """Return the hourly usage in a time window.

    :raises Problem: the window is missing, not on full hours, too long or in the future.
    """
    start, end = _moment(query, "starting_on"), _moment(query, "ending_before")
    if start % _HOUR or end % _HOUR:
        raise bad_request("starting_on and ending_before must be on UTC hour boundaries")
    if not start < end <= start + _WINDOW:
        raise bad_request("ending_before must be after starting_on and at most 14 days later")
    if start > service.clock():
        raise bad_request("starting_on must not be in the future")
    data = []
    for row in service.store.rows(_SAMPLES, start, end):
        prefill = {"type": "sampling_prefill", "cached": False, "token_count": row["prefill"] or 0}
        sampled = {"type": "sampling_sample", "token_count": row["sampled"] or 0}
        data += [_event(row, prefill), _event(row, sampled)]
    for row in service.store.rows(_TRAINING, start, end):
        data.append(_event(row, {"type": "training", "token_count": row["tokens"]}))
    for row in service.store.rows(_CHECKPOINTS, start, end):
        data.append(_event(row, {"type": "checkpoint", "count": row["count"]}))
    data.sort(key=lambda event: str(event["bucket_start"]))
    names = sorted({event["session_id"] for event in data if event["session_id"]})
    query_metadata = "SELECT user_metadata FROM sessions WHERE id = ?"
    return {
        "data": data,
        "sessions": {
            name: {"user_metadata": from_json(service.store.scalar(query_metadata, name))}
            for name in names
        },
        "cost_data_through": None,
    }


def storage(service: Service, project_id: str | None = None) -> dict[str, Any]:
    """Return the current storage of checkpoints.

    :param project_id: only those of this project.
    """
    row = service.store.row(
        "SELECT count(*) AS count, coalesce(sum(size), 0) AS size FROM checkpoints "
        "WHERE listed AND (expires IS NULL OR expires > ?)",
        service.clock(),
    )
    assert row is not None, "an aggregate query returns a row"
    entry = {
        "project_id": OWNER,
        "org_user_urn": OWNER,
        "user_email": None,
        "user_name": OWNER,
        "checkpoint_count": row["count"],
        "size_bytes": row["size"],
        "size_gigabytes": row["size"] / 1e9,
        "estimated_monthly_cost_usd": 0.0,
    }
    return {
        "effective_rate_usd_per_gigabyte_month": 0.0,
        "data": [entry] if row["count"] and project_id in (None, OWNER) else [],
    }


def _event(row: sqlite3.Row, info: dict[str, Any]) -> dict[str, Any]:
    rates = _FREE if info["type"] != "checkpoint" else dict.fromkeys(_FREE)
    return {
        "bucket_start": iso(row["hour"]),
        "bucket_end": iso(row["hour"] + _HOUR),
        "base_model": row["model"],
        "user_id": OWNER,
        "user_name": OWNER,
        "session_id": row["session"],
        "project_id": OWNER,
        **rates,
        "event_info": info,
    }


def _moment(query: dict[str, str], name: str) -> float:
    try:
        moment = datetime.fromisoformat(query.get(name, ""))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        message = "must be an ISO 8601 date and time"
        finding = {"type": "datetime_parsing", "loc": ["query", name], "msg": message}
        raise Problem(422, [finding]) from None
