"""Output that is complete before any of it is shown."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tinkex.exceptions import LocalError

#: Characters that are kept in memory: what most lists have, so that they touch no disk at all.
_BLOCK = 1024 * 1024


@contextmanager
def spooled(stdout: TextIO) -> Iterator[TextIO]:
    """Yield a stream whose text goes to *stdout* when the block ends without an error.

    What is long lies in a temporary file that has no name, so that memory stays flat; in memory
    where no file can be made.

    :raises LocalError: there is no room for it.
    """
    with _Spool() as spool:
        yield spool
        spool.seek(0)
        while text := spool.read(_BLOCK):
            stdout.write(text)


class _Spool(io.StringIO):
    """Text in memory, moved into a temporary file as soon as it is long."""

    def __init__(self) -> None:
        super().__init__(newline="")
        self._file: TextIO | None = None
        self._stays = False

    def write(self, text: str) -> int:
        if self._file is None:
            written = super().write(text)
            if self.tell() > _BLOCK and not self._stays:
                self._move()
            return written
        return self._put(text)

    def seek(self, place: int, whence: int = 0) -> int:
        if self._file is None:
            return super().seek(place, whence)
        try:
            return self._file.seek(place, whence)  # writes what is still in memory
        except OSError as error:
            raise _no_room(error) from error

    def read(self, size: int | None = -1) -> str:
        return super().read(size) if self._file is None else self._file.read(size or -1)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _move(self) -> None:
        try:
            # Line breaks and characters come back as they were.
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - closed with the spool
                "w+", encoding="utf-8", errors="surrogatepass", newline="", buffering=_BLOCK
            )
        except OSError:
            self._stays = True
            return
        self._put(self.getvalue())
        super().seek(0)
        self.truncate()

    def _put(self, text: str) -> int:
        assert self._file is not None
        try:
            return self._file.write(text)
        except OSError as error:
            raise _no_room(error) from error


def _no_room(error: OSError) -> LocalError:
    return LocalError(
        f"cannot keep the rows until all of them are there: {error.strerror}",
        hint="Make room for temporary files, name another directory with TMPDIR, or ask for less.",
    )
