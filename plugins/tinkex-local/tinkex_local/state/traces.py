"""Traces: a timeline of the requests to a session's runs and samplers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tinkex_local.state import runs, sampling, sessions
from tinkex_local.state.service import Service
from tinkex_local.wire.protobuf import bytes_field, varint_field

#: Lifetime in seconds of the URL of a trace.
LIFETIME = 3600


def trace(service: Service, session_id: str) -> bytes:
    """Return the timeline of a session as a Perfetto trace.

    Operations are kept for a week (:data:`tinkex_local.state.operations.KEEP`); after that, the
    trace contains only the session.

    :raises Problem: the session does not exist.
    """
    session = service.find("session", session_id)
    members = sessions.info(service, session_id)
    tracks = [("Session", [_life(session)])]
    scopes = [("Runs", runs.models_of(session_id))]
    scopes += [(f"Run {run}", runs.scope_of(run)) for run in members["training_run_ids"]]
    scopes += [(f"Sampler {name}", sampling.scope_of(name)) for name in members["sampler_ids"]]
    for title, scope in scopes:
        if slices := list(_slices(service, scope)):
            tracks.append((title, slices))
    return encoded(f"Session {session['display_name'] or session_id}", tracks)


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
    """Return a short description of the result."""
    result = json.loads(row["result"])
    notes: dict[str, str | int] = {}
    for name in ("error", "path", "model_id", "size_bytes"):
        if result.get(name) is not None:
            notes[name] = result[name]
    if row["payload"] is not None:
        payload = json.loads(row["payload"])
        if "spec" in payload:
            notes["prompt_tokens"] = len(payload["spec"]["tokens"])
        if "tokens" in payload:
            notes["tokens"] = payload["tokens"]
    if "sequences" in result:
        notes["sequences"] = len(result["sequences"])
        notes["sampled_tokens"] = sum(len(part["tokens"]) for part in result["sequences"])
    return notes


#: The id of the only writer of packets.
_SEQUENCE = 1
_BEGIN, _END = 1, 2
#: Built-in clocks: the clock of the trace, and the time of day.
_BOOTTIME, _REALTIME = 6, 1


@dataclass(frozen=True)
class Slice:
    """A named interval in a timeline.

    :ivar name: the name shown.
    :ivar begin: seconds since the epoch.
    :ivar end: seconds since the epoch, not before *begin*.
    :ivar notes: additional values, shown with the slice; numbers are not negative.
    """

    name: str
    begin: float
    end: float
    notes: Mapping[str, str | int] = field(default_factory=dict)


#: A track: its title, and slices in any order.
Track = tuple[str, list[Slice]]


def encoded(title: str, tracks: list[Track]) -> bytes:
    """Encode a trace with *tracks* below a parent track *title*."""
    start = min(part.begin for _, slices in tracks for part in slices)
    packets = [_clocks(start), _descriptor(1, title, None)]
    for line, (name, slices) in enumerate(_lines(tracks), 2):
        packets.append(_descriptor(line, name, 1))
        for part in slices:
            packets += [_event(_BEGIN, line, part), _event(_END, line, part)]
    return b"".join(bytes_field(1, packet) for packet in packets)


def _lines(tracks: list[Track]) -> Iterator[Track]:
    """Yield the tracks, with overlapping slices on separate tracks.

    Slices of one track must be nested or disjoint. Perfetto draws tracks of the same
    name and parent as one.
    """
    for name, slices in tracks:
        lines: list[list[Slice]] = []
        for part in sorted(slices, key=lambda part: (part.begin, part.end)):
            free = (line for line in lines if line[-1].end <= part.begin)
            line = next(free, None)
            if line is None:
                lines.append([part])
            else:
                line.append(part)
        yield from ((name, line) for line in lines)


def _clocks(start: float) -> bytes:
    # A snapshot of both clocks, so that the time of day can be shown.
    now = varint_field(2, _nanoseconds(start))
    clocks = (bytes_field(1, varint_field(1, clock) + now) for clock in (_BOOTTIME, _REALTIME))
    first = varint_field(13, 1)  # sequence_flags: earlier packets do not matter
    return bytes_field(6, b"".join(clocks)) + varint_field(10, _SEQUENCE) + first


def _descriptor(track: int, name: str, parent: int | None) -> bytes:
    content = varint_field(1, track) + bytes_field(2, name.encode("utf-8", "replace"))
    if parent is not None:
        content += varint_field(5, parent)
    return bytes_field(60, content) + varint_field(10, _SEQUENCE)


def _event(kind: int, track: int, part: Slice) -> bytes:
    moment = part.begin if kind == _BEGIN else part.end
    content = varint_field(9, kind) + varint_field(11, track)
    if kind == _BEGIN:
        content += bytes_field(23, part.name.encode("utf-8", "replace"))
        for name, value in part.notes.items():
            content += bytes_field(4, bytes_field(10, name.encode()) + _noted(value))
    return (
        varint_field(8, _nanoseconds(moment))
        + bytes_field(11, content)
        + varint_field(10, _SEQUENCE)
    )


def _noted(value: str | int) -> bytes:
    if isinstance(value, int):
        return varint_field(4, value)
    return bytes_field(6, value.encode("utf-8", "replace"))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
