"""Extraction of a tar stream that somebody else packed."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import IO, Protocol, cast

from tinkex.api.lockfile import LockedFile
from tinkex.exceptions import InvalidAnswer

_BLOCK = 256 * 1024
_GZIP = b"\x1f\x8b"
#: Bytes that may come between the contents of two files: headers, with long names and more.
MAX_HEADERS = 1024 * 1024
#: What the libraries raise for nonsense; the last three come from numbers in headers.
_DAMAGED = (
    *(tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile),
    *(ValueError, OverflowError, MemoryError),
)
#: Two empty blocks end an archive.
_END = 2 * tarfile.BLOCKSIZE


class Readable(Protocol):
    """Anything that gives bytes."""

    def read(self, size: int = ..., /) -> bytes:
        """Return up to *size* bytes, none at the end."""
        ...


def safe_relative(name: str) -> Path:
    """Return *name* as a path that stays below the directory it is joined to.

    :raises InvalidAnswer: it does not.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # Backslashes and colons would mean directories and drives on another system.
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or not _is_text(name):
        raise InvalidAnswer(f"the download holds a file with an unsafe name: {name[:200]!r}")
    return Path(*parts)


def _is_text(name: str) -> bool:
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


@dataclass
class Mark:
    """A place in a plain archive where extraction can go on: inside of a member.

    :ivar name: the member's relative path.
    :ivar data: position in the archive where its content begins.
    :ivar size: its size in bytes.
    :ivar have: bytes of it that are here.
    :ivar files: the files before it.
    """

    name: str
    data: int
    size: int
    have: int = 0
    files: dict[Path, LockedFile] = field(default_factory=dict)


def extract(
    source: Readable,
    directory: Path,
    admit: Admit,
    *,
    after: Mark | None = None,
    on_member: Callable[[Mark], None] | None = None,
) -> dict[Path, LockedFile]:
    """Extract the tar stream *source*, plain or gzip, into *directory* as it arrives.

    Regular files and directories only; owners, modes and times are not taken over.

    :param admit: is asked with each file's relative path before a byte of it is written.
    :param after: *source* goes on from here, the rest being in *directory*.
    :param on_member: is told before the content of each member of a plain archive.
    :returns: the files by relative path.
    :raises InvalidAnswer: the archive is damaged, incomplete, or holds something unsafe.
    """
    peeked = _Peeked(source)
    plain: Readable = peeked
    if after is None and peeked.starts_with(_GZIP):
        plain, on_member = gzip.GzipFile(fileobj=cast(IO[bytes], peeked)), None
    found: dict[Path, LockedFile] = {}
    base = 0
    try:
        if after is not None:
            found.update(after.files)
            found[Path(after.name)] = _finish(plain, directory, after)
            base = after.data + after.size + -after.size % tarfile.BLOCKSIZE
        counted = _Counted(plain)
        end = _extract_members(counted, directory, admit, found, base, on_member)
        while counted.read(_BLOCK):
            pass
    except _DAMAGED as error:
        raise InvalidAnswer("the archive is damaged or incomplete") from error
    if counted.position - end < _END or counted.last_data > end:
        raise InvalidAnswer("the archive is incomplete")
    if not found:
        raise InvalidAnswer("the archive holds no files")
    return found


def _finish(source: Readable, directory: Path, mark: Mark) -> LockedFile:
    """Write the rest of a member whose beginning is here."""
    path, found = directory / mark.name, hashlib.sha256()
    left = mark.size - mark.have
    with open(path, "r+b", buffering=0) as file:
        file.truncate(mark.have)
        while block := file.read(_BLOCK):
            found.update(block)
        while left:
            block = source.read(min(_BLOCK, left))
            if not block:
                raise InvalidAnswer("the archive is incomplete")
            write_all(file, block)
            found.update(block)
            left -= len(block)
    padding = -mark.size % tarfile.BLOCKSIZE
    while padding:
        block = source.read(padding)
        if not block:
            raise InvalidAnswer("the archive is incomplete")
        padding -= len(block)
    return LockedFile(mark.size, found.hexdigest())


class Admit(Protocol):
    """Decides whether a file may be written; raises if not."""

    def __call__(self, relative: Path, /) -> None: ...


def _extract_members(
    source: _Counted,
    directory: Path,
    admit: Admit,
    found: dict[Path, LockedFile],
    base: int,
    on_member: Callable[[Mark], None] | None,
) -> int:
    """Add the members to *found*; return the position of the end of the last one."""
    with tarfile.open(fileobj=cast(IO[bytes], source), mode="r|", bufsize=_BLOCK) as tar:
        while member := _next(tar, source):
            if member.isdir():
                if member.name.strip("/") not in ("", "."):
                    with _once(member):
                        below = directory / safe_relative(member.name)
                        below.mkdir(parents=True, exist_ok=True)
                continue
            if not member.isreg() or member.issparse():
                raise InvalidAnswer(
                    f"the archive holds something that is no file: {member.name[:200]!r}"
                )
            relative = safe_relative(member.name)
            # The library's own judgement, beside ours.
            tarfile.data_filter(member, str(directory))
            admit(relative)
            # Headers that hold for all members after them are known to those who read them.
            if on_member is not None and not tar.pax_headers:
                data = base + member.offset_data
                on_member(Mark(relative.as_posix(), data, member.size, 0, found))
            found[relative] = _write(tar, member, directory / relative)
        return tar.offset


def _next(tar: tarfile.TarFile, source: _Counted) -> tarfile.TarInfo | None:
    """Return the next member; its headers must not fill the memory."""
    source.allow(MAX_HEADERS + 2 * _BLOCK)  # the library reads ahead
    member = tar.next()
    source.allow(None)
    return member


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> LockedFile:
    content = tar.extractfile(member)
    assert content is not None  # a regular file has content
    left, found = member.size, hashlib.sha256()
    with _once(member):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb", buffering=0) as file:
            while block := content.read(_BLOCK):
                write_all(file, block)
                found.update(block)
                left -= len(block)
    if left:
        raise InvalidAnswer("the archive is incomplete")
    return LockedFile(member.size, found.hexdigest())


def write_all(file: FileIO, block: bytes) -> None:
    """Write *block* to the unbuffered *file*, which may take it in pieces."""
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


@contextmanager
def _once(member: tarfile.TarInfo) -> Iterator[None]:
    """Tell a file that is in the way as what it is: one that came before."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidAnswer(f"the archive holds {member.name[:200]!r} twice") from error


class _Peeked:
    """A source whose first bytes were looked at."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._head = b""

    def starts_with(self, magic: bytes) -> bool:
        while len(self._head) < len(magic):
            block = self._source.read(_BLOCK)
            if not block:
                return False
            self._head += block
        return self._head.startswith(magic)

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return self._source.read(size if size > 0 else _BLOCK)
        size = size if size > 0 else len(self._head)
        block, self._head = self._head[:size], self._head[size:]
        return block


class _Counted:
    """A source that knows how far it is and where the last byte other than zero was."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.position = 0
        self.allow(MAX_HEADERS + 2 * _BLOCK)  # the first header is read on opening
        self.last_data = 0

    def allow(self, size: int | None) -> None:
        """Let no more than *size* bytes be read from now on."""
        self._last = None if size is None else self.position + size

    def read(self, size: int = _BLOCK, /) -> bytes:
        block = self._source.read(size)
        if self._last is not None and self.position + len(block) > self._last:
            raise InvalidAnswer("the archive holds a header that is too large")
        data = len(block.rstrip(b"\0"))
        if data:
            self.last_data = self.position + data
        self.position += len(block)
        return block
