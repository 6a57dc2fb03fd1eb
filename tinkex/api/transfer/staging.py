"""The staging directory: it receives a download, which is then installed in the target.

A cloned repository may contain a directory of the same name, or another user of a shared directory
may create one. So nothing found on disk is trusted:

* It is created with mode 0700. An existing one is used only if it is private to this user,
  contains nothing but regular files and directories, and is the one that this user's state names.
* The state — sizes, tags and ranges of partial files — is in ``$XDG_STATE_HOME/tinkex/downloads``,
  where no repository and no other user can write. Names of files to move or delete are never
  read from disk, except for the names in the target's ``tinkex.lock.json``, which stay below the
  target.
* Every file is opened relative to an open directory, without following symbolic links.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tinkex.api.http.concurrency import map_ordered, run_in_thread
from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import manifest
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.progress import Cancelled
from tinkex.api.transfer.state import PartialFile, State, StateLog
from tinkex.exceptions import (
    InvalidResponse,
    LocalError,
    NotFound,
    NotOffered,
    TargetExists,
    TargetInUse,
    TinkexError,
)
from tinkex.files import (
    acquire_lock,
    limit_error,
    why_not_private,
    xdg_directory,
)

#: Prefix of the directory's name, followed by a digest of the checkpoint and the target.
PREFIX = ".tinkex-download-"
#: Files of every checkpoint: if one exists, the download is rejected before the first request.
USUAL_FILES = (
    manifest.ADAPTER_CONFIG,
    "adapter_model.safetensors",
    "adapter_model.bin",
    manifest.NAME,
)
#: The last files to be installed: loaders of adapters need the first, tinkex the second.
_LAST = (Path(manifest.ADAPTER_CONFIG), Path(manifest.NAME))
#: Errors after which a download cannot be resumed.
_FINAL = (InvalidResponse, NotFound, NotOffered)
#: Seconds between two writes of the state; a killed process loses at most this much.
_INTERVAL = 1.0
_LOCK = "lock"
#: Directory of the files to install.
CONTENT = "content"
#: Number of concurrent flushes of files to the disk.
_SYNCING = 4
_BLOCK = 1024 * 1024
_KEPT = "The partial download is kept. To resume it, run the same command again."
_NOT_KEPT = (
    "The partial download is not kept because tinkex could not verify the "
    "directory's owner. If you run the same command again, the download starts over."
)


class StagingDirectory:
    """The staging directory of one download, which installs the files in the target.

    A context manager: without :meth:`install`, the target is not changed, and partial files are
    kept in the staging directory for the next attempt. The staging directory is next to a new
    target, or inside an existing one.

    If the target or a part of its path is a symbolic link that belongs to this user or to root,
    the link is followed once, at the start. Afterwards the target is the directory found, even if
    it is renamed, and no link below it is followed.

    :param path: the checkpoint.
    :param target: the directory to install in; created if missing; other files in it are kept.
    :param force: replace files of the same names.
    :raises LocalError: on entry, if the target cannot be used, or the staging directory was not
        left by a download of this user, or another process uses it.

    :ivar root: the open directory.
    :ivar content: the directory ``content`` in it, whose files are installed.
    :ivar files: the partial files, by their names relative to :attr:`root`.
    :ivar copy: the id of a temporary copy that the service has made for the download.
    """

    root: Directory
    content: Directory
    _log: StateLog

    def __init__(self, path: TinkerPath, target: Path, *, force: bool = False) -> None:
        self.target = target
        self.files: dict[str, PartialFile] = {}
        self.copy: str | None = None
        self._path, self._force = path, force
        self._name = name_of(path, target)
        #: The parent of the staging directory: the target, or the parent of a new target.
        self._home: Directory
        self._is_new = self._is_private = True
        self._is_resumed = self._is_locked = self._is_done = self._is_closed = False
        self._handles = ExitStack()
        self._guard = threading.Lock()
        #: The partial files that have changed since the state was written at this time.
        self._changed: set[str] = set()
        self._saved = 0.0
        self._made: list[Path] = []

    def __enter__(self) -> StagingDirectory:
        try:
            with local_errors(self.target):
                self._open()
        except BaseException:
            self._close(keep=not self._is_locked)
            self._remove_parents()
            raise
        return self

    def _open(self) -> None:
        target = self.target
        self._is_new = not target.exists()
        if not self._is_new and not target.is_dir():
            raise LocalError(f"{target} is not a directory", hint="Specify a directory.")
        if target.is_symlink() and (self._is_new or target.lstat().st_uid not in (0, os.geteuid())):
            raise LocalError(
                f"{target} is a symbolic link that is broken or owned by another user",
                hint="Specify the link's target or another directory.",
            )
        home = target.parent if self._is_new else target
        self._make_missing(home)
        self._home = self._held(Directory.at(home))
        self._is_resumed = self._home.stat(self._name) is not None
        for name in USUAL_FILES:
            self.admit(Path(name))
        while not self._is_locked:
            # Until it is locked, another process may remove it at any time.
            with suppress(FileNotFoundError):
                where = home / self._name
                known = log_of(self._name).read()
                root, self._is_private, self._name = _trusted(
                    self._home, self._name, where, known.directory if known else None
                )
                self.root, self._log = self._held(root), log_of(self._name)
                self._is_locked = self._lock(root)
        self._make_content()
        self._load()

    def _lock(self, root: Directory) -> bool:
        """Lock *root* against other processes; return ``False`` if it has just been removed.

        :raises TargetInUse: another process uses it.
        """
        file = root.open(_LOCK, "a+b")
        self._handles.callback(file.close)
        if not acquire_lock(file):
            raise TargetInUse(
                f"another process is already downloading {self._path} to this directory"
            )
        now = root.stat(_LOCK)
        return now is not None and os.path.samestat(os.fstat(file.fileno()), now)

    def _held(self, directory: Directory) -> Directory:
        self._handles.callback(directory.close)
        return directory

    def _make_content(self) -> None:
        self.root.make(CONTENT)
        self.content = self._held(self.root.enter(CONTENT))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        kept = error is not None and self.keeps(error)
        if error is not None and self._has_more(error):
            with suppress(OSError), self.changing(at_once=True):
                pass
            words = _KEPT if kept else _NOT_KEPT
            if isinstance(error, TinkexError):
                error.hint = words
            else:
                error.add_note(words)
        self._close(keep=kept)
        if kind is not None and not self._is_done:
            self._remove_parents()

    def keeps(self, error: BaseException) -> bool:
        """Return whether the next attempt can resume after *error*."""
        return self._is_private and self._has_more(error)

    def _has_more(self, error: BaseException) -> bool:
        if self._is_done or isinstance(error, _FINAL):
            return False
        return any(file.received for file in self.files.values())

    def _close(self, *, keep: bool) -> None:
        with self._guard:
            self._is_closed = True
        if not keep:
            # Only the opened directory is emptied, even if another has its name by now, and only an
            # empty directory is removed.
            self.root.remove_tree(CONTENT)
            for name in os.listdir(self.root.fileno()):
                with suppress(OSError):
                    self.root.remove(name)
            with suppress(OSError):
                self._log.path.unlink(missing_ok=True)
            self._home.remove_empty(self._name)
        self._handles.close()

    # State ----------------------------------------------------------------------------------

    def clear_content(self) -> None:
        """Remove the files that are to be installed."""
        self.root.remove_tree(CONTENT)
        self._make_content()

    @contextmanager
    def changing(self, name: str | None = None, *, at_once: bool = False) -> Iterator[None]:
        """Lock the file *name* of :attr:`files`, or :attr:`copy`, for a change by this thread.

        :param at_once: write the state; otherwise it is written once a second.
        :raises Cancelled: the download has ended: a thread that waited for the network must not
            change files that the next attempt may use.
        """
        with self._guard:
            if self._is_closed:
                raise Cancelled
            yield
            if name is not None:
                self._changed.add(name)
            if at_once or time.monotonic() - self._saved > _INTERVAL:
                self._save()

    def _save(self) -> None:
        if not self._is_private:
            return
        try:
            self._log.write(State(_identity(self.root), self.copy, self.files), self._changed)
        except LocalError:  # without a writable home, the download works but cannot be resumed
            self._is_private = False
        self._changed.clear()
        self._saved = time.monotonic()

    def _load(self) -> None:
        """Read the state of an earlier attempt, unless it belongs to another directory."""
        state = self._log.read()
        if state is not None and state.directory == _identity(self.root):
            self.copy, self.files = state.copy, state.files
        if not self.files:
            self.clear_content()
            self._save()

    def check_space(self, size: int) -> None:
        """Check that *size* bytes can be written.

        :raises LocalError: the file system has less space.
        """
        found = os.statvfs(self.root.fileno())
        free = found.f_bavail * found.f_frsize
        if size > free:
            raise LocalError(
                f"not enough disk space for {self.target}: {size >> 20} MiB are still needed, "
                f"but only {free >> 20} MiB are free"
            )

    # The target -----------------------------------------------------------------------------

    def admit(self, relative: Path) -> None:
        """Check, before a file is fetched, that it may be installed.

        An attempt that was interrupted during the installation has left some files in the
        target. So when one is resumed, existing files are compared with the new ones at the end.

        :raises TargetExists: a file of that name exists, and ``force`` is off.
        :raises LocalError: a directory of that name exists.
        :raises InvalidResponse: the name is that of a staging directory.
        """
        if relative.parts[0].startswith(PREFIX):
            raise InvalidResponse(f"the download contains a file with an unsafe name: {relative}")
        if self._exists(relative) and not self._force and not self._is_resumed:
            raise TargetExists(f"{self.target / relative} already exists")

    def _exists(self, relative: Path) -> bool:
        if self._is_new:
            return False
        with local_errors(self.target):
            found = self._home.stat(relative)
        if found is not None and stat.S_ISDIR(found.st_mode):
            place, hint = self.target / relative, "Specify another directory."
            raise LocalError(f"cannot write {place}: it is a directory", hint=hint)
        return found is not None

    def install(self, files: Iterable[Path]) -> None:
        """Move *files* from :attr:`content` into the target.

        A new target appears in one step. In an existing one, files are replaced one by one:
        ``adapter_config.json`` and the manifest of another checkpoint are removed first and
        installed last, so that nothing loads a mixture if this is interrupted; the next attempt
        completes it. With ``force``, files that the manifest in the target names and this
        download does not have are removed.

        :raises LocalError: they cannot be moved.
        """
        names = set(files)
        with local_errors(self.target):
            for relative, found in list(self.content.entries()):
                if relative not in names and not stat.S_ISDIR(found.st_mode):
                    self.content.remove(relative)  # left by an attempt that failed elsewhere
            # Everything is on the disk before the target is touched; Ctrl-C ends a long wait.
            for _ in map_ordered(self.content.sync_file, sorted(names), workers=_SYNCING):
                pass
            run_in_thread(self.content.sync)
            if self._is_new:
                self._rename_content(self._home)
            else:
                self._install_in(self._home, names)
            self._is_done = True
            run_in_thread(self._home.sync)

    def _rename_content(self, home: Directory) -> None:
        try:
            self.root.replace(CONTENT, home, self.target.name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise TargetExists(f"{self.target} was created during the download") from error

    def _install_in(self, target: Directory, names: set[Path]) -> None:
        # A separate descriptor, closed at the end, keeps other downloads out of the target.
        lock = os.open(".", os.O_RDONLY, dir_fd=target.fileno())
        try:
            acquire_lock(lock, timeout=None)
            for relative in sorted(names):
                if self._exists(relative) and not (self._force or self._is_same(target, relative)):
                    raise TargetExists(f"{self.target / relative} already exists")
                target.make_parents(relative)
            if self._force:
                self._remove_old(target, names)
            for relative in (*sorted(names.difference(_LAST)), *_LAST):
                if relative in names:
                    self.content.replace(relative, target, relative)
        finally:
            os.close(lock)

    def _remove_old(self, target: Directory, names: set[Path]) -> None:
        """Remove files that make the target loadable, and those not in the new checkpoint."""
        known = None
        with suppress(OSError, ValueError), target.open(manifest.NAME, "rb") as file:
            known = manifest.parse(file.read())
        old = set() if known is None else {Path(name) for name in known.files}
        config, lock_file = _LAST
        if config in old or config in names:
            target.remove(config)
        for relative in sorted(old.difference(names)):
            # The manifest may be foreign: only files that match it exactly are removed.
            with suppress(OSError):
                if known is not None and _sha256(target, relative) == known.files[str(relative)]:
                    target.remove(relative)
        # The manifest of the same checkpoint shows a later attempt that it may replace these files.
        if known is not None and known.tinker_path != str(self._path):
            target.remove(lock_file)

    def _is_same(self, target: Directory, relative: Path) -> bool:
        """Return whether the file *relative* in *target* is identical to the new one."""
        try:
            with self.content.open(relative, "rb") as new, target.open(relative, "rb") as old:
                while block := new.read(_BLOCK):
                    if old.read(len(block)) != block:
                        return False
                return not old.read(1)
        except OSError:
            return False

    def _make_missing(self, home: Path) -> None:
        missing = [place for place in (home, *home.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            self._made.append(place)

    def _remove_parents(self) -> None:
        for place in reversed(self._made):
            with suppress(OSError):
                place.rmdir()


def name_of(path: TinkerPath, target: Path) -> str:
    """Return the name of the staging directory of a checkpoint and a target."""
    words = f"{path}\0".encode() + os.fsencode(target.absolute())
    return PREFIX + hashlib.sha256(words).hexdigest()[:12]


def log_of(name: str) -> StateLog:
    """Return the state log of the staging directory *name*."""
    return StateLog(xdg_directory("state") / "tinkex" / "downloads" / f"{name}.jsonl")


# Trust ----------------------------------------------------------------------------------------


def _identity(directory: Directory) -> list[int]:
    found = os.fstat(directory.fileno())
    return [found.st_dev, found.st_ino]


def _sha256(directory: Directory, relative: Path) -> manifest.ManifestFile:
    with directory.open(relative, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return manifest.ManifestFile(file.tell(), digest)


def _trusted(
    home: Directory, name: str, where: Path, known: list[int] | None
) -> tuple[Directory, bool, str]:
    """Create or open the staging directory *name* in *home*.

    Some file systems report every directory as owned by another user or accessible to all. There, a
    new one with a new name is created each time.

    :param where: its path, for messages.
    :param known: device and inode of the directory that the state of this user names.
    :returns: the directory, whether it is private, and its name.
    :raises LocalError: it was not left by a download of this user.
    """
    is_made = home.make(name, 0o700)
    try:
        root = home.enter(name)
    except NotADirectoryError:
        raise _refused(where, "it is a symbolic link or not a directory") from None
    try:
        reason = why_not_private(os.fstat(root.fileno()))
        if reason is None and not is_made:
            _check_content(root, where, is_known=_identity(root) == known)
    except BaseException:
        root.close()
        raise
    if reason is None:
        return root, True, name
    root.close()
    if is_made:
        home.remove_empty(name)
    name = f"{name}-{secrets.token_hex(6)}"
    home.make(name, 0o700)
    root = home.enter(name)
    if why_not_private(os.fstat(root.fileno())) is None:  # so the old one is not from this process
        root.close()
        home.remove_empty(name)
        raise _refused(where, reason)
    return root, False, name


def _check_content(root: Directory, where: Path, *, is_known: bool) -> None:
    """Raise an error if the directory contains files that no download of this user created.

    :param is_known: the state of this user contains it. Otherwise, it may remain from a process
        that was killed right after creating it, and must be empty.
    :raises LocalError: it contains a link, or a file of another user or of unknown origin.
    """
    for relative, found in root.entries():
        if not (is_known or relative in (Path(_LOCK), Path(CONTENT))):
            raise _refused(where, f"it contains files of unknown origin, such as {relative}")
        is_file = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not (is_file or stat.S_ISDIR(found.st_mode)):
            raise _refused(where, f"it contains a link or special file: {relative}")
        if found.st_uid != os.geteuid():
            raise _refused(where, f"it contains a file owned by another user: {relative}")


def _refused(where: Path, reason: str) -> LocalError:
    return LocalError(
        f"{where} is not one of your partial downloads: {reason}",
        hint="Delete it, then start the download again.",
    )


# Errors ---------------------------------------------------------------------------------------


@contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Convert file-system errors at *path* to tinkex errors.

    :raises LocalError: for example, the disk is full or permission is missing.
    :raises InvalidResponse: the download contains a name that is too long.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # a closed standard output, not a file
    except OSError as error:
        if limit := limit_error(error):
            raise limit from error
        name = error.filename if isinstance(error.filename, str) else ""
        # Names in the staging directory mean nothing to the user.
        ours = bool(name) and path.is_relative_to(name)
        if error.errno == errno.ENAMETOOLONG and not ours:
            raise InvalidResponse("the download contains a file name that is too long") from error
        reason = (error.strerror or type(error).__name__).lower()
        raise LocalError(f"cannot write to {name if ours else path}: {reason}") from error
