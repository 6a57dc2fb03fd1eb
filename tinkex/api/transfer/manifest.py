"""The manifest ``tinkex.lock.json`` of a downloaded checkpoint: its files, sizes and SHA-256."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinkex.api.paths import TinkerPath
from tinkex.api.transfer.directory import Directory
from tinkex.exceptions import LocalError
from tinkex.files import replacing

NAME = "tinkex.lock.json"
#: The configuration file of an adapter, in the format of PEFT (``peft.LoraConfig``).
ADAPTER_CONFIG = "adapter_config.json"
#: Maximum size of a manifest in bytes, a hundred times that of the largest checkpoint.
_MAX_SIZE = 64 * 1024 * 1024
#: Version of the format, incremented when the meaning of a member changes.
VERSION = 1


@dataclass(frozen=True)
class ManifestFile:
    """The manifest's entry for a file, as it was downloaded.

    :ivar size_bytes: its size.
    :ivar sha256: hexadecimal digest; ``None`` in manifests of early versions.
    """

    size_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    :ivar tinker_path: the checkpoint.
    :ivar files: the files by relative name.
    """

    tinker_path: str
    files: Mapping[str, ManifestFile]


def write(directory: Directory, path: TinkerPath, files: Mapping[Path, ManifestFile]) -> Path:
    """Write the manifest of the *files* of *path* into *directory*; return its relative path.

    The base model and the rank are read from the adapter's configuration.
    """
    config: Any = {}
    with (
        suppress(OSError, ValueError, RecursionError),
        directory.open(ADAPTER_CONFIG, "rb") as file,
    ):
        config = json.loads(file.read())
    if not isinstance(config, dict):
        config = {}
    base_model, rank = config.get("base_model_name_or_path"), config.get("r")
    content = {
        "version": VERSION,
        "tinker_path": str(path),
        "run_id": path.run_id,
        "base_model": base_model if isinstance(base_model, str) else None,
        "lora_rank": rank if type(rank) is int else None,
        "files": [{"name": name.as_posix(), **vars(file)} for name, file in sorted(files.items())],
    }
    with directory.open(NAME, "wb") as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")
    return Path(NAME)


def read(directory: Path) -> Manifest | None:
    """Return the manifest in *directory*, or ``None`` if there is none.

    :raises LocalError: it cannot be read, or is malformed.
    """
    place = directory / NAME
    try:
        with closing(Directory.at(directory)) as parent, parent.open(NAME, "rb") as file:
            return parse(file.read(_MAX_SIZE) or b"")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LocalError(f"cannot read {place}: {error.strerror}") from error
    except ValueError as error:
        hint = "Download the checkpoint again, replacing the existing files."
        raise LocalError(f"{place} is not a valid manifest", hint=hint) from error


def parse(content: bytes) -> Manifest:
    """Parse *content* as a manifest.

    :raises ValueError: it is not a manifest, or names files outside of its directory.
    """
    files: dict[str, ManifestFile] = {}
    try:
        found = json.loads(content)
        path = found["tinker_path"]
        is_valid = isinstance(path, str)
        for file in found["files"]:
            name, size, sha256 = file["name"], file["size_bytes"], file.get("sha256")
            is_valid &= is_relative_name(name) and type(size) is int
            is_valid &= isinstance(sha256, str | None)
            files[Path(name).as_posix()] = ManifestFile(size, sha256)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a manifest") from error
    if not is_valid:
        raise ValueError("not a manifest")
    return Manifest(path, files)


def record_change(
    directory: Path, name: str, file: ManifestFile, original: Mapping[str, Any]
) -> None:
    """Update the entry of the file *name* in the manifest in *directory*.

    :param original: values that the change replaces, kept in the manifest.
    :raises OSError: it cannot be read or written.
    :raises ValueError: it is not a manifest.
    """
    content = json.loads((directory / NAME).read_bytes())
    for known in content["files"]:
        if Path(known["name"]).as_posix() == name:
            known |= {**vars(file), "original": {**original, **known.get("original", {})}}
    with replacing(directory / NAME) as stream:
        stream.write(json.dumps(content, indent=2).encode() + b"\n")


def read_of(directory: Path, path: TinkerPath) -> Manifest | None:
    """Return the manifest in *directory* if it is readable and belongs to *path*."""
    with suppress(LocalError):
        found = read(directory)
        if found is not None and found.tinker_path == str(path):
            return found
    return None


def is_complete(directory: Path, path: TinkerPath) -> bool:
    """Return whether *directory* contains all files of *path* with the right sizes."""
    found = read_of(directory, path)
    files = found.files if found else {}
    try:
        return bool(files) and all(
            (directory / name).stat().st_size == file.size_bytes for name, file in files.items()
        )
    except OSError:
        return False


def is_relative_name(name: Any) -> bool:
    """Return whether *name* is a relative path that cannot leave its parent directory."""
    if not isinstance(name, str):
        return False
    relative = Path(name)
    return bool(relative.parts) and not relative.is_absolute() and ".." not in relative.parts
