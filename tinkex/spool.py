"""Output that is complete before any of it is shown."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_BLOCK = 1024 * 1024


@contextmanager
def spooled(stdout: TextIO) -> Iterator[TextIO]:
    """Yield a stream whose text goes to *stdout* when the block ends without an error.

    It lies in a temporary file that has no name, so that memory stays flat; in memory where no
    file can be made.
    """
    with _spool() as spool:
        yield spool
        spool.seek(0)
        while text := spool.read(_BLOCK):
            stdout.write(text)


def _spool() -> TextIO:
    try:
        # Line breaks and characters come back as they were.
        return tempfile.TemporaryFile(
            "w+", encoding="utf-8", errors="surrogatepass", newline="", buffering=_BLOCK
        )
    except OSError:
        return io.StringIO(newline="")
