"""A full disk, simulated by a limit on the size of files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_up_to(longest: int | None) -> Iterator[None]:
    """Let this process write no file longer than *longest* bytes during the block.

    Not for a whole test: pytest reports its outcome before it ends the fixtures, maybe to a file.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if longest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
