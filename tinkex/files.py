"""Reading what a user names, and writing so that nothing is lost."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from tinkex.exceptions import LocalError

__all__ = ["user_path"]

#: Longest file that is read whole, in bytes: far more than any model's context.
MAX_INPUT = 256 * 1024 * 1024
#: How the name of a file begins that is to take another's place.
PREFIX = ".tinkex-"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)


def user_path(name: str) -> Path:
    """Return the path that a person means by *name*; ``~`` is a home directory.

    :raises LocalError: no file can have this name.
    """
    if not name:
        raise LocalError("the name of a file or directory is empty", hint="Give it a name.")
    if "\0" in name:
        raise LocalError("the name of a file or directory holds a NUL character")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise LocalError(f"no such home directory: {name}", hint="Check the name.") from error


def path_of(name: Path | str) -> Path:
    """Return the path that a program means by *name*.

    :raises LocalError: no file can have this name.
    """
    try:
        if b"\0" not in os.fsencode(name):
            return Path(name)
        what = "holds a NUL character"
    except UnicodeEncodeError:
        what = "is not valid Unicode"
    raise LocalError(f"the name of a file or directory {what}")


def read_bytes(name: str, stdin: TextIO | None, limit: int = MAX_INPUT) -> bytes:
    """Return the content of the file *name*; ``-`` is *stdin*.

    :param limit: longest content, in bytes.
    :raises LocalError: it cannot be read, or is longer.
    """
    try:
        if name != "-":
            with user_path(name).open("rb") as file:
                content = file.read(limit + 1)
        elif stdin is None:
            raise LocalError("cannot read standard input: it is closed")
        else:
            binary = getattr(stdin, "buffer", None)
            content = binary.read(limit + 1) if binary else stdin.read(limit + 1).encode()
    except OSError as error:
        raise LocalError(f"cannot read {name}: {error.strerror}") from error
    if len(content) > limit:
        raise LocalError(f"{name} is longer than {limit} bytes")
    return bytes(content)


def check_writable(name: str) -> None:
    """Find out before the work begins that the file *name* can be written.

    :raises LocalError: it is a directory, or its directory cannot be made or written to.
    """
    if name == "-":
        raise LocalError(
            "this is written to a file, not to standard output",
            hint="Name a file; one that is called so is ./-",
        )
    target = user_path(name)
    if target.is_dir():
        raise LocalError(f"cannot write {name}: it is a directory", hint="Name a file.")
    # Directories that are missing are made when there is something to put into them.
    parent = next(path for path in target.absolute().parents if os.path.lexists(path))
    if not parent.is_dir():
        raise LocalError(
            f"cannot write {name}: {parent} is not a directory", hint="Check the name."
        )
    if not all(os.access(path, os.W_OK) for path in (parent, target) if path.exists()):
        raise LocalError(f"cannot write {name}: Permission denied", hint="Check the permissions.")


def write_atomically(name: str, text: str, *, private: bool = False) -> None:
    """Write *text* to the file *name*: afterwards it holds all of it, or what it held before.

    A name that is no regular file (``/dev/stdout``, a named pipe) is written to directly.

    :param private: only its owner can read it afterwards.
    :raises LocalError: it cannot be written.
    """
    target = user_path(name)
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as device:
                device.write(text.encode())
            return
        mode = 0o600 if private else None
        with replacing(Path(os.path.realpath(target)), mode=mode) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise LocalError(f"cannot write {name}: {error.strerror}") from error


@contextlib.contextmanager
def replacing(
    target: Path, *, mode: int | None = None, durable: bool = True, prefix: str = PREFIX
) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of *target* when the block ends, in one step.

    When the block raises, the new file goes and *target* is as it was. Directories that are missing
    are made. A symbolic link is replaced itself: who means what it leads to resolves it first.

    :param mode: permissions; without them those of the file that is replaced, or the usual ones.
    :param durable: the content, and then its name, are on the disk when this returns.
    :param prefix: how the new file's name begins until then; it lies in the same directory.
    :raises OSError: something cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode is None and target.exists():
        mode = stat.S_IMODE(target.stat().st_mode) & 0o777
    temporary = target.with_name(prefix + os.urandom(8).hex())
    try:
        # Nobody gets to see it with wider permissions than it will have.
        handle = os.open(temporary, _NEW, 0o666 if mode is None else mode)
        with os.fdopen(handle, "wb") as stream:
            if mode is not None:
                os.fchmod(handle, mode)  # whatever the umask has taken away
            yield stream
            stream.flush()
            if durable:
                os.fsync(handle)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
