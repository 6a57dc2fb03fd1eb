"""One file of a checkpoint: fetched, gone on with, and in several ranges where that is faster."""

from __future__ import annotations

import os
import time
from collections import deque
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from tinkex.api.http.concurrency import together
from tinkex.api.transfer.body import BLOCK
from tinkex.api.transfer.digests import Blocks, Digest, Sum, Trailing, Unsummed
from tinkex.api.transfer.manifest import LockedFile
from tinkex.api.transfer.progress import Counter
from tinkex.api.transfer.staging import StagingDirectory
from tinkex.api.transfer.storage import WHOLE, Span, Storage
from tinkex.api.transfer.streams import Address, Changed, Stream
from tinkex.exceptions import APIError, ConnectionFailed

#: Connections for one file, once a single one is known to be held back.
RANGES = 8
#: What a single connection must have brought, and in what time, before it is judged.
_PROBE_BYTES, _PROBE_SECONDS = 8 * 1024 * 1024, 0.1
#: The share of the time that its thread works, below which something else holds it back.
_BUSY = 0.5
#: Bytes a second of one connection that leave nothing to be desired: on a machine as busy as that
#: its thread's waiting tells nothing.
_FAST = 256 * 1024 * 1024
#: Bytes and seconds that must be left for more connections to be worth their set-up.
_MIN_REST, _MIN_SECONDS = 32 * 1024 * 1024, 1.0
#: Bytes of a file below which it comes over one connection, whatever that one is like.
LARGE = _PROBE_BYTES + _MIN_REST
#: Bytes of the parts that connections take, one after the other, so that the sum of the file can
#: follow them closely; and how many parts there may be.
_PART, _MOST_PARTS = 32 * 1024 * 1024, 1000
_NOT_MODIFIED = 304

#: A range of the file: where it begins, the next byte that is wanted, and where it ends.
Segment = list[int]


class Piece:
    """A file under way.

    :param storage: where it comes from.
    :param staging: where it goes.
    :param address: its signed address.
    :param relative: its name in the checkpoint.
    :param span: where it is, if what is at the address holds more than this file.
    """

    def __init__(
        self,
        storage: Storage,
        staging: StagingDirectory,
        address: Address,
        relative: Path,
        meter: Counter,
        span: Span = WHOLE,
    ) -> None:
        self._storage, self._staging = storage, staging
        self._address, self._span = address, span
        self._relative, self._name, self._meter = relative, relative.as_posix(), meter
        self._total = span.total

    def fetch(self) -> LockedFile:
        """Fetch what is missing and return what is known about the whole.

        :raises tinkex.exceptions.TinkexError: it cannot be had.
        :raises OSError: it cannot be written.
        """
        known = self._staging.state.get("files", {}).get(self._name)
        try:
            if known is None:
                return self._fetch_anew()
            if known["sha256"] is not None:
                return self._confirm(known)
            return self._go_on(known)
        except Changed:
            return self._fetch_anew(many=False)

    # Ways to begin ------------------------------------------------------------------------

    def _fetch_anew(self, *, many: bool = True) -> LockedFile:
        with Stream(self._storage, self._address, self._span) as stream:
            return self._fetch_from(stream, many)

    def _fetch_from(self, stream: Stream, many: bool) -> LockedFile:
        size, validator = stream.body.total, stream.body.validator
        self._total = size
        if self._span.end is not None:
            size = self._span.end - self._span.start
        self._meter.begin(self._name, size)
        segment = [0, 0, -1 if size is None else size]
        with self._staging.changing(at_once=True) as state:
            # Connections of an attempt that failed may bring more for a while: not into this file.
            self._staging.parts.remove(self._relative)
            self._staging.parts.open(self._relative, "xb", make=True).close()
            files = state.setdefault("files", {})
            files.pop(self._name, None)
            if size is not None and validator is not None:
                known = {"size": size, "validator": validator}
                files[self._name] = {**known, "sha256": None, "segments": [segment]}
        with Digest(size) as found, self._open_part() as file:
            if not self._receive(stream, segment, file.fileno(), found, many=many):
                return self._complete(segment[1], found.hexdigest())
            segments, at = self._split(segment), segment[1]
            sha256 = self._fetch_segments(segments, validator, stream, found.ended(), at)
        return self._complete(segments[-1][2], sha256)

    def _go_on(self, known: dict[str, Any]) -> LockedFile:
        size, segments = known["size"], known["segments"]
        if self._span is WHOLE:
            self._total = size
        part = self._staging.parts.stat(self._relative)
        if part is None:
            raise Changed
        on_disk = part.st_size
        if len(segments) == 1:
            segments[0][1] = min(on_disk, size)  # more than was noted may have been written
        elif on_disk < max((at for start, at, _ in segments if at > start), default=0):
            raise Changed
        have = sum(at - start for start, at, _ in segments)
        if not have:
            raise Changed
        self._meter.begin(self._name, size, have)
        return self._complete(size, self._fetch_segments(segments, known["validator"]))

    def _confirm(self, known: dict[str, Any]) -> LockedFile:
        """Return what is known about a file that is here, if it is still the same there."""
        parts, content = self._staging.parts, self._staging.content
        if parts.stat(self._relative) is not None:  # a killed process did not come to that
            parts.replace(self._relative, content, self._relative)
        ready = content.stat(self._relative)
        if ready is None or ready.st_size != known["size"]:
            raise Changed
        try:
            with Stream(self._storage, self._address, Span(unless=known["validator"])) as stream:
                if stream.body.validator != known["validator"]:
                    if self._span is not WHOLE:
                        raise Changed
                    return self._fetch_from(stream, many=True)
        except APIError as error:
            if error.status != _NOT_MODIFIED:
                raise
        self._meter.begin(self._name, known["size"], known["size"])
        return LockedFile(known["size"], known["sha256"])

    def _open_part(self) -> FileIO:
        return self._staging.parts.open(self._relative, "r+b")

    # The bytes ----------------------------------------------------------------------------

    def _receive(
        self,
        stream: Stream,
        segment: Segment,
        file: int,
        blocks: Blocks,
        *,
        many: bool = False,
    ) -> bool:
        """Write what *stream* brings for *segment*; stop where other connections should help.

        :returns: whether they should.
        """
        probe = _Probe() if many else None
        while segment[2] < 0 or segment[1] < segment[2]:
            block = blocks.take(stream, segment[2] - segment[1] if segment[2] >= 0 else BLOCK)
            self._meter.check()
            if not block:
                break
            _write_all(file, block, segment[1])
            with self._staging.changing():
                segment[1] += len(block)
            self._meter.add(self._name, len(block))
            if probe is not None and probe.is_over(stream):
                if probe.is_held_back(stream, segment):
                    return True
                probe = None
        if segment[1] < segment[2]:
            raise ConnectionFailed(f"the file {self._name} ended after {segment[1]} bytes")
        return False

    def _split(self, segment: Segment) -> list[Segment]:
        """Cut the rest of *segment* into parts; the first is what is left of itself."""
        start, end = segment[1], segment[2]
        count = max(RANGES, min((end - start) // _PART, _MOST_PARTS))
        edges = [start + (end - start) * n // count for n in range(count + 1)]
        with self._staging.changing(at_once=True) as state:
            segment[2] = edges[1]
            segments = [segment, *([at, at, to] for at, to in pairwise(edges[1:]))]
            state["files"][self._name]["segments"] = segments
        return segments

    def _fetch_segments(
        self,
        segments: list[Segment],
        validator: str | None,
        first: Stream | None = None,
        begun: Sum | None = None,
        position: int = 0,
    ) -> str:
        """Fetch what is missing; return the SHA-256 of all.

        :param first: brings the first segment.
        :param begun: the sum of what stands before *position*.
        """

        def reached() -> int:
            return next((at for _, at, end in segments if at < end), segments[-1][2])

        with Trailing(self._open_part, reached, begun, position) as trailing:
            if len(segments) == 1:
                self._fetch_alone(segments, validator)
            else:
                self._share(segments, validator, first)
            return trailing.hexdigest()

    def _fetch_alone(self, segments: list[Segment], validator: str | None) -> None:
        """Fetch the only one of *segments*; where others should help, there are more then."""
        (segment,) = segments
        if segment[1] == segment[2]:
            return
        with (
            self._open(segment, validator) as stream,
            self._open_part() as file,
        ):
            if self._receive(stream, segment, file.fileno(), Unsummed(), many=True):
                segments[:] = self._split(segment)
                self._share(segments, validator, stream)

    def _share(self, segments: list[Segment], validator: str | None, first: Stream | None) -> None:
        """Fetch *segments* over several connections, of which *first* is one."""
        waiting = deque(segment for segment in segments if segment[1] < segment[2])

        def work(_: int) -> None:
            blocks = Unsummed()
            # A descriptor for each, as each may end at another time.
            with self._open_part() as file:
                while waiting:
                    try:
                        segment = waiting.popleft()
                    except IndexError:
                        return  # another thread took the last
                    if first is not None and segment is segments[0]:
                        self._receive(first, segment, file.fileno(), blocks)
                        first.close()  # it was asked for more, and would go on to send that
                        continue
                    with self._open(segment, validator) as stream:
                        self._receive(stream, segment, file.fileno(), blocks)

        try:
            together(work, range(min(RANGES, len(waiting))))
        except BaseException:
            waiting.clear()  # whoever is still at work, or has not begun, takes no more
            raise

    def _open(self, segment: Segment, validator: str | None) -> Stream:
        """Ask for what is missing of *segment*."""
        start = self._span.start
        span = Span(start + segment[1], start + segment[2], validator, self._total)
        return Stream(self._storage, self._address, span)

    # The end ------------------------------------------------------------------------------

    def _complete(self, size: int, sha256: str) -> LockedFile:
        with self._staging.changing(at_once=True) as state:
            entry = state["files"].get(self._name)
            if entry is not None:
                entry |= {"sha256": sha256, "segments": [[0, size, size]]}
        with self._staging.changing():
            self._staging.parts.replace(self._relative, self._staging.content, self._relative)
        return LockedFile(size, sha256)


class _Probe:
    """Finds out whether a connection is held back by something else than this machine."""

    def __init__(self) -> None:
        self._began, self._cpu = time.monotonic(), time.thread_time()

    def is_over(self, stream: Stream) -> bool:
        """Tell whether enough has been seen."""
        return stream.received >= _PROBE_BYTES and time.monotonic() - self._began >= _PROBE_SECONDS

    def is_held_back(self, stream: Stream, segment: Segment) -> bool:
        """Tell whether more connections promise more."""
        seconds = time.monotonic() - self._began
        busy = (time.thread_time() - self._cpu) / seconds
        rest = segment[2] - segment[1]
        known = stream.body.ranged and stream.body.validator is not None
        rate = stream.received / seconds
        slow = rate < _FAST and rest >= _MIN_REST and rest / rate > _MIN_SECONDS
        return known and busy < _BUSY and slow


def _write_all(file: int, block: memoryview, at: int) -> None:
    """Write *block* at the position *at* of *file*."""
    while block:
        count = os.pwrite(file, block, at)
        block, at = block[count:], at + count
