"""What --model-path may name."""

from __future__ import annotations

import json

import pytest

from tinkex.commands.adapter import ModelPath, read_model_path
from tinkex.exceptions import LocalError, UsageError

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


def test_unreadable(tmp_path):
    with pytest.raises(LocalError, match="nothing that is here"):
        read_model_path(str(tmp_path / "none"))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(LocalError, match="is not JSON"):
        read_model_path(str(tmp_path))
