"""Verification of downloaded files against their manifest and their formats."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tinkex.api.transfer import adapter, content, manifest
from tinkex.api.transfer.adapter import AdapterMismatch
from tinkex.api.transfer.archive import MAX_PARTS
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.manifest import ADAPTER_CONFIG, Manifest, ManifestFile
from tinkex.api.transfer.staging import PREFIX, local_errors
from tinkex.exceptions import LocalError
from tinkex.files import path_of, replacing

Status = Literal["ok", "missing", "changed", "invalid", "extra"]


@dataclass(frozen=True)
class VerifiedFile:
    """The result of checking one file.

    :ivar tinker_path: the checkpoint that it belongs to.
    :ivar file: its path.
    :ivar size_bytes: its size now; ``None`` if it is missing.
    :ivar status: ``ok``, ``missing``, ``changed``, ``invalid`` for a file that is unchanged but
        whose content does not match its name, or ``extra`` for a file that the download did not
        install.
    :ivar reason: description of the problem.
    :ivar mismatch: for an adapter configuration, the tensors that PEFT would not load.
    """

    tinker_path: str
    file: Path
    size_bytes: int | None
    status: Status
    reason: str | None = None
    mismatch: AdapterMismatch | None = None

    @property
    def good(self) -> bool:
        """Whether the check found no problem; an extra file is not a problem."""
        return self.status in ("ok", "extra")


def verify(directory: Path | str, *, fix_config: bool = False) -> Iterator[VerifiedFile]:
    """Check the checkpoint in *directory*, or all checkpoints below it, without the network.

    :param fix_config: if ``target_modules`` of an adapter's configuration lacks modules that have
        tensors, add them; the manifest keeps the previous values.
    :raises LocalError: there is no checkpoint, or a file cannot be read or written.
    """
    root = path_of(directory)
    try:
        return _verified(root, fix_config)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise LocalError(f"cannot read {error.filename or root}: {reason}") from error


def _verified(root: Path, fix_config: bool) -> Iterator[VerifiedFile]:
    hint = "Specify a directory that contains a downloaded checkpoint."
    if not root.is_dir():
        what = f"{root} is not a directory" if root.exists() else f"no such directory: {root}"
        raise LocalError(what, hint=hint)
    places = [root]
    if not (root / manifest.NAME).is_file():
        places = [Path(folder) for folder, _, files in _walk(root) if manifest.NAME in files]
    if not places:
        what = f"no downloaded checkpoint in {root}: there is no {manifest.NAME}"
        raise LocalError(what, hint=hint)
    # All manifests are read before the first file.
    found = [(place, known) for place in places if (known := manifest.read(place)) is not None]
    return _checked(found, fix_config)


def _checked(found: list[tuple[Path, Manifest]], fix_config: bool) -> Iterator[VerifiedFile]:
    for place, known in found:
        for name, file in known.files.items():
            checked = _check(known.tinker_path, place / name, file)
            if checked.file.name == ADAPTER_CONFIG:
                checked = _compared(place, name, checked, file, fix_config)
            yield checked
        for path in _others(place, {*known.files, manifest.NAME}):
            size = path.stat().st_size if path.is_file() else None
            yield VerifiedFile(known.tinker_path, path, size, "extra", "not part of the download")


def _compared(
    place: Path, name: str, checked: VerifiedFile, known: ManifestFile, fix_config: bool
) -> VerifiedFile:
    """Compare a configuration with its tensors; fix it, unless its file has been changed."""
    with local_errors(place), closing(Directory.at(place)) as directory:
        mismatch = adapter.examine(directory, Path(name))
        if mismatch is None:
            return checked
        if fix_config and mismatch.is_fixable:
            text, original = adapter.fixed(directory, Path(name), mismatch)
            new = ManifestFile(len(text), hashlib.sha256(text).hexdigest())
            if checked.status == "ok" or new == known:
                # The manifest is replaced first, so that another call completes an interrupted
                # fix. A full disk leaves both unchanged.
                with replacing(checked.file) as stream:
                    stream.write(text)
                    stream.flush()
                    manifest.record_change(place, name, new, original)
                reason = "set target_modules to: " + ", ".join(mismatch.modules)
                return replace(checked, size_bytes=len(text), status="ok", reason=reason)
    return replace(checked, mismatch=mismatch)


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk like :func:`os.walk`, sorted, without staging directories and up to a maximum depth."""
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
        with file.open("rb") as opened:
            if known.sha256 not in (None, hashlib.file_digest(opened, "sha256").hexdigest()):
                return VerifiedFile(path, file, size, "changed", "different content, same size")
            opened.seek(0)
            try:
                content.check(file.name, opened)
            except ValueError as error:
                return VerifiedFile(path, file, size, "invalid", str(error))
    except (FileNotFoundError, NotADirectoryError):
        return VerifiedFile(path, file, None, "missing", "no such file")
    except OSError as error:
        reason = f"cannot be read: {(error.strerror or '').lower()}"
        return VerifiedFile(path, file, None, "changed", reason)
    doubt = None if known.sha256 else "only the size was checked: the manifest has no SHA-256 hash"
    return VerifiedFile(path, file, size, "ok", doubt)


def _others(place: Path, known: set[str]) -> Iterator[Path]:
    """Yield the files in *place* that are not *known*, except those of other checkpoints."""
    for folder, folders, files in _walk(place):
        if folder != str(place) and manifest.NAME in files:
            folders.clear()
            continue
        for name in files:
            file = Path(folder, name)
            if file.relative_to(place).as_posix() not in known:
                yield file
