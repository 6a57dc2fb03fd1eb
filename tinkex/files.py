"""Reading what a user names, and writing so that nothing is lost."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TextIO

from tinkex.exceptions import LocalError

__all__ = ["user_path"]

#: Longest file that is read whole, in bytes: far more than any model's context.
MAX_INPUT = 256 * 1024 * 1024


def user_path(name: str) -> Path:
    """Return the path that a person means by *name*; ``~`` is a home directory.

    :raises LocalError: no file can have this name.
    """
    if not name:
        raise LocalError("the name of a file or directory is empty")
    if "\0" in name:
        raise LocalError("the name of a file or directory holds a NUL character")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise LocalError(f"no such home directory: {name}") from error


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
    target = user_path(name)
    if target.is_dir():
        raise LocalError(f"cannot write {name}: it is a directory", hint="Name a file.")
    # Directories that are missing are made when there is something to put into them.
    parent = next(path for path in target.absolute().parents if os.path.lexists(path))
    if not parent.is_dir():
        raise LocalError(f"cannot write {name}: {parent} is not a directory")
    if not all(os.access(path, os.W_OK) for path in (parent, target) if path.exists()):
        raise LocalError(f"cannot write {name}: Permission denied")


def write_atomically(name: str, text: str, *, private: bool = False) -> None:
    """Write *text* to the file *name*: afterwards it holds all of it, or what it held before.

    A name that is no regular file (``/dev/stdout``, a named pipe) is written to directly.

    :param private: only its owner can read it afterwards.
    :raises LocalError: it cannot be written.
    """
    target = user_path(name)
    try:
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8") as stream:
                stream.write(text)
            return
        _replace(Path(os.path.realpath(target)), text, 0o600 if private else None)
    except OSError as error:
        raise LocalError(f"cannot write {name}: {error.strerror}") from error


def _replace(target: Path, text: str, mode: int | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".tinkex-", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            os.fchmod(stream.fileno(), _mode_for(target) if mode is None else mode)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode_for(target: Path) -> int:
    """Return the permissions of the file that is replaced, or those of a new one."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
