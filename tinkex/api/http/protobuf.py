"""Protobuf messages without the protobuf package.

The parts of the wire format, results of sampling and training, and the request of
``forward_backward``. All numbers are little-endian; a member with its default value may be absent.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tinkex.exceptions import InvalidResponse, UsageError

_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5
_STOP_REASONS = {0: "stop", 1: "length"}
#: Padding value in the rows of most likely tokens.
_FILLER = -99999.0
#: Name of an element type in JSON → its number in protobuf, and its typecode in :mod:`array`.
_DTYPES = {"float32": (1, "f"), "int64": (2, "q")}
#: Number of an element type in protobuf → its name in JSON, and its typecode.
_READ = {1: ("float32", "f"), 2: ("int64", "q"), 3: ("int64", "i"), 4: ("float32", "H")}
_BFLOAT16 = 4
#: Maximum number of examples in one result; requests have at most 1024.
_MAX_EXAMPLES = 2**16

Field = tuple[int, int | bytes]


def sample_response(message: bytes) -> dict[str, Any]:
    """Return the JSON form of a ``SampleResponse``.

    :raises InvalidResponse: *message* is malformed.
    """
    found: dict[str, Any] = {
        "sequences": [],
        "prompt_logprobs": None,
        "topk_prompt_logprobs": None,
        "type": "sample",
    }
    for number, value in _fields(message):
        if number == 1:
            found["sequences"].append(_sequence(_bytes(value)))
        elif number == 2:
            # NaN: the server has no value for that token.
            floats = _array(value, "f")
            found["prompt_logprobs"] = [None if math.isnan(x) else x for x in floats]
        elif number == 3:
            found["topk_prompt_logprobs"] = _topk(_bytes(value))
    return found


def forward_backward_output(message: bytes) -> dict[str, Any]:
    """Return the JSON form of a ``ForwardBackwardOutput``.

    :raises InvalidResponse: *message* is malformed.
    """
    kind = ""
    outputs: list[dict[str, Any]] = []
    metrics: dict[str, float] = {}
    for number, value in _fields(message):
        if number == 1:
            kind = _text(value)
        elif number == 2:
            outputs += _records(_bytes(value))
        elif number == 3:
            entry = dict(_fields(_bytes(value)))
            packed = _bytes(entry.get(2, bytes(8)))
            if len(packed) != 8:
                raise _malformed()
            metrics[_text(entry.get(1, b""))] = struct.unpack("<d", packed)[0]
    return {
        "loss_fn_output_type": kind.rpartition(":")[2],
        "loss_fn_outputs": outputs,
        "metrics": metrics,
    }


def forward_backward_request(body: Mapping[str, Any], *, forward_only: bool = False) -> bytes:
    """Encode the JSON body of a ``forward_backward`` request.

    :param body: with ``model_id``, ``seq_id`` and ``forward_backward_input``, whose examples have
        chunks of tokens and dense tensors.
    :param forward_only: compute no gradients.
    :raises UsageError: a chunk or a tensor is of another kind.
    """
    given = body["forward_backward_input"]
    out = _bytes_field(1, body["model_id"].encode()) + _varint_field(2, body["seq_id"])
    out += b"".join(_bytes_field(3, _datum(datum)) for datum in given["data"])
    out += _bytes_field(4, given["loss_fn"].encode())
    for name, value in (given.get("loss_fn_config") or {}).items():
        key = _bytes_field(1, name.encode())
        if isinstance(value, str):
            out += _bytes_field(7, key + _bytes_field(2, _bytes_field(2, value.encode())))
        else:  # older servers read field 5, newer ones field 7
            number = _double_field(1, value)
            out += _bytes_field(5, key + _double_field(2, value))
            out += _bytes_field(7, key + _bytes_field(2, number))
    return out + _varint_field(6, 1) if forward_only else out


def _datum(datum: Mapping[str, Any]) -> bytes:
    out = b""
    for chunk in datum["model_input"]["chunks"]:
        if chunk.get("type", "encoded_text") != "encoded_text":
            raise UsageError(f"cannot train on {chunk['type']} chunks", hint="Use only tokens.")
        out += _bytes_field(1, _bytes_field(1, _bytes_field(1, _packed("i", chunk["tokens"]))))
    for name, tensor in datum["loss_fn_inputs"].items():
        if tensor["dtype"] not in _DTYPES or tensor.get("sparse_crow_indices") is not None:
            raise UsageError(f"{name} must be a dense tensor of type float32 or int64")
        dtype, code = _DTYPES[tensor["dtype"]]
        encoded = _bytes_field(1, _packed(code, tensor["data"])) + _varint_field(3, dtype)
        if tensor.get("shape") is not None:
            encoded += _bytes_field(4, b"".join(map(_encoded_varint, tensor["shape"])))
        out += _bytes_field(2, _bytes_field(1, name.encode()) + _bytes_field(2, encoded))
    return out


def _sequence(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"tokens": [], "logprobs": None, "stop_reason": "stop"}
    for number, value in _fields(message):
        if number == 1:
            found["stop_reason"] = _STOP_REASONS.get(_int(value), "stop")
        elif number == 2:
            found["tokens"] = _array(value, "i")
        elif number == 3:
            found["logprobs"] = _array(value, "f")
        elif number == 4:
            found["topk_logprobs"] = _topk(_bytes(value))
    return found


def _topk(message: bytes) -> list[list[list[Any]] | None]:
    """Return, for each position, its ``[token, logprob]`` pairs, or ``None`` if it has none."""
    parts = dict(_fields(message))
    tokens, logprobs = _array(parts.get(1, b""), "i"), _array(parts.get(2, b""), "f")
    width, length = _int(parts.get(3, 0)), _int(parts.get(4, 0))
    if not len(tokens) == len(logprobs) == width * length:
        raise _malformed()
    rows: list[list[list[Any]] | None] = []
    for start in range(0, len(tokens), width or 1):
        pairs = zip(tokens[start : start + width], logprobs[start : start + width], strict=True)
        rows.append([[token, logprob] for token, logprob in pairs if logprob != _FILLER] or None)
    return rows


def _records(message: bytes) -> list[dict[str, Any]]:
    """Return the examples of an ``ArrayRecord``, each with its tensors by name."""
    count = 0
    columns: dict[str, list[dict[str, Any]]] = {}
    for number, value in _fields(message):
        if number == 2:
            entry = dict(_fields(_bytes(value)))
            columns[_text(entry.get(1, b""))] = _batched(_bytes(entry.get(2, b"")))
        elif number == 3:
            count = _int(value)
    count = count or max(map(len, columns.values()), default=0)
    if count > _MAX_EXAMPLES or any(len(column) != count for column in columns.values()):
        raise _malformed()
    return [{name: column[row] for name, column in columns.items()} for row in range(count)]


def _batched(message: bytes) -> list[dict[str, Any]]:
    """Return the tensors of a ``BatchedTensor``, one for each example."""
    data, number = b"", 0
    offsets: list[int] = []
    trailing: list[int] = []
    for field, value in _fields(message):
        if field == 1:
            data = _bytes(value)
        elif field == 2:
            offsets = _array(value, "q")
        elif field == 3:
            number = _int(value)
        elif field == 4:
            trailing += _packed_varints(value)
    if number not in _READ or sorted(offsets) != offsets or (offsets and offsets[0] < 0):
        raise _malformed()
    dtype, code = _READ[number]
    width = math.prod(trailing) or 1
    rows = []
    for start, end in pairwise(offsets):
        values = _array(data[start:end], code)
        if end > len(data) or len(values) % width:
            raise _malformed()
        if number == _BFLOAT16:  # the upper half of a float32
            words = struct.pack(f"<{len(values)}I", *(value << 16 for value in values))
            values = _array(words, "f")
        rows.append({"data": values, "dtype": dtype, "shape": [len(values) // width, *trailing]})
    return rows


def _fields(message: bytes) -> Iterator[Field]:
    """Yield the number and the value of every field of *message*.

    :raises InvalidResponse: *message* is not a protobuf message.
    """
    position = 0
    while position < len(message):
        key = message[position]
        if key < 0x80:  # nearly always
            position += 1
        else:
            key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            size, position = _varint(message, position)
        elif wire_type in (_I64, _I32):
            size = 8 if wire_type == _I64 else 4
        else:
            raise _malformed()
        if not number or position + size > len(message):
            raise _malformed()
        yield number, message[position : position + size]
        position += size


def _packed_varints(value: int | bytes) -> list[int]:
    """Return the numbers of a repeated field, packed or a single one.

    :raises InvalidResponse: it is neither.
    """
    if isinstance(value, int):
        return [value]
    numbers, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        numbers.append(number)
    return numbers


def _bytes_field(number: int, value: bytes) -> bytes:
    """Encode field *number* with bytes, UTF-8 text or a message."""
    return _encoded_varint(number << 3 | _BYTES) + _encoded_varint(len(value)) + value


def _varint_field(number: int, value: int) -> bytes:
    """Encode field *number* with a non-negative integer."""
    return _encoded_varint(number << 3 | _VARINT) + _encoded_varint(value)


def _double_field(number: int, value: float) -> bytes:
    """Encode field *number* with a double."""
    return _encoded_varint(number << 3 | _I64) + struct.pack("<d", value)


def _packed(code: str, values: Sequence[float]) -> bytes:
    """Encode numbers of one type, given by its typecode in :mod:`array`, as bytes.

    :raises UsageError: a value is not such a number, or out of range.
    """
    try:
        numbers = array(code, values)
    except (TypeError, OverflowError) as error:
        raise UsageError(f"cannot encode a value for training: {error}") from error
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _encoded_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for count in range(10):  # no number is longer
        if position >= len(message):
            raise _malformed()
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position
    raise _malformed()


def _array(value: int | bytes, code: str) -> list[Any]:
    raw = _bytes(value)
    count, rest = divmod(len(raw), struct.calcsize(f"<{code}"))
    if rest:
        raise _malformed()
    return list(struct.unpack(f"<{count}{code}", raw))


def _text(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise _malformed() from None


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise _malformed()
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise _malformed()
    return value


def _malformed() -> InvalidResponse:
    return InvalidResponse("the server returned malformed protobuf")
