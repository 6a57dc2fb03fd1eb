"""The timeline of a session: what its runs and samplers were asked for, and how long it took."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from tinkex_local import perfetto, runs, sampling, sessions
from tinkex_local.perfetto import Slice, Track
from tinkex_local.service import Service

#: Seconds that the address of a trace works.
LIFETIME = 3600


def trace(service: Service, session_id: str) -> bytes:
    """Return the timeline of a session as a Perfetto trace.

    Operations are kept for a week (:data:`tinkex_local.operations.KEEP`); after that only the
    session itself is left of it.

    :raises Problem: there is no such session.
    """
    session = sessions.find(service, session_id)
    members = sessions.info(service, session_id)
    tracks = [Track("Session", (_life(session),))]
    scopes = [("Runs", runs.models_of(session_id))]
    scopes += [(f"Run {run}", runs.scope_of(run)) for run in members["training_run_ids"]]
    scopes += [(f"Sampler {name}", sampling.scope_of(name)) for name in members["sampler_ids"]]
    for title, scope in scopes:
        slices = tuple(_slices(service, scope))
        if slices:
            tracks.append(Track(title, slices))
    return perfetto.trace(f"Session {session['display_name'] or session_id}", tracks)


def _life(session: sqlite3.Row) -> Slice:
    finished = session["finished"]
    notes = {"session_id": session["id"], "reason": session["reason"] or "not finished"}
    end = session["heartbeat"] if finished is None else finished
    return Slice("session", session["created"], max(end, session["created"]), notes)


def _slices(service: Service, scope: str) -> Iterator[Slice]:
    rows = service.store.rows(
        "SELECT * FROM operations WHERE scope = ? AND finished IS NOT NULL ORDER BY created", scope
    )
    for row in rows:
        notes: dict[str, str | int] = {"request_id": row["request_id"], "state": row["state"]}
        began = row["created"] if row["began"] is None else row["began"]
        waited = round((began - row["created"]) * 1000)
        if waited > 0:
            notes["waited_ms"] = waited
        notes |= _outcome(row)
        yield Slice(row["kind"], row["created"], max(row["finished"], row["created"]), notes)


def _outcome(row: sqlite3.Row) -> dict[str, str | int]:
    """Return what the result says in a few words."""
    result = json.loads(row["result"])
    notes: dict[str, str | int] = {}
    for name in ("error", "path", "model_id", "size_bytes"):
        if result.get(name) is not None:
            notes[name] = result[name]
    if row["payload"] is not None:
        spec = json.loads(row["payload"])["spec"]
        notes["prompt_tokens"] = len(spec["tokens"])
    if "sequences" in result:
        notes["sequences"] = len(result["sequences"])
        notes["sampled_tokens"] = sum(len(part["tokens"]) for part in result["sequences"])
    return notes
