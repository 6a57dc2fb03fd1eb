"""``checkpoint export --to merged``: values, files and refusals, for each family of models."""

from __future__ import annotations

import json
import os
import tracemalloc
from typing import Any

import numpy as np
import pytest

from tests import toy_models
from tests.exporting import TYPES, WEIGHTS, World, failure
from tests.toy_models import ALPHA, FAMILIES, HIDDEN, load
from tinkex_hub import merge, tensors


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_is_the_base_plus_the_updates_rounded_once(
    family: str, dtype: str, world: Any
) -> None:
    case = world(family, dtype)
    case.export("--to", "merged")
    found, expected = case.exported(), toy_models.merged(case.toy, case.weights, case.tensors)
    assert found.keys() == expected.keys()
    changed = {goal[0] for goals in case.toy.goals.values() for goal in goals}
    differing = total = 0
    for name, whole in expected.items():
        rounded = whole.astype(found[name].dtype)
        if name not in changed:
            assert found[name].tobytes() == case.weights[name].tobytes(), name
        elif dtype == "bfloat16":  # within one step where the sum was computed in another order
            steps = np.abs(found[name].view("int16") - rounded.view("int16"))
            assert steps.max() <= 1, name
            differing += int((steps > 0).sum())
            total += steps.size
        else:
            np.testing.assert_allclose(found[name], whole, rtol=0, atol=1e-6, err_msg=name)
    assert differing * 1000 <= total
    assert all((found[name] != case.weights.get(name)).any() for name in changed)


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3_5_moe", "qwen3_vl_moe", "qwen3_5", "qwen3"])
def test_an_exported_adapter_merges_to_the_same_model(family: str, world: Any) -> None:
    case = world(family)
    case.export()
    case.adapter, case.out = case.out, case.root / "out-merged"
    case.export("--to", "merged")
    found = case.exported()
    for name, whole in toy_models.merged(case.toy, case.weights, case.tensors).items():
        np.testing.assert_allclose(found[name], whole, rtol=0, atol=1e-6, err_msg=name)


def test_shards_index_and_other_files_are_kept(world: Any) -> None:
    case = world("qwen3", "bfloat16", 3)
    (case.base / "tokenizer.json").write_text("{}")
    (case.base / "README.md").write_text("a description of the base model")
    done = case.export("--to", "merged", "--json")
    files = sorted(file.name for file in case.base.iterdir())
    assert done.rows["files"] == [name for name in files if name != "README.md"]
    index = json.loads((case.out / "model.safetensors.index.json").read_text())
    found = {file.name: load(file) for file in case.out.glob("*.safetensors")}
    assert index["weight_map"] == {key: name for name, keys in found.items() for key in keys}
    size = sum(one.nbytes for tensors in found.values() for one in tensors.values())
    assert index["metadata"] == {"total_size": size, "kept": True}
    assert json.loads((case.out / "config.json").read_text()) == {
        **case.toy.config, "tie_word_embeddings": False
    }  # fmt: skip
    assert (case.out / "tokenizer.json").read_text() == "{}"


def test_a_tied_model_whose_output_layer_is_untrained_stays_tied(world: Any) -> None:
    case = world("qwen3")
    name = "base_model.model.model.unembed_tokens.lora_B.weight"
    toy_models.save(
        case.adapter / WEIGHTS, case.tensors | {name: np.zeros_like(case.tensors[name])}
    )
    case.export("--to", "merged")
    assert "lm_head.weight" not in case.exported()
    assert (case.out / "config.json").read_bytes() == (case.base / "config.json").read_bytes()


def test_updates_of_zeros_change_nothing(world: Any) -> None:
    case = world("gpt_oss", "bfloat16")
    zeros = {
        name: np.zeros_like(one) if ".lora_B" in name else one for name, one in case.tensors.items()
    }
    toy_models.save(case.adapter / WEIGHTS, zeros)
    case.export("--to", "merged")
    found = case.exported()
    assert {name: one.tobytes() for name, one in found.items()} == {
        name: one.tobytes() for name, one in case.weights.items()
    }


def test_large_matrices_are_merged_in_blocks_of_rows(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "_BLOCK", 5 * HIDDEN)
    case = world("qwen3_5")
    case.export("--to", "merged")
    for name, whole in toy_models.merged(case.toy, case.weights, case.tensors).items():
        np.testing.assert_allclose(case.exported()[name], whole, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_a_matrix_is_never_in_memory_as_a_whole(
    to: str, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "_BLOCK", 64 * 1024)
    monkeypatch.setattr(tensors, "_BLOCK", 64 * 1024)
    monkeypatch.setattr(toy_models, "WORDS", 200_000)
    case = world("qwen3", "float16")
    whole = case.weights["model.embed_tokens.weight"].nbytes
    case.export("--to", to)  # imports take memory, too
    case.out = case.root / "out-again"
    tracemalloc.start()
    try:
        case.export("--to", to)
        assert tracemalloc.get_traced_memory()[1] < whole
    finally:
        tracemalloc.stop()


def quantized(case: World) -> None:
    config = {**case.toy.config, "quantization_config": {"quant_method": "fp8"}}
    (case.base / "config.json").write_text(json.dumps(config))


def packed(case: World) -> None:
    blocks = {"model.layers.0.mlp.experts.down_proj_blocks": np.zeros((3, 4), "uint8")}
    toy_models.save(case.base / "model.safetensors", case.weights | blocks)


def integers(case: World) -> None:
    changed = {name: one.astype("int8") for name, one in case.weights.items()}
    toy_models.save(case.base / "model.safetensors", changed)


def infinite(case: World) -> None:
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    changed = {**case.tensors, name: case.tensors[name] + np.float32("inf")}
    toy_models.save(case.adapter / WEIGHTS, changed)


def too_large(case: World) -> None:
    halves = {name: one.astype("float16") for name, one in case.weights.items()}
    toy_models.save(case.base / "model.safetensors", halves)
    case.rewrite(lora_alpha=1e9)


def other_model(case: World) -> None:
    case.weights["model.layers.0.mlp.up_proj.weight"] = np.zeros((3, 5), "float32")
    toy_models.save(case.base / "model.safetensors", case.weights)


def truncated_base(case: World) -> None:
    os.truncate(case.base / "model.safetensors", 20_000)


def no_weights(case: World) -> None:
    (case.base / "model.safetensors").rename(case.base / "pytorch_model.bin")


def pipe(case: World) -> None:
    (case.base / "model.safetensors").unlink()
    os.mkfifo(case.base / "model.safetensors")


def no_embeddings(case: World) -> None:
    del case.weights["model.embed_tokens.weight"]
    toy_models.save(case.base / "model.safetensors", case.weights)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (quantized, "cannot merge into the quantized base model"),
        (packed, "cannot merge into the quantized base model"),
        (integers, "has an unsupported type: I8"),
        (infinite, "model.layers.0.mlp.up_proj.weight contains NaN"),
        (too_large, "contains NaN, or values outside the range of float16"),
        (other_model, r"up_proj.weight has the shape \[3, 5\], but its update"),
        (truncated_base, "model.safetensors is truncated"),
        (no_weights, "has no model.safetensors"),
        (pipe, "model.safetensors is not a regular file"),
        (no_embeddings, "unsupported tensor names in the base model"),
    ],
)
def test_a_merge_that_would_be_wrong_is_refused(spoil: Any, words: str, world: Any) -> None:
    case = world()
    spoil(case)
    failure(case.export("--to", "merged", code=1), words)


@pytest.mark.parametrize(
    "key", ["q_proj", r".*\.q_proj", "self_attn.q_proj", r"^self_attn\.q_proj$"]
)
def test_patterns_give_modules_an_own_alpha(key: str, world: Any) -> None:
    case = world()
    case.rewrite(alpha_pattern={key: 5 * ALPHA})
    case.export("--to", "merged")
    name = "model.layers.1.self_attn.q_proj.weight"
    once = toy_models.merged(case.toy, case.weights, case.tensors)[name] - case.weights[name]
    np.testing.assert_allclose(
        case.exported()[name], case.weights[name] + 5 * once, rtol=0, atol=1e-6
    )
    case.out = case.root / "out-peft"
    case.export()
    assert case.config()["alpha_pattern"] == {key: 5 * ALPHA}
