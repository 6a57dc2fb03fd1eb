"""Where a download lands: all of it, in one step, or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tinkex.api.http.concurrency import aside, each
from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import manifest, placing
from tinkex.api.transfer.stage import PREFIX, Stage, place_of
from tinkex.api.transfer.uncut import Uncut
from tinkex.exceptions import InvalidResponse, LocalError, NotFound, NotOffered, TinkexError

#: Files of every checkpoint; one of them in the way is known before the network is asked.
USUAL_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    manifest.NAME,
)

#: After these there is nothing to go on with.
_FINAL = (InvalidResponse, NotFound, NotOffered)
#: Files that are brought to the disk at once.
_SYNCING = 4
_KEPT = "What has arrived is kept; the same command goes on from there."
_HINT = "Overwrite with --force, or name another directory with --output."


class Landing:
    """A hidden directory beside the target, moved into place by :meth:`commit`.

    A context manager: leaving it without a commit leaves the target as it was. What can be of
    use to the next attempt stays in the hidden directory.

    :param path: the checkpoint.
    :param directory: the target; created if need be, its other files stay.
    :param force: files of the same names may be replaced.
    :raises LocalError: the target cannot be used.
    """

    def __init__(self, path: TinkerPath, directory: Path, *, force: bool = False) -> None:
        self._path = path
        self.directory = directory
        self._force = force
        self._created: list[Path] = []
        self._stage: Stage | None = None
        self._fresh = False
        self._commit: Uncut | None = None
        self._done = False
        with local_errors(directory):
            if directory.exists() and not directory.is_dir():
                hint = "Give --output a directory."
                raise LocalError(f"{directory} is not a directory", hint=hint)
            _check_writable(directory)
        for name in USUAL_FILES:
            self.admit(Path(name))

    def __enter__(self) -> Landing:
        if place_of(self._home(), self._path, self.directory).exists():
            self._open()
        return self

    @property
    def stage(self) -> Stage:
        """The hidden directory; it is made when there is something to put into it.

        :raises LocalError: it cannot be, or another process is at it.
        """
        return self._stage or self._open()

    def _open(self) -> Stage:
        with local_errors(self.directory):
            self._stage = stage = self._make_stage()
        return stage

    def _make_stage(self) -> Stage:
        # A new directory arrives whole, by one rename; into an existing one, files are
        # moved from inside, where writing is surely permitted and the disk is the same.
        self._fresh = not self.directory.exists()
        home = self._home()
        self._make_parents(home)
        try:
            return Stage(place_of(home, self._path, self.directory), self._path)
        except BaseException:
            self._remove_parents()
            raise

    def _home(self) -> Path:
        return self.directory if self.directory.exists() else self.directory.parent

    def journal(self) -> Mapping[str, Any]:
        """Return what an earlier attempt has written down; empty if there was none."""
        return self._stage.journal if self._stage is not None else {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        if self._commit is not None:
            self._commit.settle()
        if self._done or self._stage is None:
            return
        kept = error is not None and self.keeps(error)
        if kept:
            with suppress(OSError):
                self.stage.save()
            if isinstance(error, TinkexError):
                error.hint = _KEPT
            elif error is not None:
                error.add_note(_KEPT)
        self.stage.close(keep=kept)
        if kind is not None:
            self._remove_parents()

    def keeps(self, error: BaseException) -> bool:
        """Tell whether there is something to go on with after *error*."""
        if self._stage is None:
            return False
        if placing.is_noted(self.stage):
            return True
        return not isinstance(error, _FINAL) and self.stage.bytes() > 0

    def admit(self, relative: Path) -> None:
        """Refuse a file that would replace another.

        :raises LocalError: one of that name exists and ``force`` is off, or it is no file.
        :raises InvalidResponse: it would be taken for a stage.
        """
        if relative.parts[0].startswith(PREFIX):  # as if another download had left it
            raise InvalidResponse(f"the download holds a file with an unsafe name: {relative}")
        target = self.directory / relative
        with local_errors(self.directory):
            is_directory = target.is_dir() and not target.is_symlink()
        if is_directory:
            raise LocalError(f"{target} is a directory", hint="Name another one with --output.")
        if not self._force and os.path.lexists(target):
            raise LocalError(f"{target} already exists", hint=_HINT)

    def commit(self, files: Iterable[Path]) -> None:
        """Move *files* (relative paths) into place; Ctrl-C is heard before or after it.

        With ``force``, what an earlier download brought and this one does not is removed.

        :raises LocalError: they cannot be moved.
        """
        files = sorted(set(files))
        with local_errors(self.directory):
            if not self._fresh:
                for path in files:
                    self.admit(path)
                    (self.directory / path).parent.mkdir(parents=True, exist_ok=True)
            # What the note says must be on the disk before it; Ctrl-C ends the wait for a slow one.
            for _ in each(self._sync, files, workers=_SYNCING):
                pass
            with self._alone():
                aside(partial(self._prepare, files), None)
                self._commit = Uncut(self._put)
                self._commit.run()
            for place in {self.directory, self.directory.parent}:
                aside(partial(placing.sync_directory, place), None)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with nullcontext() if self._fresh else placing.alone(self.directory):
            try:
                yield
            finally:
                if self._commit is not None:
                    self._commit.settle()

    def _sync(self, relative: Path) -> None:
        path = self.stage.content / relative
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        if path.parent != self.stage.content:
            placing.sync_directory(path.parent)

    def _prepare(self, files: list[Path]) -> None:
        placing.sync_directory(self.stage.content)
        if not self._fresh:
            old = manifest.names(self.directory) if self._force else []
            placing.note(self.stage, files, old)

    def _put(self) -> None:
        if self._fresh:
            self._rename_stage()
        else:
            placing.place(self.stage, self.directory)
        self._done = True
        self.stage.close(keep=False)

    def _rename_stage(self) -> None:
        try:
            self.stage.content.rename(self.directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise LocalError(f"{self.directory} has appeared meanwhile", hint=_HINT) from error

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


def _check_writable(directory: Path) -> None:
    """Find out before the network is asked that nothing could be written.

    :raises LocalError: as it says.
    """
    places = (directory, *directory.absolute().parents)
    there = next(place for place in places if os.path.lexists(place))
    if not there.is_dir():
        raise LocalError(f"cannot write to {directory}: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise LocalError(f"cannot write to {directory}: permission denied")


def finish(directory: Path) -> list[str]:
    """Move what a process that was killed has left half moved; return which checkpoints came.

    :raises LocalError: it cannot be moved.
    """
    with local_errors(directory):
        return placing.finish(directory)


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
        inside = PREFIX in str(error.filename or PREFIX)
        where = path if inside else error.filename
        reason = (error.strerror or type(error).__name__).lower()
        ours = error.filename is not None and path.is_relative_to(os.fsdecode(error.filename))
        if error.errno == errno.ENAMETOOLONG and not ours:
            raise InvalidResponse("the download holds a file whose name is too long") from error
        raise LocalError(f"cannot write to {where}: {reason}") from error
