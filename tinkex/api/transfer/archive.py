"""Safe extraction of a downloaded archive."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, cast

from tinkex.api.transfer import manifest
from tinkex.api.transfer.content import START, kind_of
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.manifest import ManifestFile
from tinkex.api.transfer.ranges import GrowingFile
from tinkex.exceptions import InvalidResponse

#: Maximum size in bytes of the headers of one member, long names included.
MAX_HEADERS = 16 * 1024
#: Maximum number of files of a checkpoint, and of members of an archive.
MAX_FILES = 10_000
#: Maximum length in bytes of a file's path, and of its components, as on Linux.
MAX_NAME, MAX_PARTS = 4096, 255
#: Maximum size of the headers for all members; tarfile copies them for each member.
_MAX_GLOBAL = 100
#: Header content that takes quadratic time in Python before 3.11.10.
_DIGITS = re.compile(rb"\d{100}")
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 256 * 1024
#: Two empty blocks end an archive.
_END = 2 * tarfile.BLOCKSIZE
#: Maximum size in bytes of the padding after them.
_MAX_PADDING = 16 * 1024 * 1024
#: Exceptions raised for malformed archives; the last four for numbers in headers.
_MALFORMED = (
    *(tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile),
    *(ValueError, OverflowError, MemoryError, RecursionError),
)


def safe_relative(name: str) -> Path:
    """Return *name* as a relative path that cannot leave its parent directory.

    :raises InvalidResponse: the path is unsafe or too long.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_text = "\0" not in name and not any("\ud800" <= char <= "\udfff" for char in name)
    is_in_manifest = len(parts) > 1 and parts[0] == manifest.NAME
    # Backslashes and colons denote directories and drives on other systems.
    is_foreign = name.startswith("/") or ".." in parts or "\\" in name
    if not parts or is_foreign or is_in_manifest or not is_text:
        raise InvalidResponse(f"the download contains a file with an unsafe name: {name[:200]!r}")
    if len(os.fsencode(name)) > MAX_NAME or len(parts) > MAX_PARTS:
        raise InvalidResponse(f"the download contains a file name that is too long: {name[:200]!r}")
    return Path(*parts)


def check_number(number: int) -> None:
    """Check that *number* of files or directories is within the limit of a checkpoint.

    :raises InvalidResponse: the limit is exceeded.
    """
    if number > MAX_FILES:
        raise InvalidResponse(f"the download contains more than {MAX_FILES} files or directories")


def add_directories(known: set[Path], relative: Path) -> None:
    """Add the parent directories of *relative* to the set of a checkpoint's directories.

    :raises InvalidResponse: there are too many.
    """
    for parent in relative.parents:
        if parent in known:
            break
        known.add(parent)
    check_number(len(known))


def relative_names(names: Iterable[str]) -> dict[Path, str]:
    """Return the *names* of a checkpoint's files by relative path.

    :raises InvalidResponse: a name is unsafe or too long, or two names cannot both be files.
    """
    found, directories = list[tuple[tuple[str, ...], str]](), set[Path]()
    for name in names:
        relative = safe_relative(name)
        add_directories(directories, relative)
        found.append((relative.parts, name))
    found.sort()
    for (first, _), (second, name) in pairwise(found):
        if second[: len(first)] == first:
            raise InvalidResponse(f"the download contains conflicting names: {name[:200]!r}")
    return {Path(*parts): name for parts, name in found}


def extract(
    file: FileIO | GrowingFile,
    directory: Directory,
    *,
    admit: Callable[[Path], None],
    check_space: Callable[[int], None],
    creating: Callable[[], AbstractContextManager[None]],
) -> dict[Path, ManifestFile]:
    """Extract the tar archive *file*, plain or gzip, into *directory*.

    Only regular files and directories are extracted; their owners, modes and times are not
    restored.

    :param admit: called with the relative path of each file, before it is written.
    :param check_space: called with the size of each file, before it is written.
    :param creating: returns a context manager to create each file or directory in.
    :returns: the files by relative path.
    :raises InvalidResponse: the archive is malformed, incomplete, or contains something unsafe.
    :raises OSError: a file cannot be written.
    """
    start = file.read(START)
    file.seek(0)
    is_gzip = start.startswith(_GZIP_MAGIC)
    content = gzip.GzipFile(fileobj=file, mode="rb") if is_gzip else file
    source = _Source(content)
    try:
        found = _extract(source, directory, admit, check_space, creating)
    except _MALFORMED as error:
        kind = None if is_gzip or b"ustar" in start else kind_of(start)
        reason = f"is {kind}, not a tar archive" if kind else "is damaged or incomplete"
        raise InvalidResponse(f"the archive {reason}") from error
    if not found:
        raise InvalidResponse("the archive contains no files")
    return found


class _Source:
    """A file object for :mod:`tarfile` that limits the size of headers, which are read into memory.

    :ivar budget: bytes that may be read, or ``None`` while content is read.
    """

    def __init__(self, file: FileIO | GrowingFile | gzip.GzipFile) -> None:
        self._file = file
        self.seek, self.tell, self.readinto = file.seek, file.tell, file.readinto
        self.budget: int | None = MAX_HEADERS

    def read(self, size: int = -1) -> bytes:
        """Return up to *size* bytes."""
        if self.budget is not None:
            if not 0 <= size <= self.budget:
                raise InvalidResponse("the archive contains a header that is too large")
            self.budget -= size
        found = self._file.read(size)
        if self.budget is not None and _DIGITS.search(found):
            raise InvalidResponse("the archive contains a header with a number out of range")
        return found


def _extract(
    source: _Source,
    directory: Directory,
    admit: Callable[[Path], None],
    check_space: Callable[[int], None],
    creating: Callable[[], AbstractContextManager[None]],
) -> dict[Path, ManifestFile]:
    found, directories = dict[Path, ManifestFile](), set[Path]()
    with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:") as tar:
        for member in _members(tar, source):
            if member.isdir():
                if member.name.strip("/") not in ("", "."):
                    relative = safe_relative(f"{member.name}/file")
                    add_directories(directories, relative)
                    with _once(member), creating():
                        directory.make_parents(relative)
                continue
            relative = _checked(member)
            add_directories(directories, relative)
            admit(relative)
            check_space(member.size)
            with _once(member), creating():
                file = directory.open(relative, "xb", make=True)
            with file:
                found[relative] = _write(source, member, file)
        end = tar.offset
    source.budget = None
    source.seek(end)
    if source.read(_END) != bytes(_END):
        raise InvalidResponse("the archive is incomplete")
    while source.read(_BLOCK):  # up to the gzip checksum
        if source.tell() - end > _MAX_PADDING:
            raise InvalidResponse("unexpected data follows the end of the archive")
    return found


def _members(tar: tarfile.TarFile, source: _Source) -> Iterator[tarfile.TarInfo]:
    number = 0
    source.budget = MAX_HEADERS
    while (member := tar.next()) is not None:
        number += 1
        check_number(number)
        if len(tar.pax_headers) > _MAX_GLOBAL:
            raise InvalidResponse("the archive contains too many global headers")
        cast(Any, tar).members.clear()  # tarfile keeps every member's headers
        source.budget = None
        yield member
        source.budget = MAX_HEADERS


def _checked(member: tarfile.TarInfo) -> Path:
    """Return the relative path of a member that is a regular file.

    :raises InvalidResponse: it is something else, or its name is unsafe.
    """
    if not member.isreg() or member.issparse():
        what = "an item that is not a regular file or directory"
        raise InvalidResponse(f"the archive contains {what}: {member.name[:200]!r}")
    relative = safe_relative(member.name)
    if hasattr(tarfile, "data_filter"):  # since Python 3.11.4
        tarfile.data_filter(member, "/nonexistent")  # the directory only matters for links
    return relative


def _write(source: _Source, member: tarfile.TarInfo, file: FileIO) -> ManifestFile:
    digest, rest = hashlib.sha256(), member.size
    # A quarter faster than `TarFile.extractfile`, which copies each block twice more.
    buffer = memoryview(bytearray(_BLOCK))
    source.seek(member.offset_data)
    while rest:
        block = buffer[: source.readinto(buffer[:rest])]
        if not block:
            raise InvalidResponse("the archive is incomplete")
        digest.update(block)
        rest -= len(block)
        while block:
            block = block[file.write(block) :]
    return ManifestFile(member.size, digest.hexdigest())


@contextmanager
def _once(member: tarfile.TarInfo) -> Iterator[None]:
    """Raise an error if an earlier member has the same name."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidResponse(
            f"the archive contains conflicting names: {member.name[:200]!r}"
        ) from error
