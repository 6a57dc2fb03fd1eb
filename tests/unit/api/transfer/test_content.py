"""Weights and configurations that are, or are not, what their names say."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tests.weights import weights
from tinkex.api.transfer.content import check, tensor_names

NAME, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def refusal(name: str, content: bytes, tmp_path: Path) -> str:
    """Return why *content* is refused."""
    (tmp_path / name).write_bytes(content)
    with (tmp_path / name).open("rb") as file, pytest.raises(ValueError) as caught:
        check(name, file)
    return str(caught.value)


def packed(header: bytes, rest: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file whose header claims to have *length* bytes."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + rest


def tensors(*places: list[int]) -> bytes:
    found = {f"w{n}": {"dtype": "U8", "data_offsets": place} for n, place in enumerate(places)}
    return json.dumps({"__metadata__": {"a": "b"}, **found}).encode()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


#: What has arrived instead of weights.
FOREIGN = {
    b"": "an empty file",
    bytes(8): "a file of zeros",
    bytes(12 * 1024): "a file of zeros",
    b"<!DOCTYPE html>\n<html><body>Sign in": "an HTML page",
    b"\xef\xbb\xbf \r\n<HTML lang='en'>": "an HTML page",
    b"<!-- proxy --><html>": "an HTML page",
    b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code>": "an XML document",
    b'{"detail": "Not Found"}': "a JSON object",
    b'{"data":{"a": 1}}': "a JSON object",
    b"[1, 2]": "a JSON array",
    pickle.dumps({"w": [0.5]}): "a Python pickle",
    zipped(): "a ZIP archive",
    gzip.compress(weights(), mtime=0): "a gzip file",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "a Git LFS pointer",
    b"404 page not found\n": "plain text",
}


@pytest.mark.parametrize(("content", "kind"), FOREIGN.items(), ids=lambda value: str(value)[:20])
def test_weights_that_are_something_else_are_called_what_they_are(content, kind, tmp_path):
    assert refusal(NAME, content, tmp_path) == f"is {kind}, not a safetensors file"


@pytest.mark.parametrize(
    "content",
    [
        *(packed(b"{}", length=2**62), packed(b"{}", length=100_000_001), b"short\x01"),
        *(packed(b"[1]", bytes(9)), packed(b'{"w": 5}'), packed(b"{not json"), packed(b"{\xff}")),
        *(packed(b"", b"{}"), packed(b'{"a":' * 100_000), packed(tensors([0, 8], [4, 8]), bytes(8))),
        *(packed(tensors([4, 8]), bytes(8)), packed(tensors([0, -1])), packed(tensors(["0", "1"]))),
    ],
)  # fmt: skip
def test_a_header_that_no_loader_reads_is_refused(content, tmp_path):
    assert refusal(NAME, content, tmp_path).startswith("is not a safetensors file")


@pytest.mark.parametrize(
    "content",
    [
        *(packed(tensors([0, 8]), bytes(7)), packed(tensors([0, 8]), bytes(9))),
        *(packed(tensors([0, 8])[:10], length=99), packed(tensors([0, 8]))),
    ],
    ids=["shorter", "longer", "cut in the header", "header alone"],
)
def test_weights_of_another_length_than_they_say_are_refused(content, tmp_path):
    assert " bytes, but its header requires " in refusal(NAME, content, tmp_path)


@pytest.mark.parametrize("length", [90_000_000, 2**60])
def test_a_large_file_of_another_format_is_not_read_into_memory(length, tmp_path):
    with (tmp_path / NAME).open("wb") as file:
        file.write(packed(b"\x93NUMPY", length=length))
        file.truncate(120_000_000)
    tracemalloc.start()
    try:
        with (tmp_path / NAME).open("rb") as file, pytest.raises(ValueError, match="safetensors"):
            check(NAME, file)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_weights_of_the_safetensors_library_pass(tmp_path):
    library, np = (pytest.importorskip(name) for name in ("safetensors.numpy", "numpy"))
    found = {"b": np.ones((2, 3)), "empty": np.zeros((0, 4)), "a": np.float16([1])}
    library.save_file(found, tmp_path / NAME, metadata={"format": "pt"})
    with (tmp_path / NAME).open("rb") as file:
        assert sorted(tensor_names(file)) == ["a", "b", "empty"]
    (tmp_path / NAME).write_bytes(packed(b"{}"))
    with (tmp_path / NAME).open("rb") as file:
        assert tensor_names(file) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>", "is an HTML page, not a JSON object"),
        (b"[]", "is a JSON array, not a JSON object"),
        (b"", "is an empty file, not a JSON object"),
        (b'{"r": 8', "is not a JSON object"),
        (b"[" * 100_000, "is a JSON array, not a JSON object"),
        (b"null", "is plain text, not a JSON object"),
    ],
)
def test_a_configuration_that_is_something_else_is_called_what_it_is(content, reason, tmp_path):
    assert refusal(CONFIG, content, tmp_path) == reason


@pytest.mark.parametrize("name", ["adapter_model.safetensors.age", "checkpoint_complete"])
def test_files_of_other_names_may_contain_anything(name, tmp_path):
    (tmp_path / name).write_bytes(b"<html>")
    with (tmp_path / name).open("rb") as file:
        check(name, file)
