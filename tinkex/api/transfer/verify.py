"""Checking downloaded files against the note beside them; no network is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinkex.api.transfer import manifest
from tinkex.api.transfer.manifest import LockedFile
from tinkex.api.transfer.staging import PREFIX
from tinkex.exceptions import LocalError
from tinkex.files import path_of

Status = Literal["ok", "missing", "changed", "extra"]


@dataclass(frozen=True)
class VerifiedFile:
    """A file and what came of checking it.

    :ivar tinker_path: the checkpoint that it belongs to.
    :ivar file: where it is.
    :ivar size_bytes: its size now; ``None`` if it is missing.
    :ivar status: ``ok``, ``missing``, ``changed``, or ``extra`` for one that the download did not
        bring.
    :ivar reason: what is wrong, in words.
    """

    tinker_path: str
    file: Path
    size_bytes: int | None
    status: Status
    reason: str | None = None

    @property
    def good(self) -> bool:
        """Whether nothing is wrong: files of other origin do no harm."""
        return self.status in ("ok", "extra")


def verify(directory: Path | str) -> Iterator[VerifiedFile]:
    """Check the checkpoint in *directory*, or all of them that are below it.

    :raises LocalError: there is none, or a note cannot be read.
    """
    root = path_of(directory)
    try:
        return _verified(root)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise LocalError(f"cannot read {error.filename or root}: {reason}") from error


def _verified(root: Path) -> Iterator[VerifiedFile]:
    if not root.is_dir():
        what = f"{root} is not a directory" if root.exists() else f"no directory {root}"
        raise LocalError(what, hint="Name the directory of a downloaded checkpoint.")
    places = [root] if (root / manifest.NAME).is_file() else _below(root)
    if not places:
        raise LocalError(
            f"no downloaded checkpoint in {root}: there is no {manifest.NAME}",
            hint="Name a directory that 'tinkex checkpoint download' has filled.",
        )
    # Every note is read before the first file is.
    locks = [(place, lock) for place in places if (lock := manifest.read(place)) is not None]
    return _checked(locks)


def _checked(locks: list[tuple[Path, manifest.Lock]]) -> Iterator[VerifiedFile]:
    for place, lock in locks:
        for name, known in lock.files.items():
            yield _check(lock.tinker_path, place / name, known)
        for file in _others(place, set(lock.files)):
            size = file.stat().st_size if file.is_file() else None
            yield VerifiedFile(lock.tinker_path, file, size, "extra", "not of the download")


def _below(root: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(PREFIX))
        if manifest.NAME in files:
            found.append(Path(folder))
    return found


def _check(path: str, file: Path, known: LockedFile) -> VerifiedFile:
    try:
        size = file.stat().st_size
        if not file.is_file():
            return VerifiedFile(path, file, None, "missing", "not a file")
        if size != known.size_bytes:
            reason = f"{size} bytes instead of {known.size_bytes}"
            return VerifiedFile(path, file, size, "changed", reason)
        if known.sha256 is not None and manifest.digest(file) != known.sha256:
            return VerifiedFile(path, file, size, "changed", "other content of the same size")
    except (FileNotFoundError, NotADirectoryError):
        return VerifiedFile(path, file, None, "missing", "no such file")
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or '').lower()}"
        return VerifiedFile(path, file, None, "changed", reason)
    doubt = None if known.sha256 else "by its size alone: the note has no SHA-256"
    return VerifiedFile(path, file, size, "ok", doubt)


def _others(place: Path, known: set[str]) -> Iterator[Path]:
    """Yield files beside the known ones, other checkpoints left out."""
    for folder, folders, files in os.walk(place):
        here = Path(folder)
        if here != place and manifest.NAME in files:
            folders[:] = []
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(PREFIX))
        for name in sorted(files):
            file = here / name
            if file.relative_to(place).as_posix() not in {*known, manifest.NAME}:
                yield file
