"""Reading what a user names, and writing so that nothing is lost."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from tinkex.exceptions import LocalError


def read_bytes(name: str, stdin: TextIO | None = None) -> bytes:
    """Return the content of the file *name*; ``-`` is standard input.

    :raises LocalError: it cannot be read.
    """
    try:
        if name == "-":
            stream = stdin or sys.stdin
            binary = getattr(stream, "buffer", None)
            return bytes(binary.read()) if binary else stream.read().encode()
        return Path(name).expanduser().read_bytes()
    except OSError as error:
        raise LocalError(f"cannot read {name}: {error.strerror}") from error


def check_writable(name: str) -> None:
    """Find out before the work begins that the file *name* can be written.

    :raises LocalError: it is a directory, or its directory cannot be made or written to.
    """
    target = Path(name).expanduser()
    if target.is_dir():
        raise LocalError(f"cannot write {name}: it is a directory", hint="Name a file.")
    parent = target.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalError(f"cannot make the directory {parent}: {error.strerror}") from error
    existing = target if target.exists() else parent
    if not os.access(existing, os.W_OK) or not os.access(parent, os.W_OK):
        raise LocalError(f"cannot write {name}: Permission denied")


def write_atomically(name: str, text: str) -> None:
    """Write *text* to the file *name*: afterwards it holds all of it, or what it held before.

    A name that is no regular file (``/dev/stdout``, a named pipe) is written to directly.

    :raises LocalError: it cannot be written.
    """
    target = Path(name).expanduser()
    try:
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8") as stream:
                stream.write(text)
            return
        _replace(Path(os.path.realpath(target)), text)
    except OSError as error:
        raise LocalError(f"cannot write {name}: {error.strerror}") from error


def _replace(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            os.fchmod(stream.fileno(), _mode_for(target))
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
