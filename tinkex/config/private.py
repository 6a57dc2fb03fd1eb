"""Files for their owner only: locked while they change, and replaced in one step.

Two processes that change the same file take turns, and one that ends at any moment, by kill -9 too,
leaves the file as it was before or as it is afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from tinkex.exceptions import LocalError
from tinkex.files import replacing

#: Seconds that another process is waited for.
PATIENCE = 10.0
#: What ``flock`` fails with where another process has the lock.
_TAKEN = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other tinkex processes from changing *path* during the block; makes its directory.

    :raises LocalError: there is no home directory, the directory cannot be written to, or another
        process does not finish.
    """
    if path.parts[:1] == ("~",):  # as expanduser() leaves it
        raise LocalError(
            f"cannot write {path}: this user has no home directory", hint="Set HOME to one."
        )
    lock = _beside(path, ".lock")
    try:
        _make_directory(path.parent)
        # Never through a symbolic link: somebody may have put it there.
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LocalError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        _take(handle, path)
        yield
    finally:
        os.close(handle)


def write(path: Path, text: str) -> None:
    """Replace the file *path* by *text*, readable and writable for its owner only.

    To be called while the file is :func:`locked`. A symbolic link stays one; what it leads to is
    replaced.

    :raises LocalError: it cannot be written; it is as it was before.
    """
    target = Path(os.path.realpath(path))
    try:
        _make_directory(target.parent)
        begin = f".{target.name}.tinkex-"
        for left in target.parent.glob(f"{begin}*"):  # by a writer that was killed
            left.unlink(missing_ok=True)
        with replacing(target, mode=0o600, prefix=begin) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error


def exposed(path: Path) -> str | None:
    """Return the mode of *path* in octal if others than its owner may read it, else ``None``."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return f"{mode:04o}" if mode & 0o077 else None


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)


def _take(handle: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system; the replacement is still one step
        return
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _TAKEN:  # a file system without locks
                return
        if time.monotonic() > until:
            raise LocalError(
                f"another tinkex process is changing {path}", hint="Try again when it has finished."
            )
        time.sleep(0.02)
