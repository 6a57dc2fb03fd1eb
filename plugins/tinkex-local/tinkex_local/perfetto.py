"""Writes timelines in the trace format of Perfetto, which https://ui.perfetto.dev shows.

A trace is a protobuf message of packets: descriptors of tracks, and events that begin and end
slices on them. Field numbers are those of ``perfetto/trace/trace.proto`` and what it imports;
they never change, because old traces stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tinkex_local.protobuf import bytes_field, varint_field

#: All packets come from this one writer.
_SEQUENCE = 1
_BEGIN, _END = 1, 2
#: Of the built-in clocks: the one that traces count in, and the time of day.
_BOOTTIME, _REALTIME = 6, 1
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class Slice:
    """Something that took time.

    :ivar name: what it was.
    :ivar begin: seconds since the epoch.
    :ivar end: seconds since the epoch, not before *begin*.
    :ivar notes: what else there is to say of it.
    """

    name: str
    begin: float
    end: float
    notes: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Track:
    """One line of the picture.

    :ivar name: its title.
    :ivar slices: in any order; those that overlap are drawn below each other.
    """

    name: str
    slices: tuple[Slice, ...]


def trace(title: str, tracks: Iterable[Track]) -> bytes:
    """Return the trace with *tracks* below a common one called *title*."""
    tracks = tuple(tracks)
    start = min((part.begin for track in tracks for part in track.slices), default=0.0)
    packets = [_clocks(start), _descriptor(1, title, None)]
    for line, (name, slices) in enumerate(_lines(tracks), 2):
        packets.append(_descriptor(line, name, 1))
        for part in slices:
            packets += [_event(_BEGIN, line, part), _event(_END, line, part)]
    return b"".join(bytes_field(1, packet) for packet in packets)


def _lines(tracks: Iterable[Track]) -> Iterator[tuple[str, list[Slice]]]:
    """Yield the tracks with those that overlap taken apart.

    Slices of one track must lie inside or beside each other. Perfetto draws tracks of the same
    name and parent as one.
    """
    for track in tracks:
        lines: list[list[Slice]] = []
        for part in sorted(track.slices, key=lambda part: (part.begin, part.end)):
            free = (line for line in lines if line[-1].end <= part.begin)
            line = next(free, None)
            if line is None:
                lines.append([part])
            else:
                line.append(part)
        for line in lines or [[]]:
            yield track.name, line


def _clocks(start: float) -> bytes:
    # One reading of both clocks lets the time of day be shown.
    now = varint_field(2, _nanoseconds(start))
    clocks = (bytes_field(1, varint_field(1, clock) + now) for clock in (_BOOTTIME, _REALTIME))
    first = varint_field(13, 1)  # sequence_flags: nothing before it matters
    return bytes_field(6, b"".join(clocks)) + varint_field(10, _SEQUENCE) + first


def _descriptor(track: int, name: str, parent: int | None) -> bytes:
    content = varint_field(1, track) + bytes_field(2, name.encode("utf-8", "replace"))
    if parent is not None:
        content += varint_field(5, parent)
    return bytes_field(60, content) + varint_field(10, _SEQUENCE)


def _event(kind: int, track: int, part: Slice) -> bytes:
    moment = part.begin if kind == _BEGIN else max(part.begin, part.end)
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
    if isinstance(value, int) and 0 <= value <= _INT64_MAX:
        return varint_field(4, value)
    return bytes_field(6, str(value).encode("utf-8", "replace"))


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
