"""Downloads of one or more checkpoints, as separate files or as an archive."""

from __future__ import annotations

import hashlib
import operator
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tinkex.api.http import schema
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import adapter, archive, content, manifest
from tinkex.api.transfer.adapter import AdapterMismatch
from tinkex.api.transfer.archive_url import ArchiveURL, local_directory
from tinkex.api.transfer.manifest import ManifestFile
from tinkex.api.transfer.progress import OnProgress, Progress, ProgressTracker
from tinkex.api.transfer.ranges import Failed, FileDownload, GrowingFile, Restarted, Written
from tinkex.api.transfer.staging import CONTENT, StagingDirectory, local_errors
from tinkex.api.transfer.streams import RenewableURL
from tinkex.exceptions import (
    APIError,
    BadRequest,
    Forbidden,
    InvalidResponse,
    LimitReached,
    NotFound,
    NotOffered,
    TinkexError,
    UsageError,
)

if TYPE_CHECKING:
    from tinkex.api.http.retry import Deadline
    from tinkex.api.resources.sessions import Sessions

#: Maximum number of concurrent checkpoints, and of concurrent files per checkpoint.
_CHECKPOINTS, _FILES = 3, 4
#: Name of the archive in the staging directory.
_ARCHIVE = "archive"
#: Name and lifetime in seconds of the copy that a service makes of a training checkpoint.
_COPY_NAME, _COPY_TTL = "download", 3600
#: Errors raised if an earlier attempt's copy no longer exists.
_GONE = (NotFound, NotOffered, Forbidden, BadRequest, InvalidResponse, UsageError)
#: Signed URLs are renewed if they expire sooner than this.
_MARGIN = timedelta(minutes=5)

#: The files of a checkpoint by relative path.
Files = dict[Path, ManifestFile]


@dataclass(frozen=True)
class Download:
    """A finished download.

    :ivar directory: the directory with the files.
    :ivar files: relative names and sizes in bytes.
    :ivar bytes: the sum of the sizes.
    :ivar mismatch: tensors that PEFT would not load; ``None`` if it loads all.
    """

    directory: Path
    files: list[tuple[str, int]]
    bytes: int
    mismatch: AdapterMismatch | None = None


def download(
    transport: Transport,
    sessions: Sessions,
    path: TinkerPath,
    directory: Path,
    force: bool,
    on_progress: OnProgress | None,
) -> Download:
    """Download *path* into *directory*; see :meth:`tinkex.api.Checkpoints.download`."""
    tracker = ProgressTracker(on_progress)
    with ExitStack() as stack:
        if transport.is_dry_run:  # the first request is shown, and the target is not changed
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        staging = stack.enter_context(StagingDirectory(path, directory, force=force))
        try:
            files = _Download(transport, sessions, path, staging, tracker).fetch()
        finally:
            tracker.cancel()
        with local_errors(directory):
            mismatch = _checked(staging, files)
            files.pop(Path(manifest.NAME), None)  # one that the checkpoint contains
            written = manifest.write(staging.content, path, files)
        staging.install([*files, written])
    sizes = [(name.as_posix(), file.size_bytes) for name, file in sorted(files.items())]
    return Download(directory, sizes, sum(size for _, size in sizes), mismatch)


def _checked(staging: StagingDirectory, files: Files) -> AdapterMismatch | None:
    """Check the format of *files*; return the tensors that PEFT would not load.

    :raises InvalidResponse: the content of a file does not match its name.
    """
    for relative in files:
        with staging.content.open(relative, "rb") as file:
            try:
                content.check(relative.name, file)
            except ValueError as error:
                raise InvalidResponse(
                    f"{relative} {error}",
                    hint="Try again. If the error persists, the checkpoint is damaged on the "
                    "server.",
                ) from error
    configs = [relative for relative in files if relative.name == manifest.ADAPTER_CONFIG]
    return next(filter(None, (adapter.examine(staging.content, one) for one in configs)), None)


class _Download:
    """Fetches the files of a checkpoint into a staging directory."""

    def __init__(
        self,
        transport: Transport,
        sessions: Sessions,
        path: TinkerPath,
        staging: StagingDirectory,
        tracker: ProgressTracker,
    ) -> None:
        self._transport, self._sessions, self._path = transport, sessions, path
        self._staging, self._tracker = staging, tracker
        self._archive_url = ArchiveURL(transport, path)

    def fetch(self) -> Files:
        """Fetch the files by the method that the service offers for this kind of checkpoint."""
        if self._path.kind == "external_weights":
            return self._fetch_files(SignedURLs(self._transport, self._path, keep=True))
        from tinkex.api.training.client import CREATE_BY_LOADING

        can_copy = CREATE_BY_LOADING not in self._transport.missing
        if self._path.kind == "weights" and can_copy:
            with (
                suppress(NoCopiesError),
                export_copy(self._transport, self._sessions, self._path, self._staging) as signed,
            ):
                return self._fetch_files(signed)
        return self._fetch_archive()

    # Separate files -------------------------------------------------------------------------

    def _fetch_files(self, signed: SignedURLs) -> Files:
        urls = signed.urls()
        archive.check_number(len(urls))
        names = archive.relative_names(urls)
        if not names:
            raise InvalidResponse("the checkpoint has no files")
        for relative in names:
            self._staging.admit(relative)
        self._tracker.expect(relative.as_posix() for relative in names)

        def fetch(relative: Path) -> tuple[Path, ManifestFile]:
            self._tracker.check()
            url = RenewableURL(partial(signed.url, names[relative]))
            with local_errors(self._staging.target):
                label = relative.as_posix()
                sha256 = self._fetch_file(url, f"{CONTENT}/{label}", label)
                known = self._staging.content.stat(relative)
                assert known is not None, "it has just been fetched"
                return relative, ManifestFile(known.st_size, sha256)

        return dict(map_ordered(fetch, names, workers=_FILES))

    def _fetch_file(self, url: RenewableURL, name: str, label: str, **options: Any) -> str:
        return FileDownload(
            self._transport, self._staging, url, name, self._tracker, label=label, **options
        ).fetch()

    # An archive -----------------------------------------------------------------------------

    def _fetch_archive(self) -> Files:
        url = self._archive_url.get()
        if urlsplit(url).scheme == "file":
            return self._copy_directory(url)
        label, staging = self._path.name, self._staging

        def check_space(size: int, received: int) -> None:
            # The extracted files are at least as large, and both exist for a while.
            staging.check_space(2 * size - received)

        self._tracker.expect([label])
        renewable = RenewableURL(lambda renew: self._archive_url.get() if renew else url)
        written = Written()

        def fetch() -> Exception | None:
            try:
                self._fetch_file(renewable, _ARCHIVE, label, on_size=check_space, written=written)
            except Exception as error:  # raised when the extraction has ended, too
                return error
            else:
                written.end()
                return None
            finally:
                written.fail()

        with local_errors(staging.target):
            try:
                works: tuple[Callable[[], Any], ...] = (fetch, partial(self._extract, written))
                failure, files = map_ordered(operator.call, works, workers=2)
            finally:
                written.fail()
            if failure is not None:
                raise failure
            extracted: Files = files
            return extracted

    def _extract(self, written: Written) -> Files:
        """Extract the archive while it is being downloaded, so that little is left at the end."""
        staging = self._staging
        while True:
            with staging.changing():
                staging.clear_content()
            version = written.version
            try:
                written.wait_for(1, version)
                with staging.root.open(_ARCHIVE, "rb") as file:
                    return archive.extract(
                        GrowingFile(file, written, version),
                        staging.content,
                        admit=staging.admit,
                        check_space=staging.check_space,
                        creating=staging.changing,
                    )
            except Restarted:
                continue
            except Failed:  # the download raises the reason
                return {}

    # A directory ----------------------------------------------------------------------------

    def _copy_directory(self, url: str) -> Files:
        """Copy the local directory that a server on this machine returned instead of a URL."""
        source = local_directory(self._transport, url)
        found: Files = {}
        with local_errors(self._staging.target):
            self._staging.clear_content()
            for relative, file in _listed(source).items():
                self._staging.admit(relative)
                with (
                    file.open("rb") as old,
                    self._staging.content.open(relative, "wb", make=True) as new,
                ):
                    shutil.copyfileobj(old, new)
                    size = new.tell()
                with self._staging.content.open(relative, "rb") as copy:
                    sha256 = hashlib.file_digest(copy, "sha256").hexdigest()
                found[relative] = ManifestFile(size, sha256)
        return found


def _listed(source: Path) -> dict[Path, Path]:
    """Return the files in *source* by relative path.

    :raises InvalidResponse: there are too many, or a name is not allowed in a checkpoint.
    """
    found: dict[Path, Path] = {}
    for file in source.rglob("*"):
        relative = archive.safe_relative(file.relative_to(source).as_posix())
        if file.is_file() and not file.is_symlink():
            found[relative] = file
            archive.check_number(len(found))
    return found


# Signed URLs and copies -----------------------------------------------------------------------


class SignedURLs:
    """The signed URLs of a checkpoint's files, renewed before they expire; thread-safe.

    :param keep: do not change the expiry time of the checkpoint, which belongs to the user.
    """

    def __init__(self, transport: Transport, path: TinkerPath, keep: bool) -> None:
        self.path = path
        self._transport, self._keep = transport, keep
        self._lock = threading.Lock()
        self._urls: dict[str, str] = {}
        self._expiry: datetime | None = None

    def urls(self, *, renew: bool = False) -> dict[str, str]:
        """Return the URLs by relative name, valid for some minutes.

        :param renew: request new URLs even if the current ones are valid.
        """
        with self._lock:
            is_old = self._expiry and datetime.now(UTC) > self._expiry - _MARGIN
            if renew or is_old or not self._urls:
                self._renew()
            return self._urls

    def url(self, name: str, renew: bool) -> str:
        """Return the URL of the file *name*; a new one with *renew*."""
        urls = self.urls(renew=renew)
        if name not in urls:
            raise InvalidResponse(f"the checkpoint no longer has the file {name[:200]!r}")
        return urls[name]

    def _renew(self) -> None:
        deadline = self._transport.deadline("the file URLs")
        path = f"{self.path.url}/external_weights_urls"
        request = Request("GET", path, what="separate file downloads")
        data = self._transport.call(request, deadline).object()
        urls = schema.mapping(data.get("urls"), "urls")
        if not all(isinstance(url, str) for url in urls.values()):
            schema.refuse("'urls' contains a value that is not a string")
        self._urls, self._expiry = dict(urls), _expiry(data)
        if not self._keep:  # a copy must live longer than its URLs
            body = {"ttl_seconds": _COPY_TTL}
            with suppress(APIError):
                self._transport.call(Request("PUT", f"{self.path.url}/ttl", body), deadline)


def _expiry(data: dict[str, Any]) -> datetime | None:
    try:
        found = schema.optional_time(data, "expires")
    except InvalidResponse:
        return None
    # URLs that expire at once would be renewed again and again.
    return found if found and found > datetime.now(UTC) + _MARGIN else None


class NoCopiesError(Exception):
    """The service makes no copies of training checkpoints for downloads."""


@contextmanager
def export_copy(
    transport: Transport, sessions: Sessions, path: TinkerPath, staging: StagingDirectory
) -> Iterator[SignedURLs]:
    """Yield the signed URLs of a copy of *path*, either of an earlier attempt or new.

    The copy is deleted at the end, unless the next attempt can use it; in that case it expires
    within an hour.

    :raises NoCopiesError: the service makes no copies.
    """
    from tinkex.api.resources.sessions import outcome_of

    signed = _kept_copy(transport, staging)
    if signed is not None:
        with _deleted(transport, signed.path, staging):
            yield signed
        return
    deadline = transport.deadline("checkpoint preparation")
    session = sessions.create(deadline=deadline)
    kind: type[BaseException] | None = None
    try:
        copy = _make_copy(transport, session, path, deadline)
        with staging.changing(at_once=True):
            staging.copy = str(copy)
        with _deleted(transport, copy, staging):
            yield SignedURLs(transport, copy, keep=False)
    except BaseException as error:
        kind = None if isinstance(error, NoCopiesError) else type(error)
        raise
    finally:
        session.finish(outcome_of(kind))


def _kept_copy(transport: Transport, staging: StagingDirectory) -> SignedURLs | None:
    try:
        copy = TinkerPath.from_string(staging.copy or "")
        if (copy.kind, copy.name) != ("external_weights", _COPY_NAME):
            return None  # a download may only delete a copy that it has made
        signed = SignedURLs(transport, copy, keep=False)
        signed.urls()
        return signed
    except _GONE:
        return None


@contextmanager
def _deleted(transport: Transport, copy: TinkerPath, staging: StagingDirectory) -> Iterator[None]:
    seconds = 10.0
    try:
        yield
    except BaseException as error:
        seconds = 10.0 if isinstance(error, Exception) else 0.5
        if staging.keeps(error):
            seconds = 0
        raise
    finally:
        if seconds:
            with suppress(TinkexError):  # the copy expires anyway, and the download is complete
                deadline = transport.deadline("the copy's deletion", seconds)
                transport.call(Request("DELETE", copy.url), deadline)


def _make_copy(
    transport: Transport, session: Any, path: TinkerPath, deadline: Deadline
) -> TinkerPath:
    from tinkex.api.training import client as training

    metadata = {"created_by": "tinkex"}
    try:
        client = training.create_by_loading(
            transport, session, path, deadline, user_metadata=metadata
        )
    except training.NO_DIRECT_LOAD as error:
        raise NoCopiesError from error
    session.unneeded.add(client.model_id)
    try:
        return client.save_external(_COPY_NAME, _COPY_TTL, deadline)
    except NotOffered as error:
        raise NoCopiesError from error


# Several checkpoints --------------------------------------------------------------------------


@dataclass(frozen=True)
class DownloadResult:
    """A checkpoint and the result of its download.

    :ivar tinker_path: the checkpoint.
    :ivar directory: its directory.
    :ivar download: the finished download; ``None`` if nothing was fetched.
    :ivar error: why it failed.
    """

    tinker_path: str
    directory: Path
    download: Download | None = None
    error: TinkexError | None = None

    @property
    def present(self) -> bool:
        """Whether the checkpoint had been complete before."""
        return self.download is None and self.error is None


Fetch = Callable[[TinkerPath, Path, bool, OnProgress | None], Download]


def download_many(
    fetch: Fetch,
    places: Sequence[tuple[TinkerPath, Path]],
    on_progress: OnProgress | None,
    *,
    force: bool = False,
) -> Iterator[DownloadResult]:
    """Download checkpoints, several at a time; yield the results in the order of *places*.

    Complete ones are skipped, incomplete ones replaced.

    :param fetch: downloads a checkpoint into a directory, with or without replacing files.
    :param force: download complete ones as well, and replace files of the same names.
    """
    total, begun = ProgressTracker(on_progress), set[TinkerPath]()
    total.expect(str(path) for path, _ in places)

    def work(place: tuple[TinkerPath, Path]) -> DownloadResult:
        path, directory = place

        def heard(progress: Progress) -> None:
            begun.add(path)
            count = f"{len(begun)} of {len(places)}: " if len(places) > 1 else ""
            label = f"{count}{path.name}/{progress.file}"
            total.start(str(path), progress.total_bytes, progress.done_bytes, label=label)

        if not force and manifest.is_complete(directory, path):
            total.start(str(path), 0)
            return DownloadResult(str(path), directory)
        try:
            # An incomplete earlier download of the same checkpoint is replaced.
            replace = force or manifest.read_of(directory, path) is not None
            return DownloadResult(str(path), directory, fetch(path, directory, replace, heard))
        except LimitReached:  # the concurrency is reduced
            raise
        except TinkexError as error:
            return DownloadResult(str(path), directory, error=error)

    with _unused_removed([directory for _, directory in places]):
        yield from map_ordered(work, places, workers=_CHECKPOINTS)


@contextmanager
def _unused_removed(directories: Sequence[Path]) -> Iterator[None]:
    """After the block, remove those of *directories* and their parents that it left empty.

    A failed download does not do so itself: another one may still use the same parent directory.
    """
    wanted = {place for directory in directories for place in (directory, *directory.parents)}
    missing = [place for place in wanted if not os.path.exists(place)]
    try:
        yield
    finally:
        for place in sorted(missing, key=lambda place: len(place.parts), reverse=True):
            with suppress(OSError):
                place.rmdir()
