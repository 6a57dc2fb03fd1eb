"""Downloading a checkpoint: as separate files or as an archive, whichever the service offers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tinkex.api import archive, lockfile, reading, training
from tinkex.api.addresses import joined
from tinkex.api.capabilities import CREATE_BY_LOADING, FULL_ARCHIVE
from tinkex.api.landing import Landing, local_errors
from tinkex.api.paths import SAMPLER_KIND, TinkerPath
from tinkex.api.retrying import LONGEST_WAIT, Retrying, retry_after
from tinkex.api.sessions import outcome_of
from tinkex.api.signing import COPY_TTL, SignedFiles
from tinkex.api.storage import BLOCK, Body, OnProgress, Progress, Storage
from tinkex.api.transport import NoAnswer, Request, Transport
from tinkex.api.waiting import Deadline
from tinkex.exceptions import (
    BadRequest,
    Forbidden,
    InvalidAnswer,
    LocalError,
    NotFound,
    NotOffered,
    TinkexError,
)
from tinkex.values import is_loopback

if TYPE_CHECKING:
    from tinkex.api.answers import Answer
    from tinkex.api.sessions import Sessions

#: Name of the copy that the service makes for a download.
_COPY_NAME = "download"
#: What is in every directory that holds a checkpoint, and how many files there may be.
_MARK = "adapter_config.json"
_MAX_FILES = 1000
#: Seconds between questions whether an archive is ready, growing.
_FIRST_LOOK, _LONGEST_LOOK = 1.0, 30.0
#: Statuses of an archive that is still being made.
_IN_THE_MAKING = frozenset({425, 503})
#: What a service answers that does not make copies of training checkpoints for download.
_NO_COPIES = training.NO_DIRECT_LOAD


@dataclass(frozen=True)
class Download:
    """A finished download.

    :ivar directory: where the files are.
    :ivar files: relative names and sizes in bytes.
    :ivar bytes: the sizes in all.
    """

    directory: Path
    files: list[tuple[str, int]]
    bytes: int


def download(
    transport: Transport,
    sessions: Sessions,
    path: TinkerPath,
    directory: Path,
    force: bool,
    on_progress: OnProgress | None,
) -> Download:
    """Download *path* into *directory*; see :meth:`tinkex.api.Checkpoints.download`.

    Beside the files lands a note of which checkpoint they are (:mod:`tinkex.api.lockfile`).
    """
    with Landing(directory, force=force) as landing, Storage(transport) as storage:
        job = _Job(transport, sessions, storage, landing, on_progress)
        files = job.run(path)
        with local_errors(directory):
            sizes = {file.as_posix(): (landing.stage / file).stat().st_size for file in files}
            note = lockfile.write(landing.stage, path, sizes)
        landing.commit([*files, note])
    return Download(directory, sorted(sizes.items()), sum(sizes.values()))


class _Job:
    def __init__(
        self,
        transport: Transport,
        sessions: Sessions,
        storage: Storage,
        landing: Landing,
        on_progress: OnProgress | None,
    ) -> None:
        self._transport = transport
        self._sessions = sessions
        self._storage = storage
        self._landing = landing
        self._on_progress = on_progress

    def run(self, path: TinkerPath) -> list[Path]:
        """Fetch the files of *path* into the landing's stage and return their relative paths."""
        if path.kind == "external_weights":
            return self._fetch_files(path, keep=True)
        if path.kind != "weights":
            return self._fetch_archive(path)
        if not self._transport.capabilities.lacks(CREATE_BY_LOADING):
            try:
                return self._fetch_copy(path)
            except _NoCopies:
                return self._fetch_archive(path)
        try:
            return self._fetch_archive(path)
        except NotOffered as refused:
            try:
                return self._fetch_copy(path)
            except _NoCopies:
                raise refused from None

    def _fetch_copy(self, path: TinkerPath) -> list[Path]:
        with self._copy(path) as copy:
            return self._fetch_files(copy, keep=False)

    # The service's copy of a training checkpoint ------------------------------------------

    @contextmanager
    def _copy(self, path: TinkerPath) -> Iterator[TinkerPath]:
        """Have the service make a copy in separate files, and remove it in the end."""
        deadline = self._transport.deadline("the checkpoint to be prepared")
        session = self._sessions.create(deadline=deadline)
        kind: type[BaseException] | None = None
        try:
            copy = self._make_copy(session, path, deadline)
            try:
                yield copy
            except BaseException as error:
                self._remove(copy, hastily=not isinstance(error, Exception))
                raise
            self._remove(copy, hastily=False)
        except BaseException as error:
            kind = None if isinstance(error, _NoCopies) else type(error)
            raise
        finally:
            session.finish(outcome_of(kind))

    def _make_copy(self, session: Any, path: TinkerPath, deadline: Deadline) -> TinkerPath:
        metadata = {"created_by": "tinkex checkpoint download"}
        try:
            client = training.create_by_loading(
                self._transport, session, path, deadline, user_metadata=metadata
            )
        except _NO_COPIES as error:
            raise _NoCopies from error
        try:
            return client.save_external(_COPY_NAME, COPY_TTL, deadline)
        except NotOffered as error:
            raise _NoCopies from error

    def _remove(self, copy: TinkerPath, *, hastily: bool) -> None:
        # It would vanish by itself after its time; a failure here must not hide the result.
        with suppress(TinkexError):
            deadline = self._transport.deadline("the copy to be deleted", 0.5 if hastily else 10.0)
            self._transport.call(Request("DELETE", copy.url), deadline)

    # Separate files -----------------------------------------------------------------------

    def _fetch_files(self, path: TinkerPath, *, keep: bool) -> list[Path]:
        signed = SignedFiles(self._transport, path, keep)
        wanted = {archive.safe_relative(name): name for name in sorted(signed.urls())}
        if not wanted:
            raise InvalidAnswer("the checkpoint has no files")
        for relative in wanted:
            self._landing.admit(relative)
        done = 0
        for relative, name in wanted.items():
            done += self._fetch_file(signed, relative, name, done)
        return list(wanted)

    def _fetch_file(self, signed: SignedFiles, relative: Path, name: str, done: int) -> int:
        """Fetch one file and return the bytes that came over the wire."""
        try:
            return self._fetch_url(signed.urls()[name], relative, done)
        except (Forbidden, BadRequest, NotFound):
            # The signature may have run out, whatever the service said about its life.
            return self._fetch_url(signed.renewed()[name], relative, done)
        except KeyError:
            raise InvalidAnswer(f"the checkpoint has lost its file {name[:200]!r}") from None

    def _fetch_url(self, url: str, relative: Path, done: int) -> int:
        heard = self._listener(str(relative), done, whole=False)
        with self._storage.open(url, heard) as body, local_errors(self._landing.directory):
            target = self._landing.stage / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                while block := body.read(BLOCK):
                    file.write(block)
            return body.received

    def _listener(self, name: str, done: int, *, whole: bool) -> Callable[[Body], None]:
        def heard(body: Body) -> None:
            if self._on_progress is not None:
                total = body.expected if whole else None
                self._on_progress(Progress(done + body.received, total, name))

        return heard

    # An archive ---------------------------------------------------------------------------

    def _fetch_archive(self, path: TinkerPath) -> list[Path]:
        url = self._archive_url(path)
        try:
            return self._unpack(url, path)
        except Forbidden:
            self._landing.clear()
            return self._unpack(self._archive_url(path), path)

    def _unpack(self, url: str, path: TinkerPath) -> list[Path]:
        if urlsplit(url).scheme == "file":
            return self._copy_directory(url)
        heard = self._listener(path.name, 0, whole=True)
        stage = self._landing.stage
        with self._storage.open(url, heard) as body, local_errors(self._landing.directory):
            found = archive.extract(body, stage, self._landing.admit)
            body.drain()
        return found

    def _archive_url(self, path: TinkerPath) -> str:
        """Return the signed address of the archive, once it has been made."""
        known = self._transport.capabilities
        # Some servers know sampler checkpoints here, and those by their bare names only: for
        # a training checkpoint that name would fetch the sampler's files.
        ways = [path.url, path.bare_url] if path.kind == SAMPLER_KIND else [path.url]
        if known.lacks(FULL_ARCHIVE):
            ways.reverse()
        refusal: NotOffered | None = None
        for way in ways:
            try:
                found = self._signed_archive(f"{way}/archive")
            except NotOffered as error:
                refusal = refusal or error
                continue
            if way == path.url:
                known.offered(FULL_ARCHIVE)
            elif refusal is not None:
                known.missing(FULL_ARCHIVE)
            return found
        assert refusal is not None
        raise _explained(refusal, path) from None

    def _signed_archive(self, url: str) -> str:
        deadline = self._transport.deadline("the archive to be made")
        look = _FIRST_LOOK
        # Every answer is looked at here: a redirect is what is hoped for, 503 means "not yet".
        request = Request("GET", url, what="archives", repeatable=False)
        retrying = Retrying("GET", repeatable=True)
        while True:
            try:
                answer = self._transport.once(request, deadline)
            except NoAnswer as failure:
                retrying.pause_after(failure.original, failure.error, deadline)
                continue
            if answer.status not in _IN_THE_MAKING:
                return self._location(answer, url)
            asked = retry_after(answer)
            wait = asked if asked is not None and asked <= LONGEST_WAIT else look
            if not deadline.allows(wait):
                raise self._transport.refusal(answer)
            deadline.pause(wait, "the archive is being made")
            look = min(look * 2, _LONGEST_LOOK)

    def _location(self, answer: Answer, path: str) -> str:
        if 300 <= answer.status < 400 and answer.headers.get("location"):
            return joined(self._transport.url(path), answer.headers["location"])
        if not answer.ok:
            raise self._transport.refusal(answer, "archives")
        return joined(self._transport.url(path), reading.text(answer.object(), "url"))

    def _copy_directory(self, url: str) -> list[Path]:
        """Copy the directory that a server on this machine names instead of an address."""
        found: list[Path] = []
        source = self._directory(url)
        with local_errors(self._landing.directory):
            for file in sorted(source.rglob("*")):
                if file.is_symlink() or not file.is_file():
                    continue
                if len(found) == _MAX_FILES:
                    raise InvalidAnswer(f"the checkpoint has more than {_MAX_FILES} files")
                relative = file.relative_to(source)
                self._landing.admit(relative)
                (self._landing.stage / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, self._landing.stage / relative, follow_symlinks=False)
                found.append(relative)
        return found

    def _directory(self, url: str) -> Path:
        """Return the directory that *url* names, if it can be nothing but a checkpoint.

        :raises LocalError: it is on another machine, or could be anything.
        """
        parts = urlsplit(url)
        source = Path(unquote(parts.path))
        here = is_loopback(self._transport.base_url) and parts.netloc in ("", "localhost")
        mark = source / _MARK
        plain = source.is_absolute() and ".." not in source.parts
        if here and plain and mark.is_file() and not mark.is_symlink():
            return source
        raise LocalError(
            f"the server keeps the checkpoint in a directory of its own machine: {source}",
            hint=f"Run the download on that machine, with a base URL of 127.0.0.1, if {_MARK} is "
            "in that directory.",
        )


class _NoCopies(Exception):
    """The service does not make copies of training checkpoints for download."""


def _explained(error: NotOffered, path: TinkerPath) -> NotOffered:
    error.message = f"this server offers no download of {path.checkpoint_type} checkpoints"
    return error
