"""Directories that are held open: what is below them is reached without following links."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a Unix: two processes are not kept apart
    fcntl = None  # type: ignore[assignment]

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_MODES = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "a+b": os.O_RDWR | os.O_CREAT | os.O_APPEND,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


class Directory:
    """An open directory. Names are looked up below it, and no symbolic link is followed.

    All methods take relative paths without ``..``, and raise :exc:`OSError` as their namesakes in
    :mod:`os` do; a symbolic link on the way raises :exc:`NotADirectoryError`.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def at(cls, path: Path) -> Directory:
        """Open the directory *path*, which may be, or go through, symbolic links."""
        return cls(os.open(path, _FOLDER))

    def close(self) -> None:
        """Close the handle; later calls fail."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def status(self) -> os.stat_result:
        """Return what the system knows about the directory itself."""
        return os.fstat(self._handle)

    def enter(self, name: str) -> Directory:
        """Open the directory *name*."""
        return Directory(_enter(name, self._handle))

    def make(self, name: str, mode: int = 0o777) -> bool:
        """Make the directory *name*; return whether it was missing."""
        try:
            os.mkdir(name, mode, dir_fd=self._handle)
        except FileExistsError:
            return False
        return True

    def make_parents(self, relative: Path) -> None:
        """Make the directories that *relative* is in."""
        with self._parent(relative, make=True):
            pass

    def open(self, relative: Path | str, mode: str, *, make: bool = False) -> io.FileIO:
        """Open a file, unbuffered; its mode is one of ``rb``, ``r+b``, ``a+b``, ``wb``, ``xb``.

        :param make: make the directories that it is in.
        """
        with self._parent(relative, make=make) as (parent, name):
            handle = os.open(name, _MODES[mode] | NO_LINK, 0o666, dir_fd=parent)
            return io.FileIO(handle, mode.replace("x", "w"))

    def stat(self, relative: Path | str) -> os.stat_result | None:
        """Return what is known about *relative*, ``None`` if it does not exist."""
        try:
            with self._parent(relative) as (parent, name):
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def replace(self, relative: Path | str, other: Directory, goal: Path | str) -> None:
        """Move a file to *goal* in *other*, whose directories are made."""
        with self._parent(relative) as (source, name), other._parent(goal, make=True) as (to, new):
            os.replace(name, new, src_dir_fd=source, dst_dir_fd=to)

    def remove(self, relative: Path | str) -> None:
        """Remove a file, if it exists."""
        with suppress(FileNotFoundError), self._parent(relative) as (parent, name):
            os.unlink(name, dir_fd=parent)

    def remove_tree(self, name: str) -> None:
        """Remove the directory *name* with all that is in it, as far as possible."""
        shutil.rmtree(name, ignore_errors=True, dir_fd=self._handle)

    def remove_empty(self, name: str) -> None:
        """Remove the directory *name* if it is one, and empty."""
        with suppress(OSError):
            os.rmdir(name, dir_fd=self._handle)

    def entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield all that is below, as relative paths, each with what is known about it."""
        for folder, folders, files, handle in os.fwalk(".", dir_fd=self._handle):
            for name in (*folders, *files):
                with suppress(FileNotFoundError):
                    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    yield Path(folder, name), found

    def sync(self) -> None:
        """Make what was renamed here durable, where the system can do that."""
        with suppress(OSError):
            os.fsync(self._handle)

    def sync_file(self, relative: Path) -> None:
        """Bring a file, and its name, to the disk."""
        with self.open(relative, "rb") as file:
            os.fsync(file.fileno())
        with self._parent(relative) as (parent, _), suppress(OSError):
            if parent != self._handle:
                os.fsync(parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes that ask for the same away; wait for one that was first."""
        handle = os.open(".", _FOLDER, dir_fd=self._handle)
        try:
            if fcntl is not None:
                with suppress(OSError):  # not every file system can
                    fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _parent(self, relative: Path | str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the handle of the directory that *relative* is in, and its last name."""
        parts = Path(relative).parts
        if not parts or ".." in parts or os.path.isabs(relative):
            raise ValueError(f"not below the directory: {relative}")
        handle = self._handle
        try:
            for name in parts[:-1]:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=handle)
                deeper = _enter(name, handle)
                if handle != self._handle:
                    os.close(handle)
                handle = deeper
            yield handle, parts[-1]
        finally:
            if handle != self._handle:
                os.close(handle)


def _enter(name: str, handle: int) -> int:
    try:
        return os.open(name, _FOLDER | NO_LINK, dir_fd=handle)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            reason = f"{name} is a symbolic link or not a directory"
            raise NotADirectoryError(errno.ENOTDIR, reason) from None
        raise
