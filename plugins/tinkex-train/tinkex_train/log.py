"""The directory of a training run.

Its files have the formats of the official cookbook (0.6, ``supervised.train``), so that its recipes
and viewers can read them: ``config.json``, ``metrics.jsonl`` with a line per step, and
``checkpoints.jsonl`` with a line per checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

from tinkex.exceptions import LocalError, UsageError
from tinkex.files import locked, replacing, user_path

CONFIG, METRICS, CHECKPOINTS = "config.json", "metrics.jsonl", "checkpoints.jsonl"
#: Members of the configuration that may change when a run is resumed.
_FREE = ("log_path", "save_every", "eval_every", "tinkex_train")


class RunDirectory:
    """The files of a run; files of other users are rejected.

    :param name: the directory, created by :meth:`lock`.
    :raises LocalError: the path is not a directory.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = user_path(name)
        self._stack = ExitStack()
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise LocalError(
                f"{name} is not a directory", hint="Choose another directory with --output."
            )

    def is_used(self) -> bool:
        """Return whether a run has written to the directory.

        :raises LocalError: a file is a link, or belongs to another user.
        """
        found = {self._is_own(name) for name in (CONFIG, METRICS, CHECKPOINTS)}  # all are checked
        return True in found

    def _is_own(self, name: str) -> bool:
        """Return whether the file *name* exists.

        :raises LocalError: it is not a regular file of this user: a cloned repository, or another
            user, may have put it there.
        """
        try:
            found = (self.path / name).lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._not_read(name, error) from error
        is_mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        if stat.S_ISREG(found.st_mode) and is_mine:
            return True
        why = "belongs to another user" if stat.S_ISREG(found.st_mode) else "is not a regular file"
        raise LocalError(
            f"{self.path / name} {why}", hint="Choose another directory with --output."
        )

    def last_checkpoint(self) -> dict[str, Any] | None:
        """Return the last line of ``checkpoints.jsonl`` that training can resume from.

        :raises LocalError: the file cannot be read, or that line is malformed.
        """
        found = None
        for row in self._rows(CHECKPOINTS):
            if row.get("state_path"):
                found = row
        if found is not None:
            numbers = [found.get("epoch"), found.get("batch")]
            if not all(type(n) is int and n >= 0 for n in numbers) or not isinstance(
                found["state_path"], str
            ):
                raise self._malformed(CHECKPOINTS)
        return found

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Check that a resumed run has the same configuration.

        :raises UsageError: the configuration differs.
        """
        try:
            before = json.loads((self.path / CONFIG).read_bytes())
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._not_read(CONFIG, error) from error
        except (ValueError, RecursionError) as error:
            raise self._malformed(CONFIG) from error
        if not isinstance(before, dict):
            raise self._malformed(CONFIG)
        for name, old, new in _differences(before, config):
            what = f"the run in {self.name} was started with {name} {json.dumps(old)}, not "
            what += json.dumps(new)
            if name.endswith("sha256"):
                what = f"the data of the run in {self.name} has changed since the run was started"
            raise UsageError(
                what,
                hint="Use the same options and files as before, or choose another directory with "
                "--output.",
            )

    def lock(self) -> None:
        """Create the directory, and lock it against other processes.

        :raises LocalError: it cannot be written, or another process uses it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_written(error) from error
        self._stack.enter_context(locked(self.path / METRICS))

    def begin(self, config: Mapping[str, Any], step: int) -> None:
        """Write the configuration, and move away the metrics from step *step* on.

        They are moved to ``metrics.jsonl.pre_resume_000020``, for example.

        :raises LocalError: a file cannot be written.
        """
        try:
            with replacing(self.path / CONFIG) as file:
                file.write((json.dumps(config, indent=2) + "\n").encode())
            self._drop_metrics(step)
        except OSError as error:
            raise self._not_written(error) from error

    def _drop_metrics(self, step: int) -> None:
        kept: list[str] = []
        dropped: list[str] = []
        for row in self._rows(METRICS):
            is_later = not isinstance(row.get("step"), int) or row["step"] >= step
            (dropped if is_later else kept).append(json.dumps(row))
        if dropped:
            for name, lines in ((f"{METRICS}.pre_resume_{step:06d}", dropped), (METRICS, kept)):
                with replacing(self.path / name) as file:
                    file.write("".join(f"{line}\n" for line in lines).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics so far."""
        return list(self._rows(METRICS))

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``; numbers that are not finite become null."""
        self._append(METRICS, row)

    def add_checkpoint(self, row: Mapping[str, Any]) -> None:
        """Append a line to ``checkpoints.jsonl``."""
        self._append(CHECKPOINTS, row)

    def close(self) -> None:
        """Unlock the directory; remove it if nothing was written."""
        lock = f".{METRICS}.lock"
        with suppress(OSError):
            if os.listdir(self.path) == [lock]:
                (self.path / lock).unlink()
                self.path.rmdir()
        self._stack.close()

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a line: completely, or not at all.

        :raises LocalError: it cannot be written.
        """
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        line = (json.dumps(finite, allow_nan=False) + "\n").encode()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            handle = os.open(self.path / name, flags, 0o666)
            with os.fdopen(handle, "ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    rest = memoryview(line)
                    while rest:
                        rest = rest[file.write(rest) or 0 :]
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise self._not_written(error) from error

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the lines of a file; a last line without an end was not written completely."""
        if not self._is_own(name):
            return
        try:
            content = (self.path / name).read_bytes()
            for line in content[: content.rfind(b"\n") + 1].splitlines():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise self._malformed(name)
                yield row
        except OSError as error:
            raise self._not_read(name, error) from error
        except (ValueError, RecursionError) as error:
            raise self._malformed(name) from error

    def _malformed(self, name: str) -> LocalError:
        return LocalError(
            f"{self.path / name} is not a valid training run file",
            hint="Choose another directory with --output.",
        )

    def _not_read(self, name: str, error: OSError) -> LocalError:
        return LocalError(f"cannot read {self.path / name}: {error.strerror}")

    def _not_written(self, error: OSError) -> LocalError:
        return LocalError(f"cannot write to {self.name}: {error.strerror}")


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and both values of each member that differs."""
    for name, new in now.items():
        old = before.get(name)
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new and name not in _FREE:
            yield f"{prefix}{name}", old, new
