"""Downloading a checkpoint: as separate files or as an archive, whichever the service offers."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tinkex.api.http import schema
from tinkex.api.http.addresses import joined
from tinkex.api.http.capabilities import CREATE_BY_LOADING, FULL_ARCHIVE
from tinkex.api.http.requesting import Request
from tinkex.api.http.retry import LONGEST_WAIT, retry_after
from tinkex.api.http.transport import NoResponse, Transport
from tinkex.api.paths import SAMPLER_KIND, TinkerPath
from tinkex.api.transfer import manifest, separate, weights
from tinkex.api.transfer.copies import NoCopies, copy_of
from tinkex.api.transfer.packed import Packed
from tinkex.api.transfer.progress import Meter, OnProgress
from tinkex.api.transfer.separate import Files
from tinkex.api.transfer.signing import SignedFiles
from tinkex.api.transfer.staging import StagingDirectory, local_errors
from tinkex.api.transfer.storage import Storage
from tinkex.api.transfer.streams import Address
from tinkex.config.values import is_loopback
from tinkex.exceptions import InvalidResponse, LocalError, NotOffered

if TYPE_CHECKING:
    from tinkex.api.http.answers import Response
    from tinkex.api.resources.sessions import Sessions

#: What is in every directory that holds a checkpoint, and how many files there may be.
_MARK = "adapter_config.json"
_MAX_FILES = 1000
#: Seconds between questions whether an archive is ready, growing.
_FIRST_LOOK, _LONGEST_LOOK = 1.0, 30.0
#: Statuses of an archive that is still being made.
_IN_THE_MAKING = frozenset({425, 503})


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

    A note of the checkpoint lands beside the files (:mod:`~tinkex.api.transfer.manifest`).
    """
    meter = Meter(on_progress)
    with StagingDirectory(path, directory, force=force) as staging, Storage(transport) as storage:
        try:
            files = _Job(transport, sessions, storage, staging, meter).run(path)
        finally:
            meter.stop()
        with local_errors(directory):
            weights.check(staging.content, files)
            files.pop(Path(manifest.NAME), None)  # ours takes the place of anybody's
            known = {relative.as_posix(): file for relative, file in files.items()}
            note = manifest.write(staging.content, path, known)
        staging.install([*files, note])
    sizes = [(name, file.size_bytes) for name, file in sorted(known.items())]
    return Download(directory, sizes, sum(size for _, size in sizes))


class _Job:
    def __init__(
        self,
        transport: Transport,
        sessions: Sessions,
        storage: Storage,
        staging: StagingDirectory,
        meter: Meter,
    ) -> None:
        self._transport = transport
        self._sessions = sessions
        self._storage = storage
        self._staging = staging
        self._meter = meter

    def run(self, path: TinkerPath) -> Files:
        """Fetch the files of *path* into the staging directory."""
        if path.kind == "external_weights":
            return self._fetch_files(SignedFiles(self._transport, path, keep=True))
        if path.kind != "weights":
            return self._fetch_archive(path)
        if not self._transport.capabilities.lacks(CREATE_BY_LOADING):
            try:
                return self._fetch_copy(path)
            except NoCopies:
                return self._fetch_archive(path)
        try:
            return self._fetch_archive(path)
        except NotOffered as refused:
            try:
                return self._fetch_copy(path)
            except NoCopies:
                raise refused from None

    def _fetch_copy(self, path: TinkerPath) -> Files:
        with copy_of(self._transport, self._sessions, path, self._staging) as signed:
            return self._fetch_files(signed)

    def _fetch_files(self, signed: SignedFiles) -> Files:
        return separate.fetch(signed, self._storage, self._staging, self._meter)

    # An archive ---------------------------------------------------------------------------

    def _fetch_archive(self, path: TinkerPath) -> Files:
        url = self._archive_url(path)
        if urlsplit(url).scheme == "file":
            return self._copy_directory(url)
        first = [url]
        address = Address(lambda: first[0], lambda: self._archive_url(path))
        self._meter.expect([path.name])
        return Packed(self._storage, self._staging, address, path.name, self._meter).fetch()

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
        retrying = self._transport.retrying("GET", repeatable=True)
        while True:
            try:
                answer = self._transport.once(request, deadline)
            except NoResponse as failure:
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

    def _location(self, answer: Response, path: str) -> str:
        if 300 <= answer.status < 400 and answer.headers.get("location"):
            return joined(self._transport.url(path), answer.headers["location"])
        if not answer.ok:
            raise self._transport.refusal(answer, "archives")
        return joined(self._transport.url(path), schema.text(answer.object(), "url"))

    def _copy_directory(self, url: str) -> Files:
        """Copy the directory that a server on this machine names instead of an address."""
        found: Files = {}
        source = self._directory(url)
        self._staging.open()
        content = self._staging.content
        with local_errors(self._staging.target):
            for file in sorted(source.rglob("*")):
                if file.is_symlink() or not file.is_file():
                    continue
                if len(found) == _MAX_FILES:
                    raise InvalidResponse(f"the checkpoint has more than {_MAX_FILES} files")
                relative = file.relative_to(source)
                self._staging.admit(relative)
                with file.open("rb") as old, content.open(relative, "wb", make=True) as new:
                    shutil.copyfileobj(old, new)
                with content.open(relative, "rb") as copy:
                    sha256 = hashlib.file_digest(copy, "sha256").hexdigest()
                    size = copy.tell()
                found[relative] = manifest.LockedFile(size, sha256)
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


def _explained(error: NotOffered, path: TinkerPath) -> NotOffered:
    error.message = f"this server offers no download of {path.checkpoint_type} checkpoints"
    return error
