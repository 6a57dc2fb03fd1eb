"""SHA-256 of what arrives, worked out while more arrives."""

from __future__ import annotations

import errno
import hashlib
import queue
import threading
from collections.abc import Callable
from io import FileIO
from typing import Protocol

from tinkex.api.transfer.body import BLOCK, Readable

#: Rooms for blocks that arrive, wait for their turn or are being added.
_ROOMS = 8
#: Bytes of a file from which a thread is worth its start.
_WORTH = 4 * 1024 * 1024
#: Bytes that are read again at a time, and seconds between two looks whether there are any.
_AGAIN, _LOOK = 1024 * 1024, 0.02


class Sum(Protocol):
    """What hashlib's objects are."""

    def update(self, block: memoryview, /) -> None:
        """Add *block*."""

    def hexdigest(self) -> str:
        """Return the sum of all that was added."""
        ...


class Blocks(Protocol):
    """Takes blocks from a source, one after the other."""

    def take(self, source: Readable, most: int) -> memoryview:
        """Return what *source* has next, up to *most* bytes: good until the next call."""
        ...


class Unsummed:
    """Takes blocks whose sum is worked out elsewhere."""

    def __init__(self) -> None:
        self._room = memoryview(bytearray(BLOCK))

    def take(self, source: Readable, most: int) -> memoryview:
        """Return what *source* has next, up to *most* bytes: good until the next call."""
        return self._room[: source.readinto(self._room[:most])]


class Digest:
    """A SHA-256 sum that a thread of its own works out; a context manager.

    hashlib lets other threads run meanwhile, so that on two cores the sum costs next to no time.
    A block lies in one of a few rooms until its turn has come; they are used again and again.

    :param size: bytes to come; for few there is no thread. ``None`` if nobody knows.
    """

    def __init__(self, size: int | None = None) -> None:
        self._sum: Sum = hashlib.sha256()
        self._waiting: queue.SimpleQueue[tuple[memoryview, int] | None] | None = None
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        if size is None or size >= _WORTH:
            for _ in range(_ROOMS):
                self._free.put(memoryview(bytearray(BLOCK)))
            self._waiting = queue.SimpleQueue()
            self._thread = threading.Thread(target=self._work, args=(self._waiting,), daemon=True)
            self._thread.start()
        else:
            self._free.put(memoryview(bytearray(max(1, min(size, BLOCK)))))

    def __enter__(self) -> Digest:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def take(self, source: Readable, most: int) -> memoryview:
        """Return what *source* has next, up to *most* bytes; it is being added meanwhile.

        It is good until the next call, and nobody may change it.
        """
        room = self._free.get()
        try:
            count = source.readinto(room[:most])
        except BaseException:
            self._free.put(room)
            raise
        if self._waiting is None:
            self._add(room, count)
        else:
            self._waiting.put((room, count))
        return room[:count]

    def hexdigest(self) -> str:
        """Return the sum; nothing can be added afterwards."""
        return self.ended().hexdigest()

    def ended(self) -> Sum:
        """Return the sum for somebody to go on with."""
        if self._end():
            self._thread.join()
        return self._sum

    def _end(self) -> bool:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.put(None)
        return waiting is not None

    def _work(self, waiting: queue.SimpleQueue[tuple[memoryview, int] | None]) -> None:
        while (block := waiting.get()) is not None:
            self._add(*block)

    def _add(self, room: memoryview, count: int) -> None:
        self._sum.update(room[:count])
        self._free.put(room)


class Trailing:
    """A SHA-256 sum of a file whose parts come in any order; a context manager.

    A thread reads after them, so that little is left to do when the last one is here.

    :param open_file: opens the file.
    :param reached: returns how far the file has no gap, in bytes.
    :param begun: the sum of what stands before *position*; it is gone on with.
    :param position: where to begin.
    """

    def __init__(
        self,
        open_file: Callable[[], FileIO],
        reached: Callable[[], int],
        begun: Sum | None = None,
        position: int = 0,
    ) -> None:
        self._open_file, self._reached = open_file, reached
        self._sum = begun or hashlib.sha256()
        self._position = position
        self._whole = threading.Event()
        self._given_up = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> Trailing:
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up = True
        self._whole.set()

    def hexdigest(self) -> str:
        """Return the sum of all that has been reached; nothing more may come.

        :raises OSError: the file cannot be read.
        """
        self._whole.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._sum.hexdigest()

    def _work(self) -> None:
        try:
            with self._open_file() as file:
                file.seek(self._position)
                self._follow(file)
        except OSError as error:  # it is raised again where somebody waits
            self._error = error

    def _follow(self, file: FileIO) -> None:
        room = memoryview(bytearray(_AGAIN))
        while not self._given_up:
            is_whole = self._whole.is_set()
            left = self._reached() - self._position
            if left > 0:
                count = file.readinto(room[:left])
                if not count:
                    raise OSError(errno.EIO, "has lost what was written to it")
                self._sum.update(room[:count])
                self._position += count
            elif is_whole:
                return
            else:
                self._whole.wait(_LOOK)
