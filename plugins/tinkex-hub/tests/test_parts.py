"""Names, model cards and checks of adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tinkex.api import TinkerPath
from tinkex.exceptions import UsageError
from tinkex.testing import check_distribution
from tinkex_hub import adapter, card
from tinkex_hub.commands import push_hf

CONFIG = "adapter_config.json"
PATH = TinkerPath.from_string("tinker://3f:train:0/weights/step.10")


def test_the_entry_points_keep_what_tinkex_promises() -> None:
    check_distribution("tinkex-hub")


@pytest.mark.parametrize(
    ("base", "repo"),
    [
        ("Qwen/Qwen3-8B", "tinker-Qwen3-8B-3f-train-0"),
        ("/models/tiny qwen/", "tinker-tiny-qwen-3f-train-0"),
        ("Ünï", "tinker-n-3f-train-0"),
        (None, "tinker-adapter-3f-train-0"),
    ],
)
def test_default_repository_and_branch(base: str | None, repo: str) -> None:
    assert push_hf.default_repo(PATH, base) == repo
    assert push_hf.default_revision(PATH) == "weights-step.10"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("see `tinker://r/weights/a`.", "tinker://r/weights/a"),
        ("tinker_path: tinker://r/weights/a\n", "tinker://r/weights/a"),
        ("(tinker://r/weights/a), and more", "tinker://r/weights/a"),
        ("nothing of the kind", None),
    ],
)
def test_path_in_a_card(text: str, path: str | None) -> None:
    assert card.path_in(text) == path


@pytest.mark.parametrize("base", ["Qwen/Qwen3-8B", "a: b # c", '"quoted"', "line\nbreak", None])
def test_a_card_is_read_back(base: str | None) -> None:
    text = card.build(PATH, "ada/mine", base, None)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head.get("base_model") == base
    assert "tinker_path" not in head
    assert card.path_in(text) == str(PATH)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([CONFIG, "adapter_model.safetensors.age"], "encrypted"),
        ([], "./final is not a PEFT adapter: it has no adapter_config.json"),
        (["model.safetensors"], "has no adapter_config.json"),
        ([CONFIG], "has no adapter_model.safetensors"),
    ],
)
def test_other_files_than_an_adapter_are_refused(
    tmp_path: Path, files: list[str], words: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=words) as caught:
        adapter.check(tmp_path, "./final")
    assert ("age" in (caught.value.hint or "")) >= (words == "encrypted")


@pytest.mark.parametrize(
    ("config", "known", "base", "written"),
    [
        ({"base_model_name_or_path": None}, "m", "m", "m"),
        ({}, "m", "m", "m"),
        ({"base_model_name_or_path": "n"}, "m", "m", "n"),
        ({"base_model_name_or_path": "n"}, None, "n", "n"),
        ({"base_model_name_or_path": 3}, None, None, 3),
    ],
)
def test_the_base_model_is_filled_in(
    tmp_path: Path, config: dict[str, object], known: str | None, base: str | None, written: object
) -> None:
    file = tmp_path / CONFIG
    file.write_text(json.dumps(config))
    assert adapter.fill_base_model(tmp_path, known) == base
    assert json.loads(file.read_text()).get("base_model_name_or_path") == written


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG).write_text(text)

    with pytest.raises(UsageError, match="not a JSON object"):
        adapter.fill_base_model(tmp_path, "m")
