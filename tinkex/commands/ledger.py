"""The results of a long run in a file that no end of the program can spoil.

Each result is one line, written at once. Beside ``OUT.jsonl`` lie ``OUT.batch.json``, which says
how the results were made, and ``OUT.failed.jsonl`` with the rows that failed. A run that was cut
off goes on where it was: rows with a whole line are done, and a torn last line is not one.
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
from tinkex.files import check_writable, replacing, user_path, write_atomically

_VERSION = 1
_NOWHERE = 2**64 - 1


class Ledger:
    """Lines of results, each of one row of *total*.

    :param output: name of the file.
    :param made_by: what decides about results; a run goes on only with the same.
    :param total: rows in all.
    :ivar done: how many rows have their line.
    :ivar failed_path: file for the rows that failed.
    """

    def __init__(self, output: str, made_by: Mapping[str, Any], total: int) -> None:
        check_writable(output)
        self.name = output
        self.done = self.failed = 0
        self._path = user_path(output)
        stem = str(self._path).removesuffix(".jsonl")
        self._record_path = Path(f"{stem}.batch.json")
        self.failed_path = Path(f"{stem}.failed.jsonl")
        self._made_by = dict(made_by)
        self._starts = array("Q", [_NOWHERE]) * total
        self._end = 0
        self._file: IO[bytes] | None = None
        self._failures: IO[bytes] | None = None

    def keep_off(self, prompts: str) -> None:
        """Refuse to write over what is read, or into the directory that is.

        :param prompts: name of the file or directory.
        :raises UsageError: one of the files of results is, or would be, among the prompts.
        """
        source = Path(os.path.realpath(user_path(prompts)))
        for path in (self._path, self.failed_path, self._record_path):
            place = Path(os.path.realpath(path))
            if place.is_relative_to(source) or (place.exists() and place.samefile(source)):
                raise UsageError(
                    f"{path} is among the prompts"
                    if source.is_dir()
                    else f"{path} has the prompts",
                    hint="Put the results somewhere else with --output.",
                )

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse what :meth:`open` would, without changing anything.

        :raises UsageError: the file is there and neither is to be gone on with nor replaced, or it
            was made in another way.
        """
        if not self._path.exists():
            return
        if not self._path.is_file():
            raise UsageError(
                f"{self.name} is no regular file",
                hint="Results go to standard output where there is no --output.",
            )
        if force or self._is_blank():
            return
        if not resume:
            raise UsageError(
                f"{self.name} exists already",
                hint="To go on with it: --resume; to begin anew: --force.",
            )
        before = self._recorded()
        changed = [name for name in self._made_by if before.get(name) != self._made_by[name]]
        if changed:
            raise UsageError(
                f"{self.name} was made with {_told(changed[0], before, self._made_by)}",
                hint="Give the prompts and options of the first run, or begin anew with --force.",
            )

    def open(self, *, resume: bool) -> None:
        """Begin to write; the rows that are there already are counted in ``done``.

        :param resume: keep them; otherwise the file is emptied.
        :raises LocalError: a file cannot be written, or another run is writing it.
        """
        try:
            self._open(going_on=resume and self._path.exists() and not self._is_blank())
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                message = f"cannot write {self.name}: {error.strerror}"
                raise LocalError(message) from error
            raise

    def _is_blank(self) -> bool:
        """Tell whether a run ended, or its disk was full, before it had begun with the file."""
        return self._path.stat().st_size == 0 and not self._record_path.exists()

    def _open(self, *, going_on: bool) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        self._lock()
        if going_on:
            self._take_stock()
        else:
            self._file.truncate(0)
            record = {"version": _VERSION, "made_by": self._made_by}
            write_atomically(str(self._record_path), json.dumps(record, indent=2) + "\n")
        self.failed_path.unlink(missing_ok=True)  # what failed is tried again

    def __contains__(self, index: int) -> bool:
        """Tell whether the row *index* has its line."""
        return self._starts[index] != _NOWHERE

    def write(self, index: int, record: Mapping[str, Any]) -> None:
        """Write the line of the row *index*: whole, or not at all.

        :raises LocalError: it cannot be written.
        """
        assert self._file is not None
        line = _line(record)
        self._append(self._file, line, self.name, self._end)
        self._starts[index] = self._end
        self._end += len(line)
        self.done += 1

    def fail(self, record: Mapping[str, Any]) -> None:
        """Write the line of a row that failed.

        :raises LocalError: it cannot be written.
        """
        try:
            if self._failures is None:
                self._failures = self.failed_path.open("wb", buffering=0)
            self._append(self._failures, _line(record), str(self.failed_path), None)
        except OSError as error:
            raise LocalError(f"cannot write {self.failed_path}: {error.strerror}") from error
        self.failed += 1

    def sort(self) -> None:
        """Put the lines into the order of their rows; the file changes in one step.

        :raises LocalError: there is no room for a second copy; the file is as it was.
        """
        assert self._file is not None
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
                f"cannot put {self.name} into order: {error.strerror}",
                hint="It holds all results, in the order in which they were completed.",
            ) from error

    def close(self) -> None:
        """Let the system put everything on the disk, and let go of the files."""
        for file in (self._file, self._failures):
            if file is not None:
                with contextlib.suppress(OSError):
                    os.fsync(file.fileno())
                file.close()
        self._file = self._failures = None

    def _append(self, file: IO[bytes], line: bytes, name: str, end: int | None) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            if end is not None:
                with contextlib.suppress(OSError):
                    file.truncate(end)
            raise LocalError(
                f"cannot write {name}: {error.strerror}", hint="What it holds is whole."
            ) from error

    def _lock(self) -> None:
        assert self._file is not None
        try:
            import fcntl
        except ImportError:  # another system: nothing keeps two runs from one file there
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._taken() from error
        # Another run may have put its results into order, and ended, since the file was opened.
        try:
            current = os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            current = False
        if not current:
            raise self._taken()

    def _taken(self) -> LocalError:
        return LocalError(
            f"another run is writing {self.name}", hint="Wait for it, or choose another file."
        )

    def _recorded(self) -> dict[str, Any]:
        try:
            made_by = json.loads(self._record_path.read_bytes())["made_by"]
        except FileNotFoundError:
            made_by = None
        except OSError as error:
            raise LocalError(f"cannot read {self._record_path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError):
            made_by = None
        if not isinstance(made_by, dict):
            raise UsageError(
                f"nothing tells how {self.name} was made: {self._record_path} is missing or broken",
                hint="To begin anew: --force.",
            )
        return made_by

    def _take_stock(self) -> None:
        """Find out which rows have their line, and cut a torn last line off."""
        assert self._file is not None
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                index = _index(line)
                if index is None or not index < len(self._starts):
                    raise LocalError(
                        f"{self.name}, line {number} is no result of this run",
                        hint="Take it out, or begin anew with --force.",
                    )
                if index not in self:
                    self._starts[index] = self._end
                    self.done += 1
                self._end += len(line)
        self._file.truncate(self._end)


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # Half a surrogate pair can only be written as an escape, which is that of JSON as well.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _index(line: bytes) -> int | None:
    try:
        value = json.loads(line)["index"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return value if type(value) is int and value >= 0 else None


def _told(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if name == "prompts":
        return "other prompts"
    option = "--" + name.replace("_", "-")
    then = before.get(name)
    return f"{option} {json.dumps(then)}, and now it is {json.dumps(now[name])}"
