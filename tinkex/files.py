"""Files: paths given by the user, private directories, locks, and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO, TextIO

from tinkex.exceptions import LimitReached, LocalError

#: The public names, see the page "Plugin API".
__all__ = [
    "acquire_lock",
    "check_writable",
    "locked",
    "plugin_directory",
    "private_directory",
    "replacing",
    "user_path",
    "write_atomically",
    "xdg_directory",
]

#: Maximum size in bytes of a file that is read into memory, far more than any model's context.
MAX_INPUT = 256 * 1024 * 1024
#: Prefix of the name of a new file until it replaces another.
PREFIX = ".tinkex-"
#: Seconds to wait for another process that holds a lock.
LOCK_TIMEOUT = 10.0
_XDG = {
    "config": ("XDG_CONFIG_HOME", "~/.config"),
    "data": ("XDG_DATA_HOME", "~/.local/share"),
    "state": ("XDG_STATE_HOME", "~/.local/state"),
    "cache": ("XDG_CACHE_HOME", "~/.cache"),
}


def user_path(name: str) -> Path:
    """Convert *name*, given by the user, to a path, with ``~`` expanded.

    :raises LocalError: the name is not valid for a file.
    """
    if not name:
        raise LocalError("the file or directory name is empty", hint="Specify a name.")
    try:
        return path_of(name).expanduser()
    except RuntimeError as error:
        raise LocalError(f"no such home directory: {name}", hint="Check the user name.") from error


def path_of(name: Path | str) -> Path:
    """Convert *name*, given by a program, to a path; ``~`` is not expanded.

    :raises LocalError: the name is not valid for a file.
    """
    try:
        if b"\0" not in os.fsencode(name):
            return Path(name)
        what = "contains a NUL character"
    except UnicodeEncodeError:
        what = "is not valid Unicode"
    raise LocalError(f"the file or directory name {what}")


def limit_error(error: BaseException) -> LimitReached | None:
    """Convert *error* to a :exc:`LimitReached` if it means too many files or threads."""
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return LimitReached("too many threads")
    if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    return LimitReached("too many open files")


def xdg_directory(kind: str, environ: Mapping[str, str] | None = None) -> Path:
    """Return the user's base directory for files of a *kind* (XDG base directories).

    :param kind: ``config``, ``data``, ``state`` or ``cache``.
    :returns: a path that begins with ``~`` for a user without a home directory.
    """
    variable, default = _XDG[kind]
    environ = os.environ if environ is None else environ
    # Unlike Path.home(), expanduser() does not fail for a user without a home.
    return Path(environ.get(variable) or os.path.expanduser(default))


def private_directory(path: Path) -> Path:
    """Create the directory *path* with mode 0700, or check that it is private; return it.

    Another user may have created it first, if both can write to its parent.

    :raises LocalError: it cannot be created, is a symbolic link, or others can access it.
    """
    _check_home(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        reason = why_not_private(path.lstat())
    except OSError as error:
        raise LocalError(f"cannot create {path}: {error.strerror}") from error
    if reason:
        raise LocalError(f"cannot use {path}: {reason}", hint="Move or rename it.")
    return path


def plugin_directory(kind: str, distribution: str) -> Path:
    """Return the private directory of a plugin for the user's files of a *kind*; create it.

    Commands use ``self.data_dir`` and ``self.cache_dir``; hooks and drivers call this function.

    :param kind: ``data`` for what the user wants to keep, ``state`` for what the plugin records
        between two commands (positions, histories, locks), ``cache`` for what can be fetched or
        computed again and may be deleted at any time, or ``config``.
    :param distribution: name of the plugin, in any spelling that pip accepts.
    :raises LocalError: it cannot be created, is a symbolic link, or others can access it.
    """
    name = re.sub(r"[^a-z0-9]+", "-", distribution.lower())  # PEP 503
    return private_directory(xdg_directory(kind) / "tinkex" / "plugins" / name)


def why_not_private(found: os.stat_result) -> str | None:
    """Return why the directory with the status *found* is not private to this user, or ``None``."""
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a directory"
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        return "it belongs to another user"
    return "other users can access it" if found.st_mode & 0o077 else None


def why_not_trusted(found: os.stat_result) -> str | None:
    """Return why another user could have written the file with the status *found*, or ``None``.

    It must belong to this user, to root, or to the user who became root with ``sudo``.
    """
    if not hasattr(os, "geteuid"):
        return None
    trusted = {str(os.geteuid()), "0"}
    if os.geteuid() == 0:
        trusted.add(os.environ.get("SUDO_UID", "0"))
    if str(found.st_uid) not in trusted:
        return "it belongs to another user"
    return "other users can write to it" if found.st_mode & 0o022 else None


def exposed_mode(path: Path) -> str | None:
    """Return the mode of *path* in octal if other users may access it, else ``None``."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return f"{mode:04o}" if mode & 0o077 else None


def write_private(path: Path, text: str) -> None:
    """Write *text* to the file *path* with mode 0600, while it is :func:`locked`.

    A symbolic link is kept; its target is replaced.

    :raises LocalError: the file cannot be written; it is unchanged.
    """
    target = Path(os.path.realpath(path))
    try:
        prefix = f".{target.name}{PREFIX}"
        for left in target.parent.glob(f"{prefix}*"):  # left by a killed process
            left.unlink(missing_ok=True)
        with replacing(target, mode=0o600, prefix=prefix) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error


def _check_home(path: Path) -> None:
    if path.parts[:1] == ("~",):
        raise LocalError(
            f"cannot write {path}: this user has no home directory", hint="Set HOME to a directory."
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the file *path* against other tinkex processes during the block.

    The lock file next to it is not removed; a missing directory is created with mode 0700.

    :raises LocalError: the directory cannot be written to, or another process holds the lock.
    """
    _check_home(path)
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A symbolic link is not followed: another user may have planted it.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(lock, flags, 0o600)
    except OSError as error:
        raise LocalError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        if not acquire_lock(handle, timeout=LOCK_TIMEOUT):
            raise LocalError(
                f"another tinkex process is changing {path}",
                hint="Try again when that process has finished.",
            )
        yield
    finally:
        os.close(handle)


def acquire_lock(file: int | IO[bytes], *, timeout: float | None = 0.0) -> bool:
    """Lock an open file or directory until it is closed; return whether it is locked.

    If the system or the file system has no locks, return ``True``.

    :param timeout: seconds to wait for another process; ``None`` waits without a limit.
    """
    try:
        import fcntl
    except ImportError:  # not a Unix
        return True
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if end is None else fcntl.LOCK_NB))
            return True
        except (BlockingIOError, PermissionError):  # another process holds the lock
            if end is None or time.monotonic() >= end:
                return False
        except OSError:
            return True
        time.sleep(0.02)


def read_bytes(name: str, stdin: TextIO | None, limit: int = MAX_INPUT) -> bytes:
    """Read the file *name*, or *stdin* for ``-``.

    :param limit: maximum size of the content in bytes.
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


def is_within(path: Path, source: str) -> bool:
    """Return whether *path* is the file *source*, or in the directory *source*."""
    origin, place = (Path(os.path.realpath(p)) for p in (user_path(source), path))
    if not origin.exists() or not (origin.is_dir() or origin.is_file()):  # such as a terminal
        return False
    return place.is_relative_to(origin) or (place.exists() and place.samefile(origin))


def check_writable(name: str, *sources: str | None) -> None:
    """Check in advance that the file *name* can be written.

    :param sources: files and directories that the command reads; ``None`` and ``-`` are ignored.
    :raises LocalError: it is a directory, its directory cannot be created or written to, or it is
        one of *sources*.
    """
    if name == "-":
        raise LocalError(
            "this command cannot write its output to standard output",
            hint="Specify a file. For a file named '-', use ./-",
        )
    target = user_path(name)
    # Missing directories are created when the file is written.
    parent = next((p for p in target.absolute().parents if os.path.lexists(p)), target)
    problem = None
    if target.is_dir():
        problem = "it is a directory"
    elif any(is_within(target, source) for source in sources if source not in (None, "-")):
        problem = "it is part of the input"
    elif not parent.is_dir():
        problem = f"{parent} is not a directory"
    elif not all(os.access(path, os.W_OK) for path in (parent, target) if path.exists()):
        problem = "Permission denied"
    if problem:
        raise LocalError(f"cannot write {name}: {problem}", hint="Specify another file.")


def write_atomically(name: str, text: str) -> None:
    """Write *text* to the file *name* completely, or leave the file unchanged.

    A name that is not a regular file (``/dev/stdout``, a named pipe) is written to directly.

    :raises LocalError: it cannot be written.
    """
    target = user_path(name)
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as device:
                device.write(text.encode())
            return
        with replacing(Path(os.path.realpath(target))) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise LocalError(f"cannot write {name}: {error.strerror}") from error


@contextlib.contextmanager
def replacing(
    target: Path, *, mode: int | None = None, durable: bool = True, prefix: str = PREFIX
) -> Iterator[BinaryIO]:
    """Yield a new file that replaces *target* atomically when the block ends.

    When the block raises, the new file is removed and *target* is unchanged. Missing directories
    are created. A symbolic link is itself replaced: resolve it first to write to its target.

    :param mode: permissions; by default those of the replaced file, or of any new file.
    :param durable: flush the content, and then the name, to the disk.
    :param prefix: prefix of the temporary file's name; it is in the same directory.
    :raises OSError: a file or directory cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode is None and target.exists():
        mode = stat.S_IMODE(target.stat().st_mode) & 0o777
    temporary = target.with_name(prefix + os.urandom(8).hex())
    # Its permissions are never wider than the final ones.
    permissions = 0o666 if mode is None else mode
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions)
        with os.fdopen(handle, "wb") as stream:
            if mode is not None:
                os.fchmod(handle, mode)  # regardless of the umask
            yield stream
            stream.flush()
            if durable:
                os.fsync(handle)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Flush created and renamed entries of *directory* to the disk, if supported."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
