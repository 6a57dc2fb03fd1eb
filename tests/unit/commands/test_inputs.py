"""A model and a prompt, from the command line and from files."""

from __future__ import annotations

import io
import json

import pytest

from tinkex.commands.inputs import ModelPath, read_model_path, read_prompt
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


# ---------------------------------------------------------------- models

PATH = "tinker://run/sampler_weights/a"


def write(path, **values):
    path.write_text(json.dumps(values))


def test_tinker_path():
    assert read_model_path(PATH) == ModelPath(tinker_path=PATH)


def test_adapter_directory(tmp_path):
    write(tmp_path / "adapter_config.json", base_model_name_or_path="org/model", r=8)
    assert read_model_path(str(tmp_path)) == ModelPath(None, "org/model", 8)


def test_downloaded_directory_knows_its_checkpoint(tmp_path):
    write(tmp_path / "adapter_config.json", base_model_name_or_path="org/model", r=8)
    write(tmp_path / "tinkex.lock.json", tinker_path=PATH, base_model="org/other", lora_rank=4)
    assert read_model_path(str(tmp_path)) == ModelPath(PATH, "org/other", 4)


def test_metadata_file_of_a_saved_checkpoint(tmp_path):
    write(tmp_path / "checkpoint.json", base_model="org/model", weights_path=PATH)
    assert read_model_path(str(tmp_path / "checkpoint.json")) == ModelPath(PATH, "org/model", None)


@pytest.mark.parametrize("config", ["{}", "[]", '{"base_model_name_or_path": 3, "r": true}'])
def test_nothing_tells_the_base_model(tmp_path, config):
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(UsageError, match="base model"):
        read_model_path(str(tmp_path))


def test_unreadable_model(tmp_path):
    with pytest.raises(LocalError, match="does not exist"):
        read_model_path(str(tmp_path / "none"))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(LocalError, match="is not JSON"):
        read_model_path(str(tmp_path))
