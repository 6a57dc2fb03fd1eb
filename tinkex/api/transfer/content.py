"""Format checks of downloaded weights and configurations."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import Any, BinaryIO

from tinkex.api.transfer.manifest import ADAPTER_CONFIG

#: Number of bytes needed to recognize the format of a file.
START = 512
#: Size of the header length field in weights, and maximum header length, both from the format.
_LENGTH, _MAX_HEADER = 8, 100_000_000
#: Maximum size of a configuration in bytes, a thousand times the usual size.
_MAX_CONFIG = 16 * 1024 * 1024
#: Beginning of a file, in lower case without white space → its format.
_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer",
    b"<": "an XML document",
    b"{": "a JSON object",
    b"[": "a JSON array",
    b"pk\3\4": "a ZIP archive",
    b"\x80": "a Python pickle",
    b"\x1f\x8b": "a gzip file",
}


def kind_of(start: bytes) -> str | None:
    """Return the format of a file, such as ``an HTML page``; ``None`` if unknown.

    :param start: the first :data:`START` bytes of the file, or the whole file.
    """
    if not start.strip(b"\0"):
        return "a file of zeros" if start else "an empty file"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<") and re.search(b"<html|<!doctype html", text):
        return "an HTML page"
    found = next((kind for begin, kind in _KINDS.items() if text.startswith(begin)), None)
    is_text = text.isascii() and b"".join(text.split()).decode().isprintable()
    return found or ("plain text" if is_text else None)


def check(name: str, file: BinaryIO) -> None:
    """Check the format of *file* if *name* denotes weights or an adapter configuration.

    :raises ValueError: it has another format, or is incomplete; the message has no subject.
    :raises OSError: it cannot be read.
    """
    if name.endswith(".safetensors"):
        tensor_names(file)
    elif name == ADAPTER_CONFIG:
        json_object(file)


def tensor_names(file: BinaryIO) -> list[str]:
    """Check the header and size of *file*, and return the names of its tensors.

    If the storage sends no length, or one that is too small, nothing else detects a truncated file.
    A safetensors file (https://huggingface.co/docs/safetensors) begins with the length of its
    JSON header in 8 bytes; the header gives the offsets of all tensors, up to the end of the file.

    :raises ValueError: its size does not match its header, or it has another format.
    """
    start, size = file.read(START), os.fstat(file.fileno()).st_size
    length = int.from_bytes(start[:_LENGTH], "little")
    # In another format this may be any number, so the header is not read into memory.
    if length > _MAX_HEADER or start[_LENGTH : _LENGTH + 1] != b"{":
        raise ValueError(_is_not("a safetensors file", start))
    file.seek(_LENGTH)
    header, names, end = file.read(length), list[str](), 0
    if len(header) == length:
        try:
            tensors = json.loads(header.decode())
            names = [name for name in tensors if name != "__metadata__"]
            for begin, stop in sorted(tensors[name]["data_offsets"] for name in names):
                if begin != end or stop < begin:
                    raise ValueError("a gap, or tensors that overlap")
                end = stop
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError("is not a safetensors file: its header is malformed") from error
    if size != _LENGTH + length + end:
        raise ValueError(f"has {size} bytes, but its header requires {_LENGTH + length + end}")
    return names


def json_object(file: BinaryIO) -> dict[str, Any]:
    """Return the JSON object in *file*.

    :raises ValueError: it is not a JSON object.
    """
    content, found = file.read(_MAX_CONFIG), None
    with suppress(ValueError, RecursionError):
        found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(_is_not("a JSON object", content[:START]))
    return found


def _is_not(expected: str, start: bytes) -> str:
    kind = kind_of(start)
    return f"is not {expected}" if kind in (None, expected) else f"is {kind}, not {expected}"
