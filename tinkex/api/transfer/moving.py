"""Several checkpoints brought home: each into a directory of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tinkex.api.http.concurrency import each
from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import manifest
from tinkex.api.transfer.download import Download
from tinkex.api.transfer.progress import OnProgress, Progress
from tinkex.exceptions import LocalError, TinkexError

#: Checkpoints under way at once; each has several connections.
_CONCURRENCY = 3
#: Characters of ids and names that file systems everywhere take.
_PLAIN = " !@()+,=[]{}~"


@dataclass(frozen=True)
class Moved:
    """A checkpoint and what came of bringing it home.

    :ivar tinker_path: the checkpoint.
    :ivar directory: where it is, or would be.
    :ivar download: what was fetched; ``None`` if nothing had to be, or nothing could be.
    :ivar error: why it could not be.
    """

    tinker_path: str
    directory: Path
    download: Download | None = None
    error: TinkexError | None = None

    @property
    def present(self) -> bool:
        """Whether it was there already."""
        return self.download is None and self.error is None


Fetch = Callable[[TinkerPath, Path, bool, OnProgress | None], Download]


def directory_of(root: Path, path: TinkerPath, *, with_run: bool = True) -> Path:
    """Return the directory of *path* below *root*: ``<run>/<kind>/<name>``."""
    parts = [path.run_id, path.kind, path.name] if with_run else [path.kind, path.name]
    return root.joinpath(*map(_segment, parts))


def move(
    fetch: Fetch,
    places: Sequence[tuple[TinkerPath, Path]],
    on_progress: OnProgress | None,
    *,
    force: bool = False,
) -> Iterator[Moved]:
    """Fetch checkpoints, some at a time; yield what came of each, in the order of *places*.

    What is there already is left out; what is there in part is replaced.

    :param fetch: downloads one into a directory, replacing files or not.
    :param force: fetch all of them, and replace files of the same names.
    """
    together = _Together(on_progress, len(places))

    def work(place: tuple[TinkerPath, Path]) -> Download | None:
        path, directory = place
        heard = together.part(path)
        if not force and manifest.holds(directory, path):
            return None
        return fetch(path, directory, force or _is_ours(directory, path), heard)

    missing = _missing(directory for _, directory in places)
    try:
        for (path, directory), done, error in each(work, places, workers=_CONCURRENCY):
            yield Moved(str(path), directory, done, error)
    finally:
        # One download leaves a directory that another one still needs; nobody removes it then.
        for directory in missing:
            with suppress(OSError):
                directory.rmdir()


def _missing(directories: Iterable[Path]) -> list[Path]:
    """Return which of *directories* and their parents are not there, the deepest first."""
    wanted = {place for directory in directories for place in (directory, *directory.parents)}
    missing = [place for place in wanted if not os.path.exists(place)]
    return sorted(missing, key=lambda place: len(place.parts), reverse=True)


class _Together:
    """Adds up the progress of several downloads."""

    def __init__(self, on_progress: OnProgress | None, count: int) -> None:
        self._on_progress, self._count = on_progress, count
        self._lock = threading.Lock()
        self._latest: dict[TinkerPath, Progress] = {}

    def part(self, path: TinkerPath) -> OnProgress | None:
        """Return what is to be told about the download of *path*."""
        tell = self._on_progress
        if tell is None:
            return None

        def heard(progress: Progress) -> None:
            with self._lock:
                self._latest[path] = progress
                done = sum(one.done_bytes for one in self._latest.values())
                begun = f"{len(self._latest)} of {self._count}: " if self._count > 1 else ""
                tell(Progress(done, self._total(), f"{begun}{path.name}/{progress.file}"))

        return heard

    def _total(self) -> int | None:
        totals = [progress.total_bytes for progress in self._latest.values()]
        known = [total for total in totals if total is not None]
        return sum(known) if len(known) == len(totals) == self._count else None


def _is_ours(directory: Path, path: TinkerPath) -> bool:
    """Tell whether *directory* holds an earlier download of *path*, now incomplete."""
    try:
        lock = manifest.read(directory)
    except LocalError:
        return False
    return lock is not None and lock.tinker_path == str(path)


def _segment(text: str) -> str:
    quoted = quote(text, safe=_PLAIN + (":" if Path("a:b").parts == ("a:b",) else ""))
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
