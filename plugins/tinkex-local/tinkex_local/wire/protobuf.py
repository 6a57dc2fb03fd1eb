"""Protobuf encoding without the protobuf package, for the message ``SampleResponse``.

proto3, little-endian; tokens and logprobs are packed arrays in ``bytes`` fields. A missing
``stop_reason`` means ``stop``, because zero values of an enum are not written.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

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


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
