"""The results that a batch writes.

Each result is one line, written at once. Next to ``OUT.jsonl`` are ``OUT.batch.json``, which
records how the results were made, and ``OUT.failed.jsonl`` with the rows that failed. To resume,
rows with a complete line count as done; an incomplete last line is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from tinkex.exceptions import LocalError, UsageError
from tinkex.files import (
    acquire_lock,
    check_writable,
    is_within,
    replacing,
    user_path,
    write_atomically,
)

__all__ = ["ResultsFile", "ResultsMoved"]

_VERSION = 1
#: Start of the line of a row that has no result.
_NOWHERE = 2**64 - 1
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class ResultsMoved(LocalError):
    """The results file was moved, removed or changed during the run."""


class ResultsFile:
    """The results of a batch, one line each, and the files next to it.

    :param output: name of the file.
    :param made_by: the options that the results depend on; resuming requires the same ones.
    :param total: number of rows in all.
    :ivar done: number of rows with a line.
    :ivar failed_path: file for the rows that failed.
    """

    def __init__(self, output: str, made_by: Mapping[str, Any], total: int) -> None:
        check_writable(output)
        self.name = output
        self.done = 0
        self._path = user_path(output)
        stem = str(self._path).removesuffix(".jsonl")
        self._record_path = Path(f"{stem}.batch.json")
        self.failed_path = Path(f"{stem}.failed.jsonl")
        self._made_by = dict(made_by)
        self._starts = array("Q", [_NOWHERE]) * total
        self._end = 0
        self._file: IO[bytes] | None = None
        self._opened: os.stat_result | None = None
        self._failures: IO[bytes] | None = None

    def check_apart_from(self, prompts: str) -> None:
        """Check that no results file is among the prompts.

        :param prompts: name of a file or directory.
        :raises UsageError: a results file is among them, or would be in the prompts directory.
        """
        is_directory = user_path(prompts).is_dir()
        for path in (self._path, self.failed_path, self._record_path):
            if is_within(path, prompts):
                is_in = "is in the prompts directory" if is_directory else "contains the prompts"
                raise UsageError(
                    f"cannot write {path}: it {is_in}",
                    hint="Choose another file for the results with --output.",
                )

    def check(self, *, resume: bool, force: bool) -> None:
        """Check whether :meth:`open` would fail, without changing anything.

        :raises UsageError: the file exists, and may be neither resumed nor replaced, or it was
            made with other options or prompts.
        """
        if not self._path.exists():
            return
        if not self._path.is_file():
            raise UsageError(
                f"{self.name} is not a regular file",
                hint="Omit --output to write the results to standard output.",
            )
        if force or self._is_blank():
            return
        if not resume:
            raise UsageError(
                f"{self.name} already exists",
                hint="Add --resume to process the remaining prompts, or --force to start over.",
            )
        try:
            before = dict(json.loads(self._record_path.read_bytes())["made_by"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"cannot resume {self.name}: its record file {self._record_path} is "
                "missing or invalid",
                hint="Use --force to start over.",
            ) from error
        for name, now in self._made_by.items():
            if before.get(name) != now:
                option = f"--{name.replace('_', '-')} {json.dumps(before.get(name))}"
                made_with = f"{option}, but this run uses {json.dumps(now)}"
                raise UsageError(
                    f"{self.name} was created with "
                    + ("different prompts" if name == "prompts" else made_with),
                    hint="Use the original prompts and options, or start over with --force.",
                )

    def open(self, *, resume: bool) -> None:
        """Open the file for writing; ``done`` counts the rows that it has.

        :param resume: keep its rows; otherwise it is emptied.
        :raises LocalError: a file cannot be written, or another run is writing it.
        """
        resume = resume and self._path.exists() and not self._is_blank()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
            if not acquire_lock(self._file):
                raise LocalError(
                    f"another batch is writing to {self.name}",
                    hint="Wait until it finishes, or choose another file with --output.",
                )
            self._opened = os.fstat(self._file.fileno())
            if resume:
                self._read_done(self._file)
            else:
                self._file.truncate(0)
                record = {"version": _VERSION, "made_by": self._made_by}
                write_atomically(str(self._record_path), json.dumps(record, indent=2) + "\n")
            self.failed_path.unlink(missing_ok=True)  # failed rows are sampled again
        except OSError as error:
            raise LocalError(f"cannot write {self.name}: {error.strerror}") from error

    def __contains__(self, index: int) -> bool:
        """Return whether the row *index* is done."""
        return self._starts[index] != _NOWHERE

    def write(self, index: int, record: Mapping[str, Any]) -> None:
        """Write the line of the row *index*: completely, or not at all.

        :raises ResultsMoved: the file was moved, removed or changed.
        :raises LocalError: it cannot be written.
        """
        self.check_in_place()
        assert self._file is not None
        line = _line(record)
        try:
            _write_all(self._file, line)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise LocalError(
                f"cannot write {self.name}: {error.strerror}",
                hint="All lines in the file are complete.",
            ) from error
        self._starts[index] = self._end
        self._end += len(line)
        self.done += 1

    def check_in_place(self) -> None:
        """Check that the file has not been moved, removed or changed.

        :raises ResultsMoved: it has been.
        """
        assert self._opened is not None
        try:
            found = os.stat(self._path)
            moved = not os.path.samestat(found, self._opened)
        except OSError:
            moved = True
        if moved or found.st_size != self._end:
            how = "moved or removed" if moved else "changed by another program"
            raise ResultsMoved(
                f"{self.name} was {how} during the batch",
                hint="Restore the file before you resume, so that no rows are processed again.",
            )

    def write_failed(self, record: Mapping[str, Any]) -> None:
        """Write the line of a row that failed.

        :raises LocalError: it cannot be written.
        """
        try:
            if self._failures is None:
                self._failures = self.failed_path.open("wb", buffering=0)
            _write_all(self._failures, _line(record))
        except OSError as error:
            raise LocalError(f"cannot write {self.failed_path}: {error.strerror}") from error

    def sort(self) -> None:
        """Sort the lines by row; the file is replaced in one step.

        :raises LocalError: there is no space for a second copy; the file is unchanged.
        """
        starts = [start for start in self._starts if start != _NOWHERE]
        if all(one < other for one, other in pairwise(starts)):
            return
        target = Path(os.path.realpath(self._path))
        try:
            with target.open("rb") as lines, replacing(target) as ordered:
                for start in starts:
                    lines.seek(start)
                    ordered.write(lines.readline())
        except OSError as error:
            raise LocalError(
                f"cannot sort {self.name}: {error.strerror}",
                hint="The file contains all results, in order of completion.",
            ) from error

    def close(self) -> None:
        """Flush everything to the disk, and close the files."""
        for file in (self._file, self._failures):
            if file is not None:
                with contextlib.suppress(OSError):
                    os.fsync(file.fileno())
                file.close()
        self._file = self._failures = None

    def _is_blank(self) -> bool:
        """Return whether a run was killed, or its disk was full, before it wrote anything."""
        return self._path.stat().st_size == 0 and not self._record_path.exists()

    def _read_done(self, file: IO[bytes]) -> None:
        """Find the rows that are done, and drop an incomplete last line."""
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                index = _index(line)
                if index is None or not index < len(self._starts):
                    raise LocalError(
                        f"{self.name}, line {number} is not a result of this batch",
                        hint="Remove that line, or start over with --force.",
                    )
                if index not in self:
                    self._starts[index] = self._end
                    self.done += 1
                self._end += len(line)
        file.truncate(self._end)


def _line(record: Mapping[str, Any]) -> bytes:
    # Half a surrogate pair has no encoding; its escape is valid JSON.
    return _encode(record).encode("utf-8", "backslashreplace") + b"\n"


def _write_all(file: IO[bytes], line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


def _index(line: bytes) -> int | None:
    try:
        value = json.loads(line)["index"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if type(value) is int and value >= 0 else None
