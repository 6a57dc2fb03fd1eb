"""Open directories, whose files are accessed without following symbolic links."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from tinkex.api.paths import TinkerPath
from tinkex.exceptions import LocalError

#: Characters of ids and names that every file system accepts.
_PLAIN = " !@()+,=[]{}~"
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
#: With this flag, opening a FIFO does not block.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_MODES = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "a+b": os.O_RDWR | os.O_CREAT | os.O_APPEND,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


class Directory:
    """An open directory.

    Its methods take relative paths without ``..``, and raise :exc:`OSError` as the functions of
    :mod:`os` do. A symbolic link in a path raises :exc:`NotADirectoryError`.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def at(cls, path: Path) -> Directory:
        """Open the directory *path*, which may be or contain a symbolic link."""
        return cls(os.open(path, _FOLDER))

    def close(self) -> None:
        """Close the directory; later calls fail."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._handle

    def enter(self, name: str) -> Directory:
        """Open the directory *name*."""
        return Directory(_enter(name, self._handle))

    def make(self, name: str, mode: int = 0o777) -> bool:
        """Create the directory *name*; return ``False`` if it exists."""
        try:
            os.mkdir(name, mode, dir_fd=self._handle)
        except FileExistsError:
            return False
        return True

    def make_parents(self, relative: Path) -> None:
        """Create the parent directories of *relative*."""
        with self._parent(relative, make=True):
            pass

    def open(self, relative: Path | str, mode: str, *, make: bool = False) -> io.FileIO:
        """Open a file, unbuffered, with a mode of :func:`open` (or ``a+b``, which creates it).

        :param make: create its parent directories.
        """
        with self._parent(relative, make=make) as (parent, name):
            handle = os.open(name, _MODES[mode] | _NO_LINK | _NO_WAIT, 0o666, dir_fd=parent)
            if not stat.S_ISREG(os.fstat(handle).st_mode):  # reading a FIFO would block
                os.close(handle)
                raise OSError(errno.EINVAL, "not a regular file", name)
            return io.FileIO(handle, mode.replace("x", "w"))

    def stat(self, relative: Path | str) -> os.stat_result | None:
        """Return the status of *relative* itself, or ``None`` if it does not exist."""
        try:
            with self._parent(relative) as (parent, name):
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def replace(self, relative: Path | str, other: Directory, goal: Path | str) -> None:
        """Move a file or directory to *goal* in *other*, replacing a file there."""
        with self._parent(relative) as (source, name), other._parent(goal) as (target, new):
            os.replace(name, new, src_dir_fd=source, dst_dir_fd=target)

    def remove(self, relative: Path | str) -> None:
        """Remove a file, if it exists."""
        with suppress(FileNotFoundError), self._parent(relative) as (parent, name):
            os.unlink(name, dir_fd=parent)

    def remove_tree(self, name: str) -> None:
        """Remove the directory *name* and its content, as far as possible."""
        shutil.rmtree(name, ignore_errors=True, dir_fd=self._handle)

    def remove_empty(self, name: str) -> None:
        """Remove the directory *name* if it is an empty directory."""
        with suppress(OSError):
            os.rmdir(name, dir_fd=self._handle)

    def entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the relative path and status of every entry below this directory."""
        for folder, folders, files, handle in os.fwalk(".", dir_fd=self._handle):
            for name in (*folders, *files):
                with suppress(FileNotFoundError):  # removed in the meantime
                    found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                    yield Path(folder, name), found

    def sync(self) -> None:
        """Flush created and renamed entries to the disk, if the file system supports that."""
        with suppress(OSError):
            os.fsync(self._handle)

    def sync_file(self, relative: Path) -> None:
        """Flush a file and its directory entry to the disk."""
        with self.open(relative, "rb") as file:
            os.fsync(file.fileno())
        with self._parent(relative) as (parent, _), suppress(OSError):
            if parent != self._handle:
                os.fsync(parent)

    @contextmanager
    def _parent(self, relative: Path | str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the descriptor of the parent directory of *relative*, and its last component."""
        parts = Path(relative).parts
        if not parts or ".." in parts or os.path.isabs(relative):
            raise ValueError(f"not below the directory: {relative}")
        handle = top = self._handle  # which another thread may close in the meantime
        try:
            for name in parts[:-1]:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=handle)
                deeper = _enter(name, handle)
                if handle != top:
                    os.close(handle)
                handle = deeper
            yield handle, parts[-1]
        finally:
            if handle != top:
                os.close(handle)


def _enter(name: str, handle: int) -> int:
    try:
        return os.open(name, _FOLDER | _NO_LINK, dir_fd=handle)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            reason = f"{name} is a symbolic link or not a directory"
            raise NotADirectoryError(errno.ENOTDIR, reason) from None
        raise


def directory_of(root: Path, path: TinkerPath, *, with_run: bool = True) -> Path:
    """Return the directory of *path* below *root*: ``<run>/<kind>/<name>``.

    :raises LocalError: a component is a symbolic link, which could lead out of *root*.
    """
    place = root
    for part in (path.run_id, path.kind, path.name) if with_run else (path.kind, path.name):
        place /= _segment(part)
        if place.is_symlink():
            raise LocalError(f"cannot use {place}: it is a symbolic link", hint="Remove the link.")
    return place


def _segment(text: str) -> str:
    quoted = quote(text, safe=_PLAIN + (":" if Path("a:b").parts == ("a:b",) else ""))
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
