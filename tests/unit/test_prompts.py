"""Prompts from the command line and from files."""

from __future__ import annotations

import io

import pytest

from tinkex.commands.inputs import read_prompt
from tinkex.exceptions import LocalError, UsageError


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (b"Write a haiku\n", "Write a haiku"),
        (b"two\nlines\r\n", "two\nlines"),
        (b"\xef\xbb\xbfbom", "bom"),
        (b"[1, 2, 3]\n", [1, 2, 3]),
        (b'{"tokens": [4, 5]}', [4, 5]),
        (b' \n {"tokens": [4]} ', [4]),
        (b'["a"]', '["a"]'),
        (b"[1, true]", "[1, true]"),
        (b"[1.5]", "[1.5]"),
        (b'{"token": [1]}', '{"token": [1]}'),
        (b"[1, 2", "[1, 2"),
        (b"3", "3"),
        (b"[" * 50_000, "[" * 50_000),
    ],
)
def test_kinds_of_files(tmp_path, content, prompt):
    path = tmp_path / "prompt"
    path.write_bytes(content)
    assert read_prompt(None, str(path)) == prompt


def test_stdin():
    assert read_prompt(None, "-", io.TextIOWrapper(io.BytesIO(b"[7]"))) == [7]
    assert read_prompt(None, "-", io.StringIO("text\n")) == "text"


@pytest.mark.parametrize(("text", "file"), [(None, None), ("a", "b")])
def test_exactly_one(text, file):
    with pytest.raises(UsageError, match="--prompt"):
        read_prompt(text, file)


@pytest.mark.parametrize("content", [b"", b"\n", b"[]", b'{"tokens": []}'])
def test_empty(tmp_path, content):
    path = tmp_path / "prompt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="empty"):
        read_prompt(None, str(path))


def test_empty_text():
    with pytest.raises(UsageError, match="empty"):
        read_prompt("", None)


@pytest.mark.parametrize("content", [b"[-1]", b"[2147483648]"])
def test_token_ids_out_of_range(tmp_path, content):
    path = tmp_path / "prompt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="token ids"):
        read_prompt(None, str(path))


def test_unreadable(tmp_path):
    with pytest.raises(LocalError, match="No such file"):
        read_prompt(None, str(tmp_path / "none"))
    with pytest.raises(LocalError, match="Is a directory"):
        read_prompt(None, str(tmp_path))
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(LocalError, match="not UTF-8"):
        read_prompt(None, str(tmp_path / "latin"))
