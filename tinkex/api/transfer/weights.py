"""Whether a file of weights is whole, by what it says about itself.

Bytes are counted against what the storage announces. One that announces nothing, or too little,
can lose the end of a file unseen; the format of weights tells where that is
(https://huggingface.co/docs/safetensors: 8 bytes with the length of a header, the header in JSON
with the offsets of every tensor, and the tensors up to the end of the file).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any

from tinkex.api.transfer.directory import Directory
from tinkex.exceptions import InvalidResponse

_SUFFIX = ".safetensors"
_LENGTH = 8
#: Longest header that the format allows, in bytes.
_MAX_HEADER = 100_000_000


def check(directory: Directory, files: Iterable[Path]) -> None:
    """Check those of *files*, relative to *directory*, that hold weights.

    What is not in the format is nobody's to judge here.

    :raises InvalidResponse: one is shorter or longer than its own header says.
    :raises OSError: one cannot be read.
    """
    for relative in files:
        if relative.suffix != _SUFFIX:
            continue
        with directory.open(relative, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            wanted = _size_by_header(file)
        if wanted is not None and wanted != size:
            raise InvalidResponse(
                f"{relative} came with {size} bytes, and is {wanted} long by its own header"
            )


def _size_by_header(file: FileIO) -> int | None:
    """Return how long *file* says it is, at least; ``None`` if it is of another format."""
    length = int.from_bytes(file.read(_LENGTH), "little")
    # What is of another format, and so may name any length, is not read into memory.
    header = file.read(1)
    if not 0 < length <= _MAX_HEADER or header != b"{":
        return None
    header += file.read(length - 1)
    if len(header) < length:
        return _LENGTH + length
    try:
        tensors: Any = json.loads(header)
        ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        return _LENGTH + length + max(map(int, ends), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
