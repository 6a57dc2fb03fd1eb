"""Random access to the files of a checkpoint on the service, without downloading all of them.

A reader continues the current response, and skips to another position with a range request. If the
storage does not support ranges, it reads and discards the bytes in between. Nothing is written to
disk, except for the record of a temporary copy that some services make for a download.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

from tinkex.api.paths import TinkerPath
from tinkex.api.transfer.archive_url import GZIP, ArchiveURL, local_directory
from tinkex.api.transfer.download import NoCopiesError, SignedURLs, export_copy
from tinkex.api.transfer.staging import StagingDirectory
from tinkex.api.transfer.streams import WHOLE, RenewableURL, ResumingReader, Span
from tinkex.exceptions import InvalidResponse, NotFound

if TYPE_CHECKING:
    from tinkex.api.http.transport import Transport
    from tinkex.api.resources.sessions import Sessions

#: Maximum number of bytes that are read and discarded rather than skipped by a new request.
_SKIPPED = 1024 * 1024


class RemoteFiles:
    """The open files of a checkpoint; see :meth:`tinkex.api.Checkpoints.open_files`."""

    def __init__(
        self, files: Mapping[str, RenewableURL | Path], archive: tarfile.TarFile | None,
        transport: Transport, stack: ExitStack,
    ) -> None:  # fmt: skip
        # Either separate files by relative path, or an archive.
        self._files, self._archive = files, archive
        self._transport, self._stack = transport, stack

    def open(self, name: str) -> BinaryIO:
        """Open the file *name*, which may be in any directory of the checkpoint, for reading.

        :returns: a seekable file, closed with the checkpoint's files.
        :raises NotFound: the checkpoint has no such file.
        :raises tinkex.exceptions.TransportError: while reading, if the connection is not restored.
        """
        if self._archive is not None:
            return self._member(self._archive, name)
        for path, place in self._files.items():
            if path.rpartition("/")[2] == name:
                if isinstance(place, Path):
                    return self._stack.enter_context(place.open("rb"))
                return self._stack.enter_context(_buffered(self._transport, place))
        raise _missing(name)

    def _member(self, archive: tarfile.TarFile, name: str) -> BinaryIO:
        try:
            for member in archive:  # reads no further than necessary
                if member.isreg() and member.name.rpartition("/")[2] == name:
                    found = archive.extractfile(member)
                    assert found is not None, "it is a regular file"
                    return cast(BinaryIO, self._stack.enter_context(found))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InvalidResponse(f"the checkpoint archive is damaged: {error}") from error
        raise _missing(name)


def _missing(name: str) -> NotFound:
    return NotFound(f"the checkpoint has no file {name}", status=404)


@contextmanager
def open_files(transport: Transport, sessions: Sessions, path: TinkerPath) -> Iterator[RemoteFiles]:
    """Open the files of *path*; see :meth:`tinkex.api.Checkpoints.open_files`."""
    with ExitStack() as stack:
        signed = _signed(transport, sessions, path, stack)
        if signed is not None:
            urls = {name: RenewableURL(partial(signed.url, name)) for name in signed.urls()}
            yield RemoteFiles(urls, None, transport, stack)
            return
        finder = ArchiveURL(transport, path)
        url = finder.get()
        if urlsplit(url).scheme == "file":
            directory = local_directory(transport, url)
            files = {file.name: file for file in directory.iterdir() if not file.is_symlink()}
            yield RemoteFiles(files, None, transport, stack)
            return
        renewable = RenewableURL(lambda renew: finder.get() if renew else url)
        file: IO[bytes] = stack.enter_context(_buffered(transport, renewable))
        is_compressed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if is_compressed:
            file = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=file)))
        try:
            archive = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InvalidResponse("the service did not send a checkpoint archive") from error
        yield RemoteFiles({}, archive, transport, stack)


def _signed(
    transport: Transport, sessions: Sessions, path: TinkerPath, stack: ExitStack
) -> SignedURLs | None:
    """Return the URLs of separate files; ``None`` if the service has only an archive."""
    from tinkex.api.training.client import CREATE_BY_LOADING

    if path.kind == "external_weights":
        return SignedURLs(transport, path, keep=True)
    if path.kind == "weights" and CREATE_BY_LOADING not in transport.missing:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinkex-")))
        staging = stack.enter_context(StagingDirectory(path, scratch / "files"))
        with suppress(NoCopiesError):
            return stack.enter_context(export_copy(transport, sessions, path, staging))
    return None


def _buffered(transport: Transport, url: RenewableURL) -> io.BufferedReader:
    return io.BufferedReader(_RemoteFile(transport, url), 64 * 1024)


class _RemoteFile(io.RawIOBase):
    """A remote file; see the module's description.

    :raises tinkex.exceptions.TinkexError: it is not available.
    """

    def __init__(self, transport: Transport, url: RenewableURL) -> None:
        self._transport, self._url = transport, url
        self._position = 0
        self._reader = ResumingReader(transport, url)
        body = self._reader.body
        self._size, self._tag, self._has_ranges = body.total, body.tag, body.ranged
        #: Bytes received after the position *_reached*.
        self._rest, self._reached = b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            if self._size is None:
                raise io.UnsupportedOperation("the size is unknown")
            offset += self._size
        elif whence == io.SEEK_CUR:
            offset += self._position
        self._position = max(offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._size is not None and self._position >= self._size:
            return 0
        self._move()
        if not self._rest:
            self._rest = self._reader.read()
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._reached += count
        self._position = self._reached
        return count

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()

    def _move(self) -> None:
        """Continue the response, or send a range request, to receive the byte at the position."""
        ahead = self._position - self._reached
        if ahead < 0 or (self._has_ranges and ahead > _SKIPPED):
            self._reader.close()
            start = self._position if self._has_ranges else 0
            span = Span(start, None, self._tag, self._size) if start else WHOLE
            self._reader = ResumingReader(self._transport, self._url, span)
            self._rest, self._reached = b"", start
        while self._reached < self._position:
            block = self._rest or self._reader.read()
            if not block:
                return
            skipped = min(len(block), self._position - self._reached)
            self._rest = block[skipped:]
            self._reached += skipped
