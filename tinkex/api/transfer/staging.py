"""The staging directory: where a download arrives, and from where it is installed in its target.

Others may put a directory of its name in its place: a repository that is cloned, or another user
of a directory shared by many. So nothing that is found on the disk is trusted:

* The directory is made with mode 0700. One that exists is used only if it is private to this user
  and holds nothing but regular files and directories.
* Its state file says sizes, tags and ranges of files. What is moved or deleted is never read from
  the disk, but for the names in the target's ``tinkex.lock.json``, which stay below the target.
* Every file is opened relative to the handle of a directory, and no symbolic link is followed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from tinkex.api.http.concurrency import aside, each
from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import manifest
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.progress import Stopped
from tinkex.exceptions import InvalidResponse, LocalError, NotFound, NotOffered, TinkexError

try:
    import fcntl
except ImportError:  # not a Unix: two processes are not kept apart
    fcntl = None  # type: ignore[assignment]

#: Beginning of the directory's name; what follows is made of the checkpoint and the target.
PREFIX = ".tinkex-download-"
#: Files of every checkpoint; one of them in the way is known before the network is asked.
USUAL_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    manifest.NAME,
)
#: The last files to be installed: loaders of adapters ask for the first, tinkex for the second.
_LAST = (Path("adapter_config.json"), Path(manifest.NAME))
#: After these errors there is nothing to resume.
_FINAL = (InvalidResponse, NotFound, NotOffered)
#: Seconds between two writes of the state; a killed program loses no more than that.
_INTERVAL = 1.0
_STATE = "state.json"
_VERSION = 1
#: Files that are brought to the disk at once.
_SYNCING = 4
_BLOCK = 1024 * 1024
_KEPT = "What has arrived is kept; the same command goes on from there."
_NOT_KEPT = (
    "Nothing is kept, because this file system does not show that a directory is private: "
    "the same command starts over."
)
_IN_THE_WAY = "Overwrite with --force, or name another directory with --output."


class StagingDirectory:
    """The staging directory of one download, and the way from there into the target.

    A context manager: leaving it without :meth:`install` leaves the target as it was. What the
    next attempt can resume stays in the staging directory, which is next to a target that does
    not exist, and inside of one that does.

    A target that is a symbolic link to a directory is followed once, in the beginning, if the link
    belongs to this user or to root; so are links in front of it. From then on the directory that
    it led to is the target, whatever takes its name, and no link below it is followed.

    :param path: the checkpoint.
    :param target: the directory to install in; made if need be, its other files stay.
    :param force: files of the same names may be replaced.

    :ivar content: files that are complete.
    :ivar parts: files that are not.
    :ivar state: what is known about them; JSON, written by :meth:`save`.
    :raises LocalError: on entry, if the target cannot be used, or the staging directory that is
        found was not left by this user's download.
    """

    content: Directory
    parts: Directory

    def __init__(self, path: TinkerPath, target: Path, *, force: bool = False) -> None:
        self.target = target
        self.state: dict[str, Any] = {}
        self._path, self._force = path, force
        self._name = name_of(path, target)
        self._is_new = True
        self._is_resumed = self._is_done = self._is_closed = False
        #: Whether the file system shows that the directory is private.
        self._is_private = True
        self._home: Directory | None = None
        self._root: Directory | None = None
        self._handles = ExitStack()
        self._guard = threading.Lock()
        self._saved = 0.0
        self._made: list[Path] = []

    def __enter__(self) -> StagingDirectory:
        try:
            with local_errors(self.target):
                self._examine_target()
            for name in USUAL_FILES:
                self.admit(Path(name))
            if self._is_resumed:
                self.open()
        except BaseException:
            self._close(keep=True)
            raise
        return self

    def _examine_target(self) -> None:
        target = self.target
        if target.exists() and not target.is_dir():
            raise LocalError(f"{target} is not a directory", hint="Give --output a directory.")
        _check_writable(target)
        if target.is_symlink() and target.lstat().st_uid not in (0, os.geteuid()):
            raise LocalError(
                f"{target} is a symbolic link that belongs to another user",
                hint="Name the directory that it leads to, or another one.",
            )
        if target.exists():
            self._home, self._is_new = self._held(Directory.at(target)), False
            self._is_resumed = self._home.stat(self._name) is not None
        else:
            self._is_resumed = os.path.lexists(target.parent / self._name)

    def open(self) -> None:
        """Make the directory, or enter that of an earlier attempt; later calls do nothing.

        :raises LocalError: it cannot be made, is not trusted, or another process uses it.
        """
        if self._root is not None:
            return
        with local_errors(self.target):
            if self._home is None:
                self._make_parents()
                self._home = self._held(Directory.at(self.target.parent))
            self._enter(self._home)

    def _held(self, directory: Directory) -> Directory:
        self._handles.callback(directory.close)
        return directory

    def _enter(self, home: Directory) -> None:
        where = (self.target.parent if self._is_new else self.target) / self._name
        root, lock, self._is_private, self._name = _trusted(home, self._name, where, self._path)
        self._handles.callback(lock.close)
        self._root = self._held(root)
        self._make_folders(root)
        self.state = _read_state(root)
        if not self.state:
            self.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        kept = error is not None and self.keeps(error)
        lost = error is not None and not kept and not self._is_private and self._has_more(error)
        if kept:
            with suppress(OSError):
                self.save()
        if error is not None and (kept or lost):
            words = _KEPT if kept else _NOT_KEPT
            if isinstance(error, TinkexError):
                error.hint = words
            else:
                error.add_note(words)
        self._close(keep=kept)
        if kind is not None and not self._is_done:
            self._remove_parents()

    def keeps(self, error: BaseException) -> bool:
        """Return whether an attempt after *error* can resume this one."""
        return self._is_private and self._has_more(error)

    def _has_more(self, error: BaseException) -> bool:
        if self._root is None or self._is_done or isinstance(error, _FINAL):
            return False
        return self.bytes() > 0

    def _close(self, *, keep: bool) -> None:
        with self._guard:
            self._is_closed = True
        if self._root is not None and self._home is not None and not keep:
            self._remove(self._root, self._home)
        self._handles.close()

    def _remove(self, root: Directory, home: Directory) -> None:
        # Whatever has taken its name by now: only what was entered is emptied, and only an empty
        # directory is removed.
        for name in ("content", "parts"):
            root.remove_tree(name)
        for name in (_STATE, "state.new", "lock"):
            with suppress(OSError):
                root.remove(name)
        home.remove_empty(self._name)

    # What has arrived -----------------------------------------------------------------------

    def clear(self) -> None:
        """Forget what has arrived."""
        assert self._root is not None
        for name in ("content", "parts"):
            self._root.remove_tree(name)
        self._make_folders(self._root)
        self.state = {"version": _VERSION}
        self.save()  # what arrives from now on must not be taken for what was noted before

    def _make_folders(self, root: Directory) -> None:
        for name in ("content", "parts"):
            root.make(name)
            setattr(self, name, self._held(root.enter(name)))

    def bytes(self) -> int:
        """Return how many bytes have arrived that the next attempt need not fetch."""
        entries = self.state.get("files", {}).values()
        done = sum(have - start for e in entries for start, have, _ in e["segments"])
        if self.state.get("archive"):
            sizes = (known.st_size for _, known in self.content.entries() if _is_file(known))
            done += sum(sizes)
        return int(done)

    @contextmanager
    def changing(self, *, at_once: bool = False) -> Iterator[dict[str, Any]]:
        """Let one thread change the state; it is saved now and then, or *at_once*.

        :raises Stopped: the download is over: a thread that an attempt has left behind, waiting
            for the network, must not touch what may be the next attempt's by now.
        """
        with self._guard:
            if self._is_closed:
                raise Stopped
            yield self.state
            if at_once or time.monotonic() - self._saved > _INTERVAL:
                self._save()

    def save(self) -> None:
        """Write the state."""
        with self._guard:
            self._save()

    def _save(self) -> None:
        assert self._root is not None
        with self._root.open("state.new", "wb") as file:
            file.write(json.dumps(self.state).encode())
        self._root.replace("state.new", self._root, _STATE)
        self._saved = time.monotonic()

    # The target -----------------------------------------------------------------------------

    def admit(self, relative: Path) -> None:
        """Refuse a file that must not be installed, as far as that is known before it is here.

        An attempt that was killed while it installed its files has left some of them, so that
        those that are in the way of one that is resumed are compared in the end.

        :raises LocalError: a file of that name exists and ``force`` is off, or a directory does.
        :raises InvalidResponse: the name is that of a staging directory.
        """
        if relative.parts[0].startswith(PREFIX):
            raise InvalidResponse(f"the download holds a file with an unsafe name: {relative}")
        if self._exists(relative) and not self._force and not self._is_resumed:
            raise self._in_the_way(relative)

    def _exists(self, relative: Path) -> bool:
        """Return whether the target has the file *relative*.

        :raises LocalError: it is a directory.
        """
        if self._is_new or self._home is None:
            return False
        with local_errors(self.target):
            found = self._home.stat(relative)
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise LocalError(
                f"{self.target / relative} is a directory", hint="Name another one with --output."
            )
        return found is not None

    def _in_the_way(self, relative: Path) -> LocalError:
        return LocalError(f"{self.target / relative} already exists", hint=_IN_THE_WAY)

    def install(self, files: Iterable[Path]) -> None:
        """Move *files* from :attr:`content` into the target.

        A target that does not exist appears in one step. In one that does, files are exchanged one
        by one: ``adapter_config.json`` and the lock file of another checkpoint go first, and come
        last, so that nothing loads a mixture if the process is killed in between; the next attempt
        finishes the work. With ``force``, files go that the lock file in the target names and this
        download does not bring.

        :raises LocalError: they cannot be moved.
        """
        names = sorted(set(files))
        assert self._home is not None
        with local_errors(self.target):
            # All is on the disk before the target is touched; Ctrl-C ends the wait for a slow one.
            for _ in each(self.content.sync_file, names, workers=_SYNCING):
                pass
            aside(self.content.sync, None)
            if self._is_new:
                self._rename_content(self._home)
            else:
                with self._home.locked():
                    self._exchange(names, self._home)
            self._is_done = True
            aside(self._home.sync, None)

    def _rename_content(self, home: Directory) -> None:
        assert self._root is not None
        try:
            self._root.replace("content", home, self.target.name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            words = f"{self.target} has appeared meanwhile"
            raise LocalError(words, hint=_IN_THE_WAY) from error

    def _exchange(self, names: list[Path], target: Directory) -> None:
        for relative in names:
            if self._exists(relative) and not self._force and not self._is_same(relative):
                raise self._in_the_way(relative)
            target.make_parents(relative)
        lock = _lock_in(target) if self._force else None
        old = set() if lock is None else {Path(name) for name in lock.files}
        config, note = _LAST
        if config in old or config in names:
            target.remove(config)
        for relative in sorted(old.difference(names)):
            with suppress(OSError):
                target.remove(relative)
        if lock is not None and lock.tinker_path != str(self._path):
            target.remove(note)
        for relative in (*(name for name in names if name not in _LAST), *_LAST):
            if relative in names:
                self.content.replace(relative, target, relative)

    def _is_same(self, relative: Path) -> bool:
        """Return whether the target has the file *relative* with the content that has arrived."""
        assert self._home is not None
        try:
            with self.content.open(relative, "rb") as new, self._home.open(relative, "rb") as old:
                while block := new.read(_BLOCK):
                    if old.read(len(block)) != block:
                        return False
                return not old.read(1)
        except OSError:
            return False

    def _make_parents(self) -> None:
        parent = self.target.parent
        missing = [place for place in (parent, *parent.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            self._made.append(place)

    def _remove_parents(self) -> None:
        for place in reversed(self._made):
            with suppress(OSError):
                place.rmdir()
        self._made = []


def name_of(path: TinkerPath, target: Path) -> str:
    """Return the name of a staging directory: each checkpoint has another for each target."""
    words = f"{path}\0".encode() + os.fsencode(target.absolute())
    return PREFIX + hashlib.sha256(words).hexdigest()[:12]


def _trusted(
    home: Directory, name: str, where: Path, path: TinkerPath
) -> tuple[Directory, FileIO, bool, str]:
    """Make or enter the staging directory *name* in *home*.

    :param where: its path, for messages.
    :returns: the directory, its lock, whether it is private, and its name: some file systems
        show every directory as another user's or as open to all. There, nothing distinguishes one
        that somebody has planted, so that a new one of another name is made each time.
    :raises LocalError: it was not left by a download of this user, or another process uses it.
    """
    while True:
        is_made = home.make(name, 0o700)
        try:
            root = home.enter(name)
            reason = _why_not_private(root)
            if reason is not None and not is_made:
                root.close()
                root, name = _another(home, name, where, reason)
        except FileNotFoundError:
            continue  # whoever had it has just finished
        except NotADirectoryError:
            raise _refused(where, "it is a symbolic link or not a directory") from None
        try:
            if reason is None and not is_made:
                _check_links(root, where)
            lock = _locked(root, path)
        except BaseException:
            root.close()
            raise
        if lock is not None:
            return root, lock, reason is None, name
        root.close()


def _another(home: Directory, name: str, where: Path, reason: str) -> tuple[Directory, str]:
    """Make another staging directory than *name*, which is not private.

    :raises LocalError: the new one is private, so *name* was not made by tinkex for this user.
    """
    name = f"{name}-{secrets.token_hex(6)}"
    home.make(name, 0o700)
    root = home.enter(name)
    if _why_not_private(root) is not None:
        return root, name
    root.close()
    home.remove_empty(name)
    raise _refused(where, reason)


def _why_not_private(root: Directory) -> str | None:
    status = root.status()
    if status.st_uid != os.geteuid():
        return "it belongs to another user"
    if stat.S_IMODE(status.st_mode) & 0o077:
        return "it is open to other users"
    return None


def _check_links(root: Directory, where: Path) -> None:
    """Refuse what a download never puts into its staging directory.

    :raises LocalError: there is a link, or a file of another user.
    """
    for relative, status in root.entries():
        if not stat.S_ISDIR(status.st_mode) and (not _is_file(status) or status.st_nlink > 1):
            raise _refused(where, f"it holds a link: {relative}")
        if status.st_uid != os.geteuid():
            raise _refused(where, f"it holds a file of another user: {relative}")


def _refused(where: Path, reason: str) -> LocalError:
    return LocalError(
        f"{where} was not left by a download of yours: {reason}",
        hint="Delete it, and begin the download again.",
    )


def _locked(root: Directory, path: TinkerPath) -> FileIO | None:
    """Return a file that keeps other processes out of *root* as long as it is open.

    :returns: ``None`` if the directory was removed meanwhile.
    :raises LocalError: another process is in it.
    """
    try:
        file = root.open("lock", "a+b")
    except FileNotFoundError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = root.stat("lock")
        if now is not None and os.path.samestat(os.fstat(file.fileno()), now):
            return file
    except OSError as error:
        file.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise LocalError(
            f"{path} is being downloaded to this place already, by another process",
            hint="Wait for it, or name another directory with --output.",
        ) from None
    file.close()
    return None


def _read_state(root: Directory) -> dict[str, Any]:
    """Return what an earlier attempt has written; empty if nothing of it can be used."""
    try:
        with root.open(_STATE, "rb") as file:
            found = json.loads(file.read())
        return found if _is_sound(found) else {}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}


def _is_sound(state: dict[str, Any]) -> bool:
    """Return whether *state* has the form that tinkex writes; any error means that it has not."""
    names, numbers = [], [state["version"]]
    words = [state.get("copy", "")]
    for name, known in state.get("files", {}).items():
        names.append(name)
        words += [known["validator"], known["sha256"] or ""]
        numbers.append(known["size"])
        for start, at, end in known["segments"]:
            numbers += [start, at, end]
            if not 0 <= start <= at <= end <= known["size"]:
                return False
    if archive := state.get("archive"):
        for name, *sizes in (archive["member"], *(file[:2] for file in archive["files"])):
            names.append(name)
            numbers += sizes
        words += [archive["validator"], *(sha256 for _, _, sha256 in archive["files"])]
        numbers.append(archive["total"])
    return (
        state["version"] == _VERSION
        and all(map(manifest.is_below, names))
        and all(isinstance(word, str) for word in words)
        and all(type(number) is int and number >= 0 for number in numbers)
    )


def _is_file(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode)


def _lock_in(target: Directory) -> manifest.Lock | None:
    """Return what the lock file in *target* says; ``None`` if it cannot be used."""
    try:
        with target.open(manifest.NAME, "rb") as file:
            return manifest.parsed(file.read())
    except (OSError, manifest.Damaged):
        return None


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
        name = error.filename if isinstance(error.filename, str) else ""
        # Names in the staging directory would tell nobody anything.
        ours = bool(name) and path.is_relative_to(name)
        if error.errno == errno.ENAMETOOLONG and not ours:
            raise InvalidResponse("the download holds a file whose name is too long") from error
        reason = (error.strerror or type(error).__name__).lower()
        raise LocalError(f"cannot write to {name if ours else path}: {reason}") from error
