"""Tensors in safetensors files, read and written one at a time.

A file is the length of a JSON header in 8 bytes, the header, and the tensors without gaps; see
https://huggingface.co/docs/safetensors. Numbers are little-endian, tensors row-major.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from tinkex.exceptions import LocalError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

#: Size of the header's length in bytes, and the maximum length, both from the format.
_LENGTH, _MAX_HEADER = 8, 100_000_000
#: Headers are padded to a multiple of this size, as the reference implementation does.
_ALIGNMENT = 8
#: Number of bytes copied at a time.
_BLOCK = 4 * 1024 * 1024
_METADATA = "__metadata__"
_HINT = "Download the file again."
#: Floating-point types that can be computed with → bytes per value.
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in the header of a file.

    :ivar dtype: type of its values, as the format names it: ``BF16``, ``F32``, …
    :ivar shape: its dimensions.
    :ivar begin: position of its first byte after the header.
    :ivar size: number of bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @classmethod
    def new(cls, dtype: str, *shape: int) -> TensorInfo:
        """Return a tensor to be written, of a type in :data:`FLOATS`."""
        return cls(dtype, shape, 0, FLOATS[dtype] * math.prod(shape))


class TensorFile:
    """An open safetensors file.

    :param file: a seekable binary file.
    :param label: its name in errors.
    :ivar tensors: the tensors by name, in the order of their data.
    :ivar metadata: the strings of the header's metadata.
    :raises LocalError: it is not a safetensors file, or its header is malformed.
    """

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file, self._label = file, label
        start = self._read(0, _LENGTH)
        length = int.from_bytes(start, "little")
        if len(start) < _LENGTH or length > _MAX_HEADER:
            raise LocalError(f"{label} is not a safetensors file", hint=_HINT)
        header = self._read(_LENGTH, length)
        self._start = _LENGTH + length
        if len(header) != length:
            raise LocalError(f"{label} is truncated", hint=_HINT)
        try:
            self.tensors, self.metadata = parse_header(header)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise LocalError(
                f"{label} is not a safetensors file: its header is malformed", hint=_HINT
            ) from error

    @property
    def size(self) -> int:
        """Size that the header requires, in bytes."""
        return self._start + sum(info.size for info in self.tensors.values())

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of the tensor *name*.

        :raises LocalError: the file is truncated, or cannot be read.
        """
        info = self.tensors[name]
        for offset in range(0, info.size, _BLOCK):
            yield self._exactly(info.begin + offset, min(_BLOCK, info.size - offset))

    def array(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Return the tensor *name*, or the items *start* to *stop* of its first dimension.

        :raises LocalError: the file is truncated, or cannot be read.
        """
        import numpy as np

        info = self.tensors[name]
        first, *others = info.shape
        stop = first if stop is None else min(stop, first)
        item = info.size // first if first else 0
        data = self._exactly(info.begin + start * item, (stop - start) * item)
        return np.frombuffer(data, numpy_type(info.dtype)).reshape(stop - start, *others)

    def _exactly(self, position: int, size: int) -> bytes:
        data = self._read(self._start + position, size)
        if len(data) != size:
            raise LocalError(f"{self._label} is truncated", hint=_HINT)
        return data

    def _read(self, position: int, size: int) -> bytes:
        try:
            self._file.seek(position)
            return self._file.read(size)
        except OSError as error:
            raise LocalError(f"cannot read {self._label}: {error.strerror}") from error


def parse_header(header: bytes) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors and the metadata of a *header*, the tensors in the order of their data.

    :raises ValueError: a shape does not match its size, or tensors overlap or leave gaps.
    :raises LookupError: a member is missing.
    :raises TypeError: a member has another type.
    :raises AttributeError: a member has another type.
    """
    found = json.loads(header)
    metadata = {str(key): str(value) for key, value in (found.pop(_METADATA, None) or {}).items()}
    tensors: dict[str, TensorInfo] = {}
    end = 0
    for name, entry in sorted(found.items(), key=lambda item: item[1]["data_offsets"]):
        (begin, stop), shape, dtype = entry["data_offsets"], entry["shape"], entry["dtype"]
        numbers = [begin, stop, *shape]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("an offset or dimension is not a non-negative integer")
        if begin != end:
            raise ValueError("tensors overlap or leave gaps")
        info = TensorInfo(str(dtype), tuple(shape), begin, stop - begin)
        expected = FLOATS[dtype] * info.count if dtype in FLOATS else info.size
        if info.size < 0 or info.size != expected:
            raise ValueError("the size of a tensor does not match its shape")
        tensors[name], end = info, stop
    return tensors, metadata


def numpy_type(dtype: str) -> Any:
    """Return the NumPy type of *dtype*, one of :data:`FLOATS`."""
    import numpy as np

    if dtype == "BF16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(f"<f{FLOATS[dtype]}")


def write(
    file: BinaryIO,
    tensors: Mapping[str, TensorInfo],
    data: Iterable[bytes],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write a safetensors file whose tensors are computed while it is written.

    :param tensors: the tensors by name, in the order of *data*; their positions are ignored.
    :param data: the bytes of all tensors, in blocks of any size.
    :returns: the size of the file in bytes.
    :raises OSError: it cannot be written.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata or {"format": "pt"})}
    end = 0
    for name, info in tensors.items():
        begin, end = end, end + info.size
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(_LENGTH, "little") + text)
    written = 0
    for block in data:
        written += file.write(block)
    assert written == end, f"{written} bytes of tensors instead of {end}"
    return _LENGTH + len(text) + end
