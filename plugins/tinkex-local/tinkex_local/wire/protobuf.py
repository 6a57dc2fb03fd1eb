"""Protobuf without the protobuf package: the results of sampling and training, and the wire format.

proto3, little-endian; tokens and logprobs are packed arrays in ``bytes`` fields. A missing
``stop_reason`` means ``stop``, because zero values of an enum are not written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTENT_TYPE = "application/x-protobuf"
_NAN = float("nan")
#: Padding for missing entries in a top-k table.
_NO_TOKEN, _NO_LOGPROB = 0, -99999.0


def sample_response(result: Mapping[str, Any]) -> bytes:
    """Encode a sampling result, given in its JSON form."""
    out = b"".join(bytes_field(1, _sequence(sequence)) for sequence in result["sequences"])
    prompt = result.get("prompt_logprobs")
    if prompt is not None:
        out += bytes_field(2, _floats([_NAN if value is None else value for value in prompt]))
    topk = result.get("topk_prompt_logprobs")
    if topk is not None:
        out += bytes_field(3, _topk(topk))
    return out


def _sequence(sequence: Mapping[str, Any]) -> bytes:
    out = varint_field(1, 1) if sequence["stop_reason"] == "length" else b""
    out += bytes_field(2, _ints(sequence["tokens"]))
    if sequence.get("logprobs") is not None:
        out += bytes_field(3, _floats(sequence["logprobs"]))
    if sequence.get("topk_logprobs") is not None:
        out += bytes_field(4, _topk(sequence["topk_logprobs"]))
    return out


def _topk(table: Sequence[Sequence[Sequence[float]] | None]) -> bytes:
    width = max((len(row) for row in table if row), default=0)
    gap = (_NO_TOKEN, _NO_LOGPROB)
    cells = [cell for row in table for cell in [*(row or ()), *[gap] * width][:width]]
    return (
        bytes_field(1, _ints([int(token) for token, _ in cells]))
        + bytes_field(2, _floats([logprob for _, logprob in cells]))
        + varint_field(3, width)
        + varint_field(4, len(table))
    )


#: The class of the records, as the protocol names it.
RECORDS = "ArrayRecord"
_FLOAT32 = 1


def forward_backward_output(
    outputs: Sequence[Mapping[str, NDArray[Any]]], metrics: Mapping[str, float]
) -> bytes:
    """Encode a ``ForwardBackwardOutput``.

    :param outputs: for each example its float32 arrays by name, of shape (N,) or (N, K). Examples
        with another K are in another record.
    """
    out = bytes_field(1, RECORDS.encode())
    for _, group in groupby(outputs, lambda arrays: [a.shape[1:] for a in arrays.values()]):
        out += bytes_field(2, _record(list(group)))
    for name, value in metrics.items():
        out += bytes_field(3, bytes_field(1, name.encode()) + _double_field(2, value))
    return out


def _record(outputs: Sequence[Mapping[str, NDArray[Any]]]) -> bytes:
    import numpy as np

    out = b""
    for name in outputs[0]:
        arrays = [np.ascontiguousarray(output[name], "<f4") for output in outputs]
        offsets = np.cumsum([0, *(array.nbytes for array in arrays)])
        tensor = bytes_field(1, b"".join(array.tobytes() for array in arrays))
        tensor += bytes_field(2, offsets.astype("<i8").tobytes()) + varint_field(3, _FLOAT32)
        if trailing := arrays[0].shape[1:]:
            tensor += bytes_field(4, b"".join(map(_varint, trailing)))
        out += bytes_field(2, bytes_field(1, name.encode()) + bytes_field(2, tensor))
    return out + varint_field(3, len(outputs))


def loss_fn_outputs(encoded: bytes) -> list[dict[str, Any]]:
    """Return the JSON form of the outputs in a ``ForwardBackwardOutput`` encoded here."""
    found: list[dict[str, Any]] = []
    for number, record in fields(encoded):
        if number != 2:
            continue
        columns = dict(entry(value) for name, value in fields(message(record)) if name == 2)
        rows = {name: list(_tensors(column)) for name, column in columns.items()}
        names = list(rows)
        found += [dict(zip(names, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    return found


def _tensors(column: bytes) -> Iterator[dict[str, Any]]:
    parts = dict(fields(column))
    offsets, trailing = array(parts[2], "int64"), varints(parts.get(4, b""))
    for start, end in pairwise(offsets):
        values = array(message(parts[1])[start:end], "float32").reshape(-1, *trailing)
        yield {"data": values.ravel().tolist(), "dtype": "float32", "shape": list(values.shape)}


class Malformed(Exception):
    """Bytes are not the expected message."""


def fields(encoded: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of every field of a message.

    :raises Malformed: it is not a message.
    """
    position = 0
    while position < len(encoded):
        key, position = _read_varint(encoded, position)
        kind = key & 7
        if kind == 0:
            value, position = _read_varint(encoded, position)
            yield key >> 3, value
            continue
        if kind == 2:
            size, position = _read_varint(encoded, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise Malformed
        if position + size > len(encoded):
            raise Malformed
        yield key >> 3, encoded[position : position + size]
        position += size


def _read_varint(encoded: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # no number is longer
        if position >= len(encoded):
            break
        byte = encoded[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Malformed


def message(value: int | bytes) -> bytes:
    """Return the value of a field of bytes or a message.

    :raises Malformed: it is a number.
    """
    if isinstance(value, int):
        raise Malformed
    return value


def number(value: int | bytes) -> int:
    """Return the value of a field with a number below 2**63.

    :raises Malformed: it is another value.
    """
    if isinstance(value, bytes) or value >= 2**63:
        raise Malformed
    return value


def text(value: int | bytes) -> str:
    """Return the value of a string field.

    :raises Malformed: it is not UTF-8.
    """
    try:
        return message(value).decode()
    except UnicodeDecodeError as error:
        raise Malformed from error


def double(value: int | bytes) -> float:
    """Return the value of a field with a double.

    :raises Malformed: it has another size.
    """
    try:
        return float(struct.unpack("<d", message(value))[0])
    except struct.error as error:
        raise Malformed from error


def array(value: int | bytes, dtype: str) -> NDArray[Any]:
    """Return packed numbers as an array in the byte order of this machine.

    :raises Malformed: the size does not fit.
    """
    import numpy as np

    raw, kind = message(value), np.dtype(dtype)
    if len(raw) % kind.itemsize:
        raise Malformed
    return np.frombuffer(raw, kind.newbyteorder("<")).astype(kind)


def varints(value: int | bytes) -> list[int]:
    """Return the numbers of a repeated field: packed, or a single one.

    :raises Malformed: they are malformed.
    """
    if isinstance(value, int):
        return [value]
    found, position = [], 0
    while position < len(value):
        one, position = _read_varint(value, position)
        found.append(one)
    return found


def entry(value: int | bytes) -> tuple[str, bytes]:
    """Return the key and the encoded value of an entry of a map.

    :raises Malformed: it is not an entry.
    """
    parts = dict(fields(message(value)))
    return text(parts.get(1, b"")), message(parts.get(2, b""))


def _ints(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def _floats(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode field *number* with bytes, UTF-8 text or a message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def varint_field(number: int, value: int) -> bytes:
    """Encode field *number* with a non-negative integer."""
    return _varint(number << 3) + _varint(value)


def _double_field(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
