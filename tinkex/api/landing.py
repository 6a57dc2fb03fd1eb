"""Where a download lands: all of it, in one step, or nothing."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tinkex.api import lockfile
from tinkex.exceptions import InvalidAnswer, LocalError

#: Files of every checkpoint; one of them in the way is known before the network is asked.
USUAL_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    lockfile.NAME,
)

_STAGE = ".tinkex-download-"
_HINT = "Overwrite with --force, or name another directory with --output."


class Landing:
    """A temporary directory beside the target, moved into place by :meth:`commit`.

    A context manager: leaving it without a commit leaves the target as it was.

    :param directory: the target; created if need be, its other files stay.
    :param force: files of the same names may be replaced.
    :raises LocalError: the target cannot be used.
    """

    def __init__(self, directory: Path, *, force: bool = False) -> None:
        self.directory = directory
        self._force = force
        self._created: list[Path] = []
        if directory.exists() and not directory.is_dir():
            raise LocalError(f"{directory} is not a directory", hint="Give --output a directory.")
        for name in USUAL_FILES:
            self.admit(Path(name))

    def __enter__(self) -> Landing:
        with local_errors(self.directory):
            # A new directory arrives whole, by one rename; into an existing one, files are
            # moved from inside, where writing is surely permitted and the disk is the same.
            self._fresh = not self.directory.exists()
            home = self.directory.parent if self._fresh else self.directory
            self._make_parents(home)
            self.stage = home / f"{_STAGE}{secrets.token_hex(4)}"
            try:
                self.stage.mkdir()
            except OSError:
                self._remove_parents()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.stage, ignore_errors=True)
        if kind is not None:
            self._remove_parents()

    def admit(self, relative: Path) -> None:
        """Refuse a file that would replace another.

        :raises LocalError: one of that name exists and ``force`` is off, or it is no file.
        """
        target = self.directory / relative
        if target.is_dir() and not target.is_symlink():
            raise LocalError(f"{target} is a directory", hint="Name another one with --output.")
        if not self._force and os.path.lexists(target):
            raise LocalError(f"{target} already exists", hint=_HINT)

    def clear(self) -> None:
        """Forget what has arrived, for another attempt."""
        with local_errors(self.directory):
            shutil.rmtree(self.stage)
            self.stage.mkdir()

    def commit(self, files: Iterable[Path]) -> None:
        """Move *files* (relative paths) into place."""
        with local_errors(self.directory):
            if self._fresh:
                self._rename_stage()
            else:
                self._move(sorted(files))
        self._created = []

    def _rename_stage(self) -> None:
        try:
            self.stage.rename(self.directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise LocalError(f"{self.directory} has appeared meanwhile", hint=_HINT) from error

    def _move(self, files: list[Path]) -> None:
        for path in files:
            self.admit(path)
        for path in files:
            (self.directory / path).parent.mkdir(parents=True, exist_ok=True)
        for path in files:
            os.replace(self.stage / path, self.directory / path)

    def _make_parents(self, directory: Path) -> None:
        missing = [p for p in (directory, *directory.parents) if not p.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._created.append(path)

    def _remove_parents(self) -> None:
        for path in reversed(self._created):
            try:
                path.rmdir()
            except OSError:
                return
        self._created = []


@contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system at *path* into ours.

    :raises LocalError: the disk is full, permission is missing, and the like.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # somebody's terminal, not a file
    except OSError as error:
        # The temporary directory would tell nobody anything.
        inside = _STAGE in str(error.filename or _STAGE)
        where = path if inside else error.filename
        reason = (error.strerror or type(error).__name__).lower()
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidAnswer("the download holds a file whose name is too long") from error
        raise LocalError(f"cannot write to {where}: {reason}") from error
