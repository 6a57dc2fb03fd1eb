"""A note beside downloaded files: which checkpoint they are, and how to know them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinkex.api.paths import TinkerPath
from tinkex.api.transfer.directory import Directory
from tinkex.exceptions import LocalError

NAME = "tinkex.lock.json"
#: Raised when the meaning of a member changes.
VERSION = 1

#: Written by PEFT beside every adapter (``peft.LoraConfig``).
_ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class LockedFile:
    """A file as it was downloaded.

    :ivar size_bytes: its size.
    :ivar sha256: hexadecimal digest; ``None`` in notes of early versions.
    """

    size_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Lock:
    """What the note says.

    :ivar tinker_path: the checkpoint.
    :ivar files: the files by relative name.
    """

    tinker_path: str
    files: Mapping[str, LockedFile]


class Damaged(ValueError):
    """What should be a note is none."""


def write(directory: Directory, path: TinkerPath, files: Mapping[str, LockedFile]) -> Path:
    """Write the note about the *files* of *path* in *directory*; return its relative path.

    Base model and rank are those of the adapter's own configuration, so that nothing is claimed
    that the files do not say.

    :param files: by relative name.
    """
    config = _adapter_config(directory)
    base_model, rank = config.get("base_model_name_or_path"), config.get("r")
    note = {
        "version": VERSION,
        "tinker_path": str(path),
        "run_id": path.run_id,
        "base_model": base_model if isinstance(base_model, str) else None,
        "lora_rank": rank if type(rank) is int else None,
        "files": [{"name": name, **vars(file)} for name, file in sorted(files.items())],
    }
    with directory.open(NAME, "wb") as file:
        file.write(json.dumps(note, indent=2).encode() + b"\n")
    return Path(NAME)


def read(directory: Path) -> Lock | None:
    """Return the note in *directory*, or ``None`` if there is none.

    :raises LocalError: it cannot be read, or is damaged.
    """
    place = directory / NAME
    try:
        return parsed(place.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LocalError(f"cannot read {place}: {error.strerror}") from error
    except Damaged as error:
        raise LocalError(
            f"{place} is damaged", hint="Download the checkpoint again with --force."
        ) from error


def holds(directory: Path, path: TinkerPath) -> bool:
    """Tell whether *directory* has all files of *path* in their sizes."""
    try:
        lock = read(directory)
        return (
            lock is not None
            and lock.tinker_path == str(path)
            and bool(lock.files)
            and all(
                (directory / name).stat().st_size == file.size_bytes
                for name, file in lock.files.items()
            )
        )
    except (LocalError, OSError):
        return False


def digest(path: Path) -> str:
    """Return the SHA-256 of the file *path*, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_below(name: Any) -> bool:
    """Tell whether *name* is a path that stays below the directory it is joined to."""
    if not isinstance(name, str):
        return False
    relative = Path(name)
    return bool(relative.parts) and not relative.is_absolute() and ".." not in relative.parts


def parsed(content: bytes) -> Lock:
    """Return what the *content* of a note says.

    :raises Damaged: it says nothing.
    """
    try:
        return _parsed(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged from error


def _parsed(note: Any) -> Lock:
    files = {}
    for file in note["files"]:
        name, size, sha256 = file["name"], file["size_bytes"], file.get("sha256")
        if not is_below(name):
            raise ValueError(name)
        if type(size) is not int or not (sha256 is None or isinstance(sha256, str)):
            raise ValueError(name)
        files[Path(name).as_posix()] = LockedFile(size, sha256)
    if not isinstance(note["tinker_path"], str):
        raise ValueError("tinker_path")
    return Lock(note["tinker_path"], files)


def _adapter_config(directory: Directory) -> dict[str, Any]:
    try:
        with directory.open(_ADAPTER_CONFIG, "rb") as file:
            value = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
