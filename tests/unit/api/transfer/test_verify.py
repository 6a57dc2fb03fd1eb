"""Files of weights that are, or are not, as long as they say."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.verify import check_weights
from tinkex.exceptions import InvalidResponse

NAME = Path("adapter_model.safetensors")


def packed(header: bytes, rest: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file whose header claims to have *length* bytes."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + rest


TENSORS = json.dumps(
    {"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
).encode()


@pytest.mark.parametrize(
    "content",
    [
        packed(TENSORS, bytes(8)),
        packed(b"{}"),
        b"",
        b"short",
        packed(b"[1]", bytes(9)),
        packed(b"{not json"),
        packed(b'{"w": 5}'),
        packed(b"", b"{}"),
    ],
    ids=["whole", "no tensors", "empty", "short", "another", "no JSON", "odd", "no header"],
)
def test_what_is_whole_or_of_another_format_passes(content, tmp_path):
    (tmp_path / NAME).write_bytes(content)
    check_weights(Directory.at(tmp_path), [NAME])


@pytest.mark.parametrize(
    "content",
    [
        packed(TENSORS, bytes(7)),
        packed(TENSORS, bytes(9)),
        packed(TENSORS[:10], length=len(TENSORS)),
        packed(TENSORS),
    ],
    ids=["shorter", "longer", "cut in the header", "header alone"],
)
def test_what_is_of_another_length_than_it_says_is_refused(content, tmp_path):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InvalidResponse, match="long by its own header"):
        check_weights(Directory.at(tmp_path), [NAME])


@pytest.mark.parametrize("length", [90_000_000, 2**60])
def test_what_is_of_another_format_is_not_read_into_memory(length, tmp_path):
    with (tmp_path / NAME).open("wb") as file:
        file.write(packed(b"\x93NUMPY", length=length))
        file.truncate(120_000_000)
    tracemalloc.start()
    try:
        check_weights(Directory.at(tmp_path), [NAME])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
