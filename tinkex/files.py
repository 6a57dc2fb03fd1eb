"""Files: paths that a user names, directories of this user, locks, and writes that lose nothing."""

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

#: What plugins may use, see the page "Plugin API".
__all__ = [
    "locked",
    "plugin_directory",
    "private_directory",
    "replacing",
    "user_path",
    "xdg_directory",
]

#: Longest file that is read whole, in bytes: far more than any model's context.
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
    """Return the path that a user means by *name*; ``~`` is a home directory.

    :raises LocalError: no file can have this name.
    """
    if not name:
        raise LocalError("the name of a file or directory is empty", hint="Give it a name.")
    try:
        return path_of(name).expanduser()
    except RuntimeError as error:
        raise LocalError(f"no such home directory: {name}", hint="Check the name.") from error


def path_of(name: Path | str) -> Path:
    """Return *name*, given by a program, as a path; ``~`` stays as it is.

    :raises LocalError: no file can have this name.
    """
    try:
        if b"\0" not in os.fsencode(name):
            return Path(name)
        what = "holds a NUL character"
    except UnicodeEncodeError:
        what = "is not valid Unicode"
    raise LocalError(f"the name of a file or directory {what}")


def limit_error(error: BaseException) -> LimitReached | None:
    """Return the error for *error* if it means that no more files or threads are allowed."""
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

    Another user may have created it first, in a place where both can write.

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
        raise LocalError(f"cannot use {path}: {reason}", hint="Move it away.")
    return path


def plugin_directory(kind: str, distribution: str) -> Path:
    """Return the private directory of a plugin for the user's files of a *kind*; create it.

    Commands have it as ``self.data_dir`` and ``self.cache_dir``; hooks and drivers call this.

    :param kind: see :func:`xdg_directory`; files in ``cache`` may be deleted at any time.
    :param distribution: name of the plugin, in any spelling that pip accepts.
    :raises LocalError: it cannot be created, is a symbolic link, or others can access it.
    """
    name = re.sub(r"[^a-z0-9]+", "-", distribution.lower())  # PEP 503
    return private_directory(xdg_directory(kind) / "tinkex" / "plugins" / name)


def why_not_private(found: os.stat_result) -> str | None:
    """Return why *found*, from ``lstat``, is not a directory of this user only, or ``None``."""
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a directory"
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        return "it belongs to another user"
    return "it is open to other users" if found.st_mode & 0o077 else None


def why_not_trusted(found: os.stat_result) -> str | None:
    """Return why another user may have written the file with the status *found*, or ``None``.

    It must belong to this user, to root, or to the user who became root with ``sudo``.
    """
    if not hasattr(os, "geteuid"):
        return None
    trusted = {str(os.geteuid()), "0"}
    if os.geteuid() == 0:
        trusted.add(os.environ.get("SUDO_UID", "0"))
    if str(found.st_uid) not in trusted:
        return "it belongs to another user"
    return "other users can write it" if found.st_mode & 0o022 else None


def exposed_mode(path: Path) -> str | None:
    """Return the mode of *path* in octal if other users may access it, else ``None``."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return f"{mode:04o}" if mode & 0o077 else None


def write_private(path: Path, text: str) -> None:
    """Replace the file *path* by *text*, with mode 0600, while it is :func:`locked`.

    A symbolic link stays one; the file that it leads to is replaced.

    :raises LocalError: it cannot be written; it is unchanged.
    """
    target = Path(os.path.realpath(path))
    try:
        prefix = f".{target.name}{PREFIX}"
        for left in target.parent.glob(f"{prefix}*"):  # by a writer that was killed
            left.unlink(missing_ok=True)
        with replacing(target, mode=0o600, prefix=prefix) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error


def _check_home(path: Path) -> None:
    if path.parts[:1] == ("~",):
        raise LocalError(
            f"cannot write {path}: this user has no home directory", hint="Set HOME to one."
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other tinkex processes from changing the file *path* during the block.

    The lock is a file next to it, which stays; a missing directory is created with mode 0700.

    :raises LocalError: the directory cannot be written to, or another process keeps the lock.
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
                f"another tinkex process is changing {path}", hint="Try again when it has finished."
            )
        yield
    finally:
        os.close(handle)


def acquire_lock(file: int | IO[bytes], *, timeout: float | None = 0.0) -> bool:
    """Lock an open file or directory until it is closed; return whether that worked.

    Where the system or the file system has no locks, it counts as locked.

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
    """Return the content of the file *name*; ``-`` is *stdin*.

    :param limit: maximum length of the content, in bytes.
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
    """Check, before the work starts, that the file *name* can be written.

    :raises LocalError: it is a directory, or its directory cannot be created or written to.
    """
    if name == "-":
        raise LocalError(
            "the output of this command cannot be written to standard output",
            hint="Name a file; for one that is called '-', write ./-",
        )
    target = user_path(name)
    # Missing directories are created when there is something to put into them.
    parent = next((p for p in target.absolute().parents if os.path.lexists(p)), target)
    problem = None
    if target.is_dir():
        problem = "it is a directory"
    elif not parent.is_dir():
        problem = f"{parent} is not a directory"
    elif not all(os.access(path, os.W_OK) for path in (parent, target) if path.exists()):
        problem = "Permission denied"
    if problem:
        raise LocalError(f"cannot write {name}: {problem}", hint="Name another file.")


def write_atomically(name: str, text: str) -> None:
    """Write *text* to the file *name*, which then holds all of it, or what it held before.

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

    :param mode: permissions; by default those of the file that is replaced, or the usual ones.
    :param durable: the content, and then its name, are on the disk when this returns.
    :param prefix: beginning of the new file's name until then; it is in the same directory.
    :raises OSError: something cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode is None and target.exists():
        mode = stat.S_IMODE(target.stat().st_mode) & 0o777
    temporary = target.with_name(prefix + os.urandom(8).hex())
    # Its permissions are never wider than they will be.
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
    """Make created and renamed names in *directory* durable, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
