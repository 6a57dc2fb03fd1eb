"""The download of one file: resumable, in ranges if one connection is slow, readable early."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from io import FileIO
from itertools import pairwise
from typing import TYPE_CHECKING

from tinkex.api.http.concurrency import map_ordered
from tinkex.api.transfer.progress import ProgressTracker
from tinkex.api.transfer.staging import StagingDirectory
from tinkex.api.transfer.state import PartialFile, Segment
from tinkex.api.transfer.streams import Changed, RenewableURL, ResumingReader, Span
from tinkex.exceptions import ConnectionFailed

if TYPE_CHECKING:
    from tinkex.api.http.transport import Transport

#: Number of connections for one file after a single one has proved slow.
RANGES = 8
#: Bytes and seconds after which the rate of a single connection is evaluated.
_PROBE_BYTES, _PROBE_SECONDS = 8 * 1024 * 1024, 0.1
#: Minimum share of busy time of the receiving thread at which this machine is the limit.
_BUSY = 0.5
#: Bytes per second of one connection that are always sufficient.
_FAST = 256 * 1024 * 1024
#: Minimum remaining bytes and seconds of a file for which more connections are opened.
_MIN_REST, _MIN_SECONDS = 32 * 1024 * 1024, 1.0
#: Size in bytes of the ranges that connections fetch in turn, and their maximum number.
_PART, _MAX_PARTS = 32 * 1024 * 1024, 1000
#: Number of bytes read at a time for hashing.
_BLOCK = 1024 * 1024
#: Minimum size in bytes of a file whose start is written to the state at once.
_WORTH = 1024 * 1024


class Restarted(Exception):
    """The download has started over, so the data already read may belong to another version."""


class Failed(Exception):
    """The download has failed, so the rest of the file will not arrive."""


class Written:
    """The number of bytes at the start of a file that are on disk; thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._size = self._version = 0
        self._ended = self._failed = False

    @property
    def version(self) -> int:
        """The number of times that the download has started over."""
        return self._version

    def grow(self, size: int) -> None:
        """Record that the first *size* bytes are on disk."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def restart(self) -> None:
        """Record that the download starts over with an empty file."""
        with self._changed:
            self._size = 0
            self._version += 1
            self._changed.notify_all()

    def end(self) -> None:
        """Record that the file is complete."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self) -> None:
        """Record that the download has failed, unless the file is complete."""
        with self._changed:
            self._failed = self._failed or not self._ended
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, size: int, version: int) -> None:
        """Wait until the first *size* bytes are on disk, or the file is complete.

        :raises Restarted: *version* has been replaced.
        :raises Failed: the download has failed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or self._size >= size or self._version != version
            )
            if self._version != version:
                raise Restarted
            if self._failed:
                raise Failed


class FileDownload:
    """The download of one file into a staging directory.

    :param name: its path in the staging directory.
    :param label: its name in progress reports.
    :param on_size: called with the size of the file and the bytes received so far.
    :param written: updated with the number of bytes at the start of the file that are on disk; if
        given, :meth:`fetch` does not compute the SHA-256.
    """

    def __init__(
        self,
        transport: Transport,
        staging: StagingDirectory,
        url: RenewableURL,
        name: str,
        tracker: ProgressTracker,
        *,
        label: str,
        on_size: Callable[[int, int], None] = lambda size, received: None,
        written: Written | None = None,
    ) -> None:
        self._transport, self._staging, self._url = transport, staging, url
        self._name, self._label = name, label
        self._tracker, self._on_size = tracker, on_size
        self._written = written
        self._sha256, self._hashed = hashlib.sha256(), 0

    def fetch(self) -> str:
        """Fetch the missing bytes, and return the SHA-256 of the file in hexadecimal.

        Bytes are hashed while they arrive, so that little is left at the end.

        :raises tinkex.exceptions.TinkexError: it is not available.
        :raises OSError: it cannot be written.
        """
        known = self._staging.files.get(self._name)
        try:
            if known is not None and self._on_disk(known):
                self._resume(known)
            else:
                self._start()
        except Changed:
            # If parts do not match, the file is fetched as a whole.
            self._start(may_split=False)
        self._hash()
        return self._sha256.hexdigest()

    def _on_disk(self, known: PartialFile) -> int:
        """Return how many bytes of the file an earlier attempt left on the disk."""
        status, segments = self._staging.root.stat(self._name), known.segments
        if status is None or status.st_size > known.size:
            return 0
        if len(segments) == 1:  # more may have been written than was recorded
            segments[0].position = status.st_size
        elif status.st_size < max(
            (s.position for s in segments if s.position > s.start), default=0
        ):
            return 0
        return known.received

    def _start(self, *, may_split: bool = True) -> None:
        with ResumingReader(self._transport, self._url) as reader:
            size, tag = reader.body.total, reader.body.tag
            segment = Segment(0, 0, -1 if size is None else size)
            root, files = self._staging.root, self._staging.files
            # The state of a new small file need not be kept.
            at_once = self._name in files or (size or 0) >= _WORTH
            with self._staging.changing(self._name, at_once=at_once):
                # Connections of a failed attempt may still write to the old file.
                root.remove(self._name)
                if self._written is not None:
                    self._written.restart()
                root.open(self._name, "xb", make=True).close()
                files.pop(self._name, None)
                self._sha256, self._hashed = hashlib.sha256(), 0
                if size is not None and tag is not None:
                    files[self._name] = PartialFile(size, tag, [segment])
            self._announce(size, 0)
            with self._open_file() as file:
                if self._receive(reader, segment, file, may_split=may_split):
                    self._split(files[self._name], reader)

    def _resume(self, known: PartialFile) -> None:
        self._announce(known.size, known.received)
        if known.received == known.size:  # the last byte is requested to check the version
            with self._open_range(Segment(0, known.size - 1, known.size), known) as reader:
                reader.read()
        elif len(known.segments) > 1:
            self._fetch_segments(known, None)
        else:
            with self._open_range(known.segments[0], known) as reader, self._open_file() as file:
                if self._receive(reader, known.segments[0], file, may_split=True):
                    self._split(known, reader)

    def _announce(self, size: int | None, received: int) -> None:
        if size is not None:
            self._on_size(size, received)
        self._tracker.start(self._label, size, received)

    # Bytes ----------------------------------------------------------------------------------

    def _receive(
        self, reader: ResumingReader, segment: Segment, file: FileIO, *, may_split: bool = False
    ) -> bool:
        """Write the bytes of *segment*.

        :returns: whether it stopped so that more connections can be opened.
        """
        probe = _Probe() if may_split else None
        while segment.end < 0 or segment.position < segment.end:
            block = reader.read()
            self._tracker.check()
            if not block:
                break
            if segment.end >= 0:  # a storage may send more than was requested
                block = block[: segment.end - segment.position]
            _write_all(file.fileno(), block, segment.position)
            if may_split and self._written is None and self._hashed == segment.position:
                self._sha256.update(block)
                self._hashed += len(block)
            with self._staging.changing(self._name):
                segment.position += len(block)
            self._tracker.add(self._label, len(block))
            if may_split and self._written is not None:
                self._written.grow(segment.position)
            if probe is not None and probe.is_over(reader):
                if probe.is_held_back(reader, segment):
                    return True
                probe = None
        if segment.position < segment.end:
            raise ConnectionFailed(f"the file {self._label} ended after {segment.position} bytes")
        return False

    def _split(self, known: PartialFile, first: ResumingReader) -> None:
        """Fetch the rest of the only segment in ranges; *first* continues with the first range."""
        (segment,) = known.segments
        start, end = segment.position, segment.end
        count = max(RANGES, min((end - start) // _PART, _MAX_PARTS))
        edges = [start + (end - start) * n // count for n in range(count + 1)]
        with self._staging.changing(self._name, at_once=True):
            segment.end = edges[1]
            known.segments += [Segment(at, at, to) for at, to in pairwise(edges[1:])]
        self._fetch_segments(known, first)

    def _fetch_segments(self, known: PartialFile, first: ResumingReader | None) -> None:
        def fetch(segment: Segment) -> None:
            # Each range has its own descriptor, because they end at different times.
            with self._open_file() as file:
                if first is not None and segment is known.segments[0]:
                    self._receive(first, segment, file)
                    first.close()  # it would continue with bytes that others fetch
                    return
                with self._open_range(segment, known) as reader:
                    self._receive(reader, segment, file)

        missing = [segment for segment in known.segments if segment.position < segment.end]
        fetched = map_ordered(fetch, missing, workers=RANGES)
        for segment, _ in zip(missing, fetched, strict=True):
            self._hash(segment.end)

    def _hash(self, end: int | None = None) -> None:
        """Hash the bytes up to *end*, by default all."""
        if self._written is not None:
            if end is not None:
                self._written.grow(end)
            return
        with self._staging.root.open(self._name, "rb") as file:
            file.seek(self._hashed)
            while end is None or self._hashed < end:
                self._tracker.check()
                block = file.read(_BLOCK if end is None else min(_BLOCK, end - self._hashed))
                if not block:
                    return
                self._sha256.update(block)
                self._hashed += len(block)

    def _open_range(self, segment: Segment, known: PartialFile) -> ResumingReader:
        span = Span(segment.position, segment.end, known.tag, known.size)
        return ResumingReader(self._transport, self._url, span)

    def _open_file(self) -> FileIO:
        return self._staging.root.open(self._name, "r+b")


class GrowingFile:
    """Reads *file*, which is being downloaded, with the methods of a file object."""

    def __init__(self, file: FileIO, written: Written, version: int) -> None:
        self._file, self._written, self._version = file, written, version
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Wait for up to *size* bytes and return them; see :meth:`Written.wait_for`."""
        self._written.wait_for(self._file.tell() + size, self._version)
        return self._file.read(size) or b""

    def readinto(self, buffer: memoryview) -> int:
        """Read into *buffer* and return the number of bytes; see :meth:`read`."""
        self._written.wait_for(self._file.tell() + len(buffer), self._version)
        return self._file.readinto(buffer) or 0


class _Probe:
    """Measures whether the network or the storage, not this machine, limits a connection."""

    def __init__(self) -> None:
        self._began, self._cpu = time.monotonic(), time.thread_time()

    def is_over(self, reader: ResumingReader) -> bool:
        """Return whether enough bytes have been received to decide."""
        seconds = time.monotonic() - self._began
        return reader.received >= _PROBE_BYTES and seconds >= _PROBE_SECONDS

    def is_held_back(self, reader: ResumingReader, segment: Segment) -> bool:
        """Return whether more connections would be faster."""
        seconds = time.monotonic() - self._began
        busy = (time.thread_time() - self._cpu) / seconds
        rate, rest = reader.received / seconds, segment.end - segment.position
        slow = rate < _FAST and rest >= _MIN_REST and rest / rate > _MIN_SECONDS
        return reader.body.ranged and reader.body.tag is not None and busy < _BUSY and slow


def _write_all(file: int, block: bytes, position: int) -> None:
    rest = memoryview(block)
    while rest:
        count = os.pwrite(file, rest, position)
        rest, position = rest[count:], position + count
