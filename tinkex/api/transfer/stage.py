"""A hidden directory where a download grows, found again by the next attempt."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinkex.api.paths import TinkerPath
from tinkex.api.transfer.progress import Stopped
from tinkex.exceptions import LocalError

try:
    import fcntl
except ImportError:  # not a Unix: two processes are not kept apart
    fcntl = None  # type: ignore[assignment]

#: Beginning of the directory's name; what follows is made of the checkpoint and the target.
PREFIX = ".tinkex-download-"
#: Seconds between two notes of how far a file is; a killed program loses no more than that.
_INTERVAL = 1.0
_JOURNAL = "journal.json"
_VERSION = 1


class Stage:
    """The directory of one download: files that are whole, parts of others, and a journal.

    :param root: the directory, made if need be; see :func:`place_of`.
    :param path: the checkpoint.
    :raises LocalError: another process is at it.

    :ivar content: directory of the files that are complete.
    :ivar parts: directory of those that are not.
    :ivar journal: what is known about them; JSON, written by :meth:`save`.
    """

    def __init__(self, root: Path, path: TinkerPath | str) -> None:
        self.root = root
        self.content, self.parts = self.root / "content", self.root / "parts"
        self._path = path
        self._saved = 0.0
        self._guard = threading.Lock()
        self._closed = False
        self._lock = _locked(self.root, path)
        try:
            self.content.mkdir(exist_ok=True)
            self.parts.mkdir(exist_ok=True)
            self.journal = journal_of(root)
            if self.journal.get("tinker_path") != str(path):
                self.clear()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self, *, keep: bool) -> None:
        """Let others have it; without *keep*, remove it. Only the first call does anything."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
        if not keep:
            shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._lock)

    def clear(self) -> None:
        """Forget what has arrived."""
        for directory in (self.content, self.parts):
            shutil.rmtree(directory)
            directory.mkdir()
        self.journal = {"version": _VERSION, "tinker_path": str(self._path)}
        self.save()  # what arrives from now on must not be taken for what was noted before

    def bytes(self) -> int:
        """Return how many bytes of a journalled file are here."""
        entries = self.journal.get("files", {}).values()
        done = sum(have - start for e in entries for start, have, _ in e["segments"])
        archive = self.journal.get("archive", {})
        return int(done) + sum(
            file.stat().st_size
            for file in (self.content.rglob("*") if archive else ())
            if file.is_file()
        )

    @contextmanager
    def changing(self, *, at_once: bool = False) -> Iterator[dict[str, Any]]:
        """Let one thread change the journal; it is saved now and then, or *at_once*.

        :raises Stopped: the stage is closed: a thread that an attempt has left behind, waiting
            for the network, must not touch what may be the next attempt's by now.
        """
        with self._guard:
            if self._closed:
                raise Stopped
            yield self.journal
            if at_once or time.monotonic() - self._saved > _INTERVAL:
                self._save()

    def save(self, *, durably: bool = False) -> None:
        """Write the journal; *durably* means that a machine that stops does not lose it."""
        with self._guard:
            self._save(durably)

    def _save(self, durably: bool = False) -> None:
        new = self.root / "journal.new"
        with open(new, "w", encoding="utf-8") as file:
            json.dump(self.journal, file)
            if durably:
                file.flush()
                os.fsync(file.fileno())
        new.replace(self.root / _JOURNAL)
        self._saved = time.monotonic()


def place_of(home: Path, path: TinkerPath, target: Path) -> Path:
    """Return the root of a stage in *home*: each checkpoint has another one for each target."""
    words = f"{path}\0".encode() + os.fsencode(target.absolute())
    return home / (PREFIX + hashlib.sha256(words).hexdigest()[:12])


def journal_of(root: Path) -> dict[str, Any]:
    """Return the journal of an earlier attempt; empty if there is none that can be used."""
    try:
        found = json.loads((root / _JOURNAL).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("version") == _VERSION else {}


def _locked(root: Path, path: TinkerPath | str) -> int:
    """Make *root* and return a descriptor that keeps other processes out of it."""
    while True:
        root.mkdir(exist_ok=True)
        try:
            handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # whoever had it has just finished
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(root / "lock")):
                return handle
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise LocalError(
                f"{path} is being downloaded to this place already, by another process",
                hint="Wait for it, or name another directory with --output.",
            ) from None
        os.close(handle)
