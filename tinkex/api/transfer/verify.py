"""Checks of downloaded files: against their manifest, and weights against their own header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from tinkex.api.transfer import manifest
from tinkex.api.transfer.archive import MAX_PARTS
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.manifest import Manifest, ManifestFile
from tinkex.api.transfer.staging import PREFIX
from tinkex.exceptions import InvalidResponse, LocalError
from tinkex.files import path_of

Status = Literal["ok", "missing", "changed", "extra"]

_WEIGHTS = ".safetensors"
_LENGTH = 8
#: Maximum size of the header of a file of weights, in bytes; the format sets it.
_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class VerifiedFile:
    """A file and the result of its check.

    :ivar tinker_path: the checkpoint that it belongs to.
    :ivar file: where it is.
    :ivar size_bytes: its size now; ``None`` if it is missing.
    :ivar status: ``ok``, ``missing``, ``changed``, or ``extra`` for a file that the download did
        not install.
    :ivar reason: what is wrong, in words.
    """

    tinker_path: str
    file: Path
    size_bytes: int | None
    status: Status
    reason: str | None = None

    @property
    def good(self) -> bool:
        """Whether nothing is wrong; files of other origin do no harm."""
        return self.status in ("ok", "extra")


def verify(directory: Path | str) -> Iterator[VerifiedFile]:
    """Check the checkpoint in *directory*, or all of them below it, without the network.

    :raises LocalError: there is none, or a manifest cannot be read.
    """
    root = path_of(directory)
    try:
        return _verified(root)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise LocalError(f"cannot read {error.filename or root}: {reason}") from error


def _verified(root: Path) -> Iterator[VerifiedFile]:
    hint = "Name a directory with a downloaded checkpoint."
    if not root.is_dir():
        what = f"{root} is not a directory" if root.exists() else f"no directory {root}"
        raise LocalError(what, hint=hint)
    places = [root]
    if not (root / manifest.NAME).is_file():
        places = [Path(folder) for folder, _, files in _walk(root) if manifest.NAME in files]
    if not places:
        what = f"no downloaded checkpoint in {root}: there is no {manifest.NAME}"
        raise LocalError(what, hint=hint)
    # Every manifest is read before the first file is.
    found = [(place, known) for place in places if (known := manifest.read(place)) is not None]
    return _checked(found)


def _checked(found: list[tuple[Path, Manifest]]) -> Iterator[VerifiedFile]:
    for place, known in found:
        for name, file in known.files.items():
            yield _check(known.tinker_path, place / name, file)
        for path in _others(place, {*known.files, manifest.NAME}):
            size = path.stat().st_size if path.is_file() else None
            yield VerifiedFile(known.tinker_path, path, size, "extra", "not of the download")


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as :func:`os.walk` does, in order, without staging directories or absurd depths."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(PREFIX))
        if folder.count(os.sep) > str(root).count(os.sep) + MAX_PARTS:
            folders.clear()
        yield folder, folders, sorted(files)


def _check(path: str, file: Path, known: ManifestFile) -> VerifiedFile:
    try:
        size = file.stat().st_size
        if not file.is_file():
            return VerifiedFile(path, file, None, "missing", "not a file")
        if size != known.size_bytes:
            reason = f"{size} bytes instead of {known.size_bytes}"
            return VerifiedFile(path, file, size, "changed", reason)
        with file.open("rb") as content:
            if known.sha256 not in (None, hashlib.file_digest(content, "sha256").hexdigest()):
                return VerifiedFile(path, file, size, "changed", "other content of the same size")
    except (FileNotFoundError, NotADirectoryError):
        return VerifiedFile(path, file, None, "missing", "no such file")
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or '').lower()}"
        return VerifiedFile(path, file, None, "changed", reason)
    doubt = None if known.sha256 else "by its size alone: the manifest has no SHA-256"
    return VerifiedFile(path, file, size, "ok", doubt)


def _others(place: Path, known: set[str]) -> Iterator[Path]:
    """Yield the files in *place* that are not *known*, without those of other checkpoints."""
    for folder, folders, files in _walk(place):
        if folder != str(place) and manifest.NAME in files:
            folders.clear()
            continue
        for name in files:
            file = Path(folder, name)
            if file.relative_to(place).as_posix() not in known:
                yield file


# Weights ------------------------------------------------------------------------------------------


def check_weights(directory: Directory, files: Iterable[Path]) -> None:
    """Compare the size of downloaded weights with the size that their own header gives.

    A storage that announces no length, or too small a one, can lose the end of a file unnoticed.
    The safetensors format (https://huggingface.co/docs/safetensors) begins with 8 bytes for the
    length of a header, and the JSON header gives the offsets of all tensors up to the end.

    :param files: relative paths; those of other formats are not checked.
    :raises InvalidResponse: one is shorter or longer than its header says.
    :raises OSError: one cannot be read.
    """
    for relative in files:
        if relative.suffix != _WEIGHTS:
            continue
        with directory.open(relative, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            expected = _size_by_header(file)
        if expected is not None and expected != size:
            raise InvalidResponse(
                f"{relative} came with {size} bytes, and is {expected} long by its own header"
            )


def _size_by_header(file: FileIO) -> int | None:
    """Return the minimum size of *file* by its header; ``None`` if it is of another format."""
    length = int.from_bytes(file.read(_LENGTH), "little")
    # A file of another format may give any length: it is not read into memory.
    header = file.read(1)
    if not 0 < length <= _MAX_HEADER or header != b"{":
        return None
    header += file.read(length - 1)
    if len(header) < length:
        return _LENGTH + length
    try:
        tensors: Any = json.loads(header)
        ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        return _LENGTH + length + max(map(int, ends), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
