"""The note beside downloaded files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import manifest
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.manifest import ManifestFile
from tinkex.exceptions import LocalError

PATH = TinkerPath.from_string("tinker://run:train:0/weights/a")
FILES = {"b": ManifestFile(2, "ab"), "a": ManifestFile(1, "cd")}
PATHS = {Path(name): file for name, file in FILES.items()}


def test_note(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "org/model", "r": 8, "other": 1}'
    )
    assert str(manifest.write(Directory.at(tmp_path), PATH, PATHS)) == "tinkex.lock.json"
    assert json.loads((tmp_path / "tinkex.lock.json").read_text()) == {
        "version": 1,
        "tinker_path": "tinker://run:train:0/weights/a",
        "run_id": "run:train:0",
        "base_model": "org/model",
        "lora_rank": 8,
        "files": [
            {"name": "a", "size_bytes": 1, "sha256": "cd"},
            {"name": "b", "size_bytes": 2, "sha256": "ab"},
        ],
    }
    assert manifest.read(tmp_path) == manifest.Manifest(str(PATH), FILES)


@pytest.mark.parametrize(
    "config", [None, "{", "[]", '{"base_model_name_or_path": null, "r": true}']
)
def test_nothing_is_claimed_that_the_files_do_not_say(tmp_path, config):
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    manifest.write(Directory.at(tmp_path), PATH, {})
    note = json.loads((tmp_path / "tinkex.lock.json").read_text())
    assert (note["base_model"], note["lora_rank"], note["files"]) == (None, None, [])


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"files": []}',
        '{"tinker_path": 3, "files": []}',
        '{"tinker_path": "x", "files": [{"name": "../a", "size_bytes": 1}]}',
        '{"tinker_path": "x", "files": [{"name": "/a", "size_bytes": 1}]}',
        '{"tinker_path": "x", "files": [{"name": "a", "size_bytes": true}]}',
        '{"tinker_path": "x", "files": [{"name": "a", "size_bytes": 1, "sha256": 3}]}',
    ],
)
def test_damaged_notes_are_refused(tmp_path, text):
    (tmp_path / "tinkex.lock.json").write_text(text)
    with pytest.raises(LocalError, match="is not a valid manifest"):
        manifest.read(tmp_path)
    assert not manifest.is_complete(tmp_path, PATH)


def test_a_note_without_digests_is_read(tmp_path):
    text = '{"tinker_path": "x", "files": [{"name": "a", "size_bytes": 1}]}'
    (tmp_path / "tinkex.lock.json").write_text(text)
    assert manifest.read(tmp_path).files == {"a": ManifestFile(1, None)}
    assert manifest.read(tmp_path / "nothing") is None
