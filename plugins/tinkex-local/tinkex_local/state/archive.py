"""A checkpoint as a tar stream of known length, generated while it is sent."""

from __future__ import annotations

import contextlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = 256 * 1024
_RECORD = 512
#: An empty member that marks a complete checkpoint, as on the hosted service.
MARKER = "checkpoint_complete"


class Archive:
    """An archive as the body of a WSGI response; its files are opened immediately.

    Therefore, a deletion during the transfer has no effect on it. :meth:`close` is called even if
    the client disconnects.

    :param directory: the directory whose regular files become members.
    :param mtime: modification time of every member, seconds since the epoch.
    :param gzip: whether the stream is compressed.
    :raises OSError: a file cannot be opened.
    """

    def __init__(self, directory: Path, mtime: float, *, gzip: bool = False) -> None:
        self._gzip = gzip
        self._stack = contextlib.ExitStack()
        self._members: list[tuple[tarfile.TarInfo, BinaryIO | None]] = []
        with self._stack:
            for path in sorted(directory.iterdir()):
                file = self._stack.enter_context(path.open("rb"))
                self._add(path.name, path.stat().st_size, mtime, file)
            self._add(MARKER, 0, mtime, None)
            self._stack = self._stack.pop_all()

    @property
    def length(self) -> int:
        """Size of the whole uncompressed archive in bytes."""
        padded = sum(_RECORD + -(-info.size // _RECORD) * _RECORD for info, _ in self._members)
        return padded + 2 * _RECORD

    def __iter__(self) -> Iterator[bytes]:
        if not self._gzip:
            yield from self._chunks()
            return
        packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        for chunk in self._chunks():
            if packed := packer.compress(chunk):
                yield packed
        yield packer.flush()

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def _add(self, name: str, size: int, mtime: float, file: BinaryIO | None) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, int(mtime), 0o644
        self._members.append((info, file))

    def _chunks(self) -> Iterator[bytes]:
        with self._stack:
            for info, file in self._members:
                yield info.tobuf(tarfile.USTAR_FORMAT)
                if file is not None:
                    yield from _exactly(file, info.size)
                    yield bytes(-info.size % _RECORD)
            yield bytes(2 * _RECORD)


def _exactly(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        chunk = file.read(min(BLOCK, size))
        if not chunk:
            raise OSError("a checkpoint file was truncated during the transfer")
        size -= len(chunk)
        yield chunk
