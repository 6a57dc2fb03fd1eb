"""Progress and cancellation of a download, across all its threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The progress of a download.

    :ivar done_bytes: bytes received so far, in all files, including those of an earlier attempt.
    :ivar total_bytes: total number of bytes, or ``None`` while unknown.
    :ivar file: the file that is being received.
    """

    done_bytes: int
    total_bytes: int | None
    file: str


OnProgress = Callable[[Progress], None]


class Cancelled(Exception):
    """The download has failed in another thread, or was interrupted."""


class ProgressTracker:
    """Counts the received bytes of several files and reports progress.

    :param on_progress: called after every block, by one thread at a time.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._done: dict[str, int] = {}
        self._sizes: dict[str, int | None] = {}
        self._received = self._total = self._unknown = 0

    def expect(self, names: Iterable[str]) -> None:
        """Register files whose sizes are not known yet."""
        with self._lock:
            for name in names:
                self._set_size(name, self._sizes.get(name))

    def start(
        self, name: str, size: int | None, done: int = 0, *, label: str | None = None
    ) -> None:
        """Set the size and the received bytes of *name*; report it as *label*."""
        with self._lock:
            self._set_size(name, size)
            self._received += done - self._done.get(name, 0)
            self._done[name] = done
            if label is not None:
                self._report(label)

    def add(self, name: str, count: int) -> None:
        """Add *count* received bytes of *name*.

        :raises Cancelled: see :meth:`check`.
        """
        self.check()
        with self._lock:
            self._done[name] = self._done.get(name, 0) + count
            self._received += count
            self._report(name)

    def _report(self, label: str) -> None:
        if self._on_progress is not None:
            total = None if self._unknown else self._total
            self._on_progress(Progress(self._received, total, label))

    def cancel(self) -> None:
        """Make the threads of the download end at their next block."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise an error if the download was cancelled.

        :raises Cancelled: the download was cancelled.
        """
        if self._cancelled.is_set():
            raise Cancelled

    def _set_size(self, name: str, size: int | None) -> None:
        if name in self._sizes:
            old = self._sizes[name]
            self._total -= old or 0
            self._unknown -= old is None
        self._sizes[name] = size
        self._total += size or 0
        self._unknown += size is None
