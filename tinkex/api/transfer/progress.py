"""How far a download is, told by all threads that work on it; and the word to stop for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """How far a download is.

    :ivar done_bytes: bytes here so far, over all files; those of an earlier attempt included.
    :ivar total_bytes: bytes in all, or ``None`` if nobody knows yet.
    :ivar file: what is being received.
    """

    done_bytes: int
    total_bytes: int | None
    file: str


OnProgress = Callable[[Progress], None]


class Stopped(Exception):
    """Another thread has failed, or somebody pressed Ctrl-C: the work is of no use any more."""


class Counter(Protocol):
    """What the thread that fetches a file tells; see :class:`Meter`."""

    def begin(self, name: str, size: int | None, done: int = 0) -> None:
        """Say how large *name* is and how much of it is here already."""

    def add(self, name: str, count: int) -> None:
        """Say that *count* bytes of *name* have arrived."""

    def check(self) -> None:
        """Return while there is something to do."""


class Inside:
    """Counts the bytes of a file in an archive as those of the archive.

    :param name: the archive.
    :param size: its size in bytes.
    :param start: where in it the file begins.
    """

    def __init__(self, meter: Meter, name: str, size: int, start: int) -> None:
        self._meter, self._name, self._size, self._start = meter, name, size, start

    def begin(self, name: str, size: int | None, done: int = 0) -> None:
        """Say how much of the file is here already."""
        self._meter.begin(self._name, self._size, self._start + done)

    def add(self, name: str, count: int) -> None:
        """Say that *count* bytes of the file have arrived."""
        self._meter.add(self._name, count)

    def check(self) -> None:
        """Return while there is something to do."""
        self._meter.check()


class Meter:
    """Counts the bytes of several files.

    :param on_progress: is called after every block, by one thread at a time.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done: dict[str, int] = {}
        self._sizes: dict[str, int | None] = {}
        self._sum = 0

    def expect(self, names: list[str]) -> None:
        """Announce files whose sizes are not known yet."""
        with self._lock:
            for name in names:
                self._sizes.setdefault(name, None)

    def begin(self, name: str, size: int | None, done: int = 0) -> None:
        """Say how large *name* is and how much of it is here already."""
        with self._lock:
            self._sizes[name] = size
            self._sum += done - self._done.get(name, 0)
            self._done[name] = done

    def add(self, name: str, count: int) -> None:
        """Say that *count* bytes of *name* have arrived.

        :raises Stopped: they are of no use.
        """
        self.check()
        with self._lock:
            self._done[name] = self._done.get(name, 0) + count
            self._sum += count
            if self._on_progress is not None:
                sizes = list(self._sizes.values())
                known = [size for size in sizes if size is not None]
                total = sum(known) if len(known) == len(sizes) else None
                self._on_progress(Progress(self._sum, total, name))

    def stop(self) -> None:
        """Tell the threads to stop."""
        self._stopped.set()

    def check(self) -> None:
        """Return while there is something to do.

        :raises Stopped: there is not.
        """
        if self._stopped.is_set():
            raise Stopped
