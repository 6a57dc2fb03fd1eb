"""Decoding of protobuf results without the protobuf package.

Only sampling results are supported. All numbers are little-endian; a member with its default
value may be absent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from tinkex.exceptions import InvalidResponse

_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5
_STOP_REASONS = {0: "stop", 1: "length"}
#: Padding value in the rows of most likely tokens.
_FILLER = -99999.0

Field = tuple[int, int | bytes]


def sample_response(message: bytes) -> dict[str, Any]:
    """Return the JSON form of a ``SampleResponse``.

    :raises InvalidResponse: *message* is not one.
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


def _sequence(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"tokens": [], "logprobs": None, "stop_reason": "stop"}
    for number, value in _fields(message):
        if number == 1:
            found["stop_reason"] = _STOP_REASONS.get(_int(value), "stop")
        elif number == 2:
            found["tokens"] = _array(value, "i")
        elif number == 3:
            found["logprobs"] = _array(value, "f")
    return found


def _topk(message: bytes) -> list[list[list[Any]] | None]:
    """Return, for each position, its ``[token, logprob]`` pairs, or ``None`` without any."""
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


def _fields(message: bytes) -> Iterator[Field]:
    """Yield the number and the value of every field of *message*."""
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


def _array(value: int | bytes, form: str) -> list[Any]:
    raw = _bytes(value)
    count, rest = divmod(len(raw), 4)
    if rest:
        raise _malformed()
    return list(struct.unpack(f"<{count}{form}", raw))


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
