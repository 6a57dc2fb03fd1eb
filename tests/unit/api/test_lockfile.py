"""The note beside downloaded files."""

from __future__ import annotations

import json

import pytest

from tinkex.api import lockfile
from tinkex.api.paths import TinkerPath

PATH = TinkerPath.from_string("tinker://run:train:0/weights/a")


def test_note(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "org/model", "r": 8, "other": 1}'
    )
    assert str(lockfile.write(tmp_path, PATH, {"b": 2, "a": 1})) == "tinkex.lock.json"
    assert json.loads((tmp_path / "tinkex.lock.json").read_text()) == {
        "version": 1,
        "tinker_path": "tinker://run:train:0/weights/a",
        "run_id": "run:train:0",
        "base_model": "org/model",
        "lora_rank": 8,
        "files": [{"name": "a", "size_bytes": 1}, {"name": "b", "size_bytes": 2}],
    }


@pytest.mark.parametrize(
    "config", [None, "{", "[]", '{"base_model_name_or_path": null, "r": true}']
)
def test_nothing_is_claimed_that_the_files_do_not_say(tmp_path, config):
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    lockfile.write(tmp_path, PATH, {})
    note = json.loads((tmp_path / "tinkex.lock.json").read_text())
    assert (note["base_model"], note["lora_rank"], note["files"]) == (None, None, [])
