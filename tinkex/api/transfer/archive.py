"""Extraction of a tar stream that somebody else packed."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import IO, Protocol, cast

from tinkex.api.transfer.body import Readable
from tinkex.api.transfer.digests import Digest
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.manifest import LockedFile
from tinkex.api.transfer.unpacking import GZIP_MAGIC, Forward, Gunzipped, Peeked
from tinkex.exceptions import InvalidResponse

#: Bytes that may come between the contents of two files: headers, with long names and more.
MAX_HEADERS = 1024 * 1024
#: What the libraries raise for nonsense; the last three come from numbers in headers.
_DAMAGED = (
    *(tarfile.TarError, EOFError, zlib.error),
    *(ValueError, OverflowError, MemoryError),
)
#: A directory that does not exist.
_NOWHERE = "/nonexistent"
#: Two empty blocks end an archive.
_END = 2 * tarfile.BLOCKSIZE


def safe_relative(name: str) -> Path:
    """Return *name* as a path that stays below the directory it is joined to.

    :raises InvalidResponse: it does not.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # Backslashes and colons would mean directories and drives on another system.
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or not _is_text(name):
        raise InvalidResponse(f"the download holds a file with an unsafe name: {name[:200]!r}")
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
    :ivar known: what is known about it, if all of it is here.
    """

    name: str
    data: int
    size: int
    have: int = 0
    files: dict[Path, LockedFile] = field(default_factory=dict)
    known: LockedFile | None = None

    @property
    def end(self) -> int:
        """Position in the archive where the next header begins."""
        return self.data + _padded(self.size)

    @property
    def next(self) -> int:
        """Position in the archive of the first byte that is missing."""
        return self.data + self.have if self.known is None else self.end


def _padded(size: int) -> int:
    return size + -size % tarfile.BLOCKSIZE


def extract(
    source: Readable,
    directory: Directory,
    admit: Admit,
    *,
    after: Mark | None = None,
    on_member: OnMember | None = None,
) -> dict[Path, LockedFile]:
    """Extract the tar stream *source*, plain or gzip, into *directory* as it arrives.

    Regular files and directories only; owners, modes and times are not taken over.

    :param admit: is asked with each file's relative path before a byte of it is written.
    :param after: *source* goes on from its :attr:`Mark.next`, the rest being in *directory*.
    :param on_member: is told before the content of each member of a plain archive.
    :returns: the files by relative path.
    :raises InvalidResponse: the archive is damaged, incomplete, or holds something unsafe.
    """
    peeked = Peeked(source)
    plain: Readable = peeked
    if after is None and peeked.starts_with(GZIP_MAGIC):
        plain, on_member = Gunzipped(peeked), None
    found: dict[Path, LockedFile] = {}
    base = 0
    try:
        if after is not None:
            found.update(after.files)
            found[Path(after.name)] = after.known or _finish(plain, directory, after)
            base = after.end
        forward = Forward(plain)

        def told(mark: Mark) -> LockedFile | None:
            known = on_member(mark) if on_member is not None else None
            if known is not None:
                peeked.forget()
                forward.jump(mark.end - base)
            return known

        end = _extract_members(forward, directory, admit, found, base, told)
        while forward.some():
            pass
    except _DAMAGED as error:
        raise InvalidResponse("the archive is damaged or incomplete") from error
    if forward.position - end < _END or forward.last_data > end:
        raise InvalidResponse("the archive is incomplete")
    if not found:
        raise InvalidResponse("the archive holds no files")
    return found


def _finish(source: Readable, directory: Directory, mark: Mark) -> LockedFile:
    """Write the rest of a member whose beginning is here."""
    with Digest(mark.size) as found, directory.open(mark.name, "r+b") as file:
        file.truncate(mark.have)
        while found.take(file, mark.have):
            pass
        _copy(source, file, mark.size - mark.have, found)
        padding = memoryview(bytearray(_padded(mark.size) - mark.size))
        while padding:
            count = source.readinto(padding)
            if not count:
                raise InvalidResponse("the archive is incomplete")
            padding = padding[count:]
        return LockedFile(mark.size, found.hexdigest())


def _copy(source: Readable, file: FileIO, count: int, found: Digest) -> None:
    """Write the next *count* bytes of *source*, and add them to *found*."""
    while count:
        block = found.take(source, count)
        if not block:
            raise InvalidResponse("the archive is incomplete")
        write_all(file, block)
        count -= len(block)


class OnMember(Protocol):
    """Is told what comes next; may fetch it itself."""

    def __call__(self, mark: Mark, /) -> LockedFile | None:
        """Return what is known about the file if it is here now.

        The source goes on at the end of *mark* then.
        """
        ...


class Admit(Protocol):
    """Decides whether a file may be written; raises if not."""

    def __call__(self, relative: Path, /) -> None: ...


def _extract_members(
    source: Forward,
    directory: Directory,
    admit: Admit,
    found: dict[Path, LockedFile],
    base: int,
    on_member: OnMember,
) -> int:
    """Add the members to *found*; return the position of the end of the last one."""
    source.allow(MAX_HEADERS)  # the first header is read on opening
    with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:") as tar:
        while member := _next(tar, source):
            if member.isdir():
                if member.name.strip("/") not in ("", "."):
                    with _once(member):
                        directory.make_parents(safe_relative(member.name) / "file")
                continue
            if not member.isreg() or member.issparse():
                raise InvalidResponse(
                    f"the archive holds something that is no file: {member.name[:200]!r}"
                )
            relative = safe_relative(member.name)
            # The library's own judgement, in addition; links that are in a directory are not asked.
            tarfile.data_filter(member, _NOWHERE)
            admit(relative)
            known = None
            with _once(member):  # before anything is noted about it
                directory.make_parents(relative)
            # Headers that hold for all members after them are known to those who read them.
            if not tar.pax_headers:
                data = base + member.offset_data
                with _once(member):
                    if directory.stat(relative) is not None:
                        raise FileExistsError
                    known = on_member(Mark(relative.as_posix(), data, member.size, 0, found))
            found[relative] = known or _write(source, member, directory, relative)
        return tar.offset


def _next(tar: tarfile.TarFile, source: Forward) -> tarfile.TarInfo | None:
    """Return the next member; its headers must not fill the memory."""
    source.allow(MAX_HEADERS)
    member = tar.next()
    source.allow(None)
    return member


def _write(
    source: Forward, member: tarfile.TarInfo, directory: Directory, relative: Path
) -> LockedFile:
    """Write the content of *member*, which comes next."""
    with _once(member), Digest(member.size) as found:
        with directory.open(relative, "xb") as file:
            _copy(source, file, member.size, found)
        source.seek(source.position + _padded(member.size) - member.size)
        return LockedFile(member.size, found.hexdigest())


def write_all(file: FileIO, block: memoryview) -> None:
    """Write *block* to the unbuffered *file*, which may take it in pieces."""
    while block:
        block = block[file.write(block) :]


@contextmanager
def _once(member: tarfile.TarInfo) -> Iterator[None]:
    """Tell a file that is in the way as what it is: one that came before."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidResponse(f"the archive holds {member.name[:200]!r} twice") from error
