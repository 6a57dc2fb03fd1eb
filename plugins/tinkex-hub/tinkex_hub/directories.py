"""Directories of models and adapters: their files are checked before they are read or copied."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from tinkex.exceptions import LocalError, TargetExists, TargetInUse
from tinkex.files import acquire_lock, private_directory

#: Maximum size of a configuration or an index in bytes.
_MAX_JSON = 64 * 1024 * 1024
#: Directories of a repository in the cache of huggingface_hub: the first links to the second.
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
#: Prefix of the name of a directory until it is complete.
_PREFIX = ".tinkex-export-"


def open_file(directory: Path, name: str) -> BinaryIO:
    """Open the regular file *name* in *directory*.

    A symbolic link must lead to a file in the same directory or, as in the cache of
    huggingface_hub, in the ``blobs`` of the same repository: a directory that was cloned or
    unpacked may contain links to private files.

    :raises FileNotFoundError: it does not exist.
    :raises LocalError: it cannot be read, is not a regular file, or links outside *directory*.
    """
    path = directory / name
    try:
        root, target = directory.resolve(), path.resolve(strict=True)
        is_cache = root.parent.name == _SNAPSHOTS
        allowed = (root, root.parent.parent / _BLOBS) if is_cache else (root,)
        if not any(target.is_relative_to(place) for place in allowed):
            raise LocalError(
                f"{path} is a symbolic link that points outside its directory",
                hint="Replace it with a copy of the file.",
            )
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        handle = os.open(target, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        file = os.fdopen(handle, "rb")
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as error:  # the latter: a loop of links
        reason = getattr(error, "strerror", None) or "symbolic link loop"
        raise LocalError(f"cannot read {path}: {reason}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device or pipe has no end
        file.close()
        raise LocalError(f"{path} is not a regular file", hint="Replace it with a regular file.")
    return file


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in the file *name* of *directory*.

    :raises FileNotFoundError: it does not exist.
    :raises LocalError: it cannot be read, or is not a JSON object.
    """
    with open_file(directory, name) as file:
        size = os.fstat(file.fileno()).st_size  # a buffer of the limit would be allocated at once
        return json_object(file.read(min(size, _MAX_JSON)), str(directory / name))


def json_object(content: bytes, label: str) -> dict[str, Any]:
    """Parse *content* as a JSON object.

    :raises LocalError: it is not one.
    """
    found = None
    with suppress(ValueError, RecursionError):
        found = json.loads(content)
    if not isinstance(found, dict):
        raise LocalError(
            f"{label} is not a JSON object", hint="Correct the file, or download it again."
        )
    return found


def check_new(target: Path) -> None:
    """Check that *target* does not exist, or is an empty directory.

    :raises TargetExists: it exists.
    """
    try:
        is_new = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise LocalError(f"cannot read {target}: {error.strerror}") from error
    if target.is_symlink() or not is_new:
        raise TargetExists(
            f"{target} already exists", hint="Choose another directory with --output."
        )


@contextmanager
def new_directory(target: Path, needed: int) -> Iterator[Path]:
    """Yield a temporary directory that becomes *target* when the block ends.

    When the block raises, the temporary directory is removed and *target* does not exist. If the
    process is killed, the next call with the same target removes its files.

    :param needed: size in bytes of what will be written.
    :raises TargetExists: *target* exists, and is not an empty directory.
    :raises TargetInUse: another process is writing to it.
    :raises LocalError: it cannot be created, or the space is not sufficient.
    """
    check_new(target)
    temporary = (
        target.absolute().parent / f"{_PREFIX}{sha256(target.name.encode()).hexdigest()[:12]}"
    )
    handle = -1
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(temporary, target)
        _check_space(temporary, needed)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        temporary.replace(target)
    except BaseException as error:
        if handle >= 0:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise LocalError(f"cannot write {target}: {error.strerror}") from error
        raise
    finally:
        if handle >= 0:
            os.close(handle)


def _locked(temporary: Path, target: Path) -> int:
    """Create the private directory *temporary*, or empty one that a killed process left; lock it.

    :returns: a file descriptor, which holds the lock.
    :raises LocalError: it cannot be created, or others can access it.
    :raises TargetInUse: another process holds the lock.
    """
    private_directory(temporary)
    handle = os.open(temporary, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    if not acquire_lock(handle) or not os.path.samestat(os.fstat(handle), temporary.lstat()):
        os.close(handle)
        raise TargetInUse(f"another process is writing to {target}")
    for left in temporary.iterdir():
        left.unlink()
    return handle


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        sizes = f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        raise LocalError(
            f"not enough space in {directory.parent}: {sizes}",
            hint="Free some space, or choose another directory with --output.",
        )
