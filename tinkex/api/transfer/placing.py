"""Moving a finished download over what is there, so that no moment leaves a mixture.

Files can be exchanged one by one only. So what is to move is noted first; then the two files go
without which nothing takes the directory for an adapter; they are the last to come. Whoever comes
after a process that was killed finds the note and finishes the work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tinkex.api.transfer import manifest
from tinkex.api.transfer.stage import PREFIX, Stage, journal_of

#: Every loader of adapters asks for the first, as every program of ours for the second.
_CLAIMS = (Path("adapter_config.json"), Path(manifest.NAME))
#: Member of the stage's journal.
_ENTRY = "placing"

try:
    import fcntl
except ImportError:  # not a Unix: two processes are not kept apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep others from moving another checkpoint into *directory*; wait for who is at it.

    Each moves its files one by one: side by side they would leave a mixture.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        if fcntl is not None:
            with suppress(OSError):  # not every file system can
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def note(stage: Stage, files: list[Path], old: list[Path]) -> None:
    """Write down, durably, that *files* are about to leave the stage for its target.

    :param old: files of the target that go when the new ones come.
    """
    entry = {
        "files": [path.as_posix() for path in files],
        "old": [path.as_posix() for path in old if path not in set(files)],
    }
    with stage.changing() as journal:
        journal[_ENTRY] = entry
    stage.save(durably=True)


def is_noted(stage: Stage) -> bool:
    """Tell whether files of the stage have begun to move."""
    return _ENTRY in stage.journal


def place(stage: Stage, directory: Path) -> None:
    """Move what :func:`note` has noted, or what is left of it, into *directory*.

    :raises OSError: it cannot be moved; trying again goes on from there.
    """
    entry = stage.journal[_ENTRY]
    files, old = _paths(entry["files"]), _paths(entry["old"])
    waiting = {path for path in files if os.path.lexists(stage.content / path)}
    for path in reversed(_CLAIMS):
        if path in waiting or path in old:
            (directory / path).unlink(missing_ok=True)
    for path in sorted(waiting.difference(_CLAIMS)):
        os.replace(stage.content / path, directory / path)
    if waiting:
        for path in old:
            with suppress(OSError):
                (directory / path).unlink()
    for path in _CLAIMS:
        if path in waiting:
            os.replace(stage.content / path, directory / path)


def unfinished(directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield the stages in *directory* whose files have begun to move, each with its checkpoint."""
    for root in sorted(directory.glob(f"{PREFIX}*")):
        journal = journal_of(root)
        if isinstance(journal.get("tinker_path"), str) and _is_sound(journal.get(_ENTRY)):
            yield root, journal["tinker_path"]


def finish(directory: Path) -> list[str]:
    """Finish what killed processes have begun in *directory*; return which checkpoints came.

    :raises LocalError: another process is at it.
    :raises OSError: it cannot be moved.
    """
    found = []
    for root, path in unfinished(directory):
        stage = Stage(root, path)
        try:
            ours = _is_sound(stage.journal.get(_ENTRY))
            if ours:
                place(stage, directory)
                sync_directory(directory)
                found.append(path)
        except BaseException:
            stage.close(keep=True)
            raise
        stage.close(keep=not ours)
    return found


def sync_directory(directory: Path) -> None:
    """Make what has been renamed in *directory* durable, where the system can do that."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _paths(names: list[str]) -> list[Path]:
    return [Path(name) for name in names]


def _is_sound(entry: Any) -> bool:
    """Tell whether *entry* can be one of ours: all files that it names are in the directory."""
    if not isinstance(entry, dict):
        return False
    names = [entry.get("files"), entry.get("old")]
    return all(isinstance(part, list) and all(map(manifest.is_below, part)) for part in names)
