"""A file that one thread reads while others download it."""

from __future__ import annotations

import threading
from io import FileIO


class Restarted(Exception):
    """The download has started over, so that what was read may be of another version."""


class Failed(Exception):
    """The download has failed, so that the rest of the file will not arrive."""


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


class GrowingFile:
    """The reading side of a file that is being downloaded; its methods are those of *file*."""

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
