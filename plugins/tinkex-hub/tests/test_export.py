"""``checkpoint export``: names, shapes and values, for each family of models."""

from __future__ import annotations

import fcntl
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy_models
from tests.exporting import CONFIG, TYPES, WEIGHTS, World, failure
from tests.toy_models import ALPHA, EXPERTS, FAMILIES, HIDDEN, RANK
from tinkex.testing import invoke

#: Families whose adapters PEFT loads.
IN_PEFT = [family for family in FAMILIES if family != "deepseek_v3"]


# PEFT -----------------------------------------------------------------------------------------


def updates_in_peft(config: Any, tensors: dict[str, Any], made: toy_models.Toy) -> dict[str, Any]:
    """Return the updates of an adapter as PEFT computes them: parameter → matrix or matrices."""
    found = {}
    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        b = tensors[name.replace("lora_A", "lora_B")].astype("float32")
        a = a.astype("float32")
        last = path.rpartition(".")[2]
        packed = {"base_layer": "gate_up_proj", "experts": "down_proj"}.get(last)
        key = rf".*\.{packed}" if packed else last
        rank = config["rank_pattern"].get(key, config["r"])
        scale = config["alpha_pattern"].get(key, config["lora_alpha"]) / rank
        if packed is None:
            assert (a.shape[0], last in config["target_modules"]) == (rank, True)
            found[f"{path}.weight"] = scale * (b @ a)
            continue
        assert f"mlp.experts.{packed}" in config["target_parameters"]
        path = f"{path.removesuffix('.base_layer')}.{packed}"
        experts = range(len(a) // rank)
        each = [b[:, e::EXPERTS] @ a[e * rank : (e + 1) * rank] for e in experts]
        flipped = made.base[path][1:] != each[0].shape
        found[path] = scale * np.stack([one.T if flipped else one for one in each])
    return found


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("family", IN_PEFT)
def test_an_adapter_for_peft_has_the_names_of_the_model_and_the_same_updates(
    family: str, dtype: str, world: Any
) -> None:
    case = world(family, dtype)
    done = case.export("--json")
    assert done.rows["base_checked"] is True
    assert done.rows["files"] == [CONFIG, WEIGHTS]
    config, tensors = case.config(), case.exported()
    assert {str(one.dtype) for one in tensors.values()} == {dtype}
    found = updates_in_peft(config, tensors, case.toy)
    expected = {
        name: np.zeros(case.toy.base.get(name, (toy_models.WORDS, HIDDEN)), "float32")
        for goals in case.toy.goals.values()
        for name, *_ in goals
    }
    for name, index, update in toy_models.deltas(case.toy, case.tensors):
        expected[name][index] += update
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        np.testing.assert_allclose(found[name], update, atol=1e-6, err_msg=name)
    known = {"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA", "bias": "none"}
    assert known.items() <= config.items()


def test_an_adapter_is_converted_for_a_quantised_base_model(world: Any) -> None:
    case = world("gpt_oss")
    case.export()
    expected = (case.out / WEIGHTS).read_bytes()
    packed = {
        f"{name}_blocks" if "experts" in name else name: one for name, one in case.weights.items()
    }
    toy_models.save(case.base / "model.safetensors", packed)
    case.out = case.root / "out-again"
    case.export()
    assert (case.out / WEIGHTS).read_bytes() == expected


def test_an_adapter_with_the_names_of_peft_is_copied(world: Any) -> None:
    case = world("llama")
    case.export()
    first = (case.out / WEIGHTS).read_bytes()
    case.adapter, case.out = case.out, case.root / "out-again"
    case.export()
    assert (case.out / WEIGHTS).read_bytes() == first
    names = ("down", "gate", "k", "o", "q", "up", "v")
    modules = [*(f"{name}_proj" for name in names), "lm_head"]
    assert case.config()["target_modules"] == sorted(modules)


def test_an_adapter_of_tuft_with_each_name_twice_is_written_once(world: Any) -> None:
    case = world("qwen3_vl")
    inner = "model.model.language_model.layers"
    twice = {name.replace("model.model.layers", inner): one for name, one in case.tensors.items()}
    toy_models.save(case.adapter / WEIGHTS, {**case.tensors, **twice})
    case.export()
    assert len(case.exported()) == len(case.tensors)
    name = next(name for name in twice if inner in name)
    toy_models.save(case.adapter / WEIGHTS, {**case.tensors, **twice, name: twice[name] + 1})
    case.out = case.root / "out-again"
    failure(case.export(code=1), "two different updates for model.language_model.layers.0")


def test_without_a_base_model_only_names_that_all_models_have_are_converted(world: Any) -> None:
    case = world("qwen3")
    case.rewrite(base_model_name_or_path="Qwen/Qwen3-0.6B")
    argv = ["checkpoint", "export", str(case.adapter), "--output", str(case.out)]
    done = invoke(argv)
    assert done.stdout == f"Exported to {case.out}\n"
    assert "Warning: Tensor names and shapes are not checked: HF_HUB_OFFLINE is set" in done.stderr
    assert "--base" in done.stderr.splitlines()[-1]
    assert case.config()["base_model_name_or_path"] == "Qwen/Qwen3-0.6B"
    assert "base_model.model.lm_head.lora_A.weight" in case.exported()
    case = World(case.root / "moe", "qwen3_moe")
    argv = ["checkpoint", "export", str(case.adapter), "--output", str(case.out)]
    failure(invoke(argv), r"unrecognized names: model\.layers\.\*\.mlp\.experts\.w1", "--base")
    case.rewrite(lambda name: name.replace("experts.w", "experts.0.projection"))
    failure(
        invoke(argv),
        r"unrecognized names: model\.layers\.\*\.mlp\.experts\.\*\.projection",
        "--base",
    )


@pytest.mark.parametrize(
    ("family", "model_type"),
    [("deepseek_v3", "deepseek_v3"), ("qwen3_moe", "other_moe"), ("deepseek_v3", "qwen3_moe")],
)
def test_experts_that_peft_does_not_load_are_refused(
    family: str, model_type: str, world: Any
) -> None:
    case = world(family)
    (case.base / "config.json").write_text(
        json.dumps({**case.toy.config, "model_type": model_type})
    )
    done = case.export(code=1)
    failure(done, "PEFT might not load all experts and dense layers of this model", "--to merged")
    case.export("--to", "merged")


@pytest.mark.parametrize(
    ("family", "model_type"), [("qwen3_moe", "qwen3_5_moe"), ("qwen3_moe", "other_moe")]
)
def test_separate_experts_are_refused_where_peft_loads_them_fused(
    family: str, model_type: str, world: Any
) -> None:
    case = world(family)
    case.export()
    case.adapter, case.out = case.out, case.root / "out-again"
    (case.base / "config.json").write_text(
        json.dumps({**case.toy.config, "model_type": model_type})
    )
    failure(case.export(code=1), "PEFT might not load all experts and dense layers", "--to merged")


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3_5"])
def test_the_scale_of_rslora_is_kept_in_wider_updates(family: str, world: Any) -> None:
    case = world(family)
    case.rewrite(use_rslora=True)
    case.export()
    config = case.config()
    for key, rank in config["rank_pattern"].items():
        scale = config["alpha_pattern"][key] / rank**0.5
        assert scale == pytest.approx(ALPHA / RANK**0.5)
    assert config["use_rslora"] is True


@pytest.mark.parametrize(
    ("family", "key"),
    [("llama", "unembed_tokens"), ("gpt_oss", "experts.w1"), ("qwen3_5", "in_proj_k")],
)
def test_patterns_that_name_no_module_of_peft_are_refused(
    family: str, key: str, world: Any
) -> None:
    case = world(family)
    case.rewrite(alpha_pattern={key: 2 * ALPHA})
    words = "gives that name a different rank or scale|unrecognized names"
    failure(case.export(code=1), words)
    if family == "llama":
        case.export("--to", "merged")


def test_an_update_of_the_embeddings_is_refused(world: Any) -> None:
    case = world("qwen3")
    case.rewrite(lambda name: name.replace("model.unembed_tokens", "model.embed_tokens"))
    for to in ("peft", "merged"):
        failure(case.export("--to", to, code=1), "unrecognized names: model.embed_tokens")


@pytest.mark.parametrize(
    ("family", "old", "new", "words"),
    [
        (
            "llama",
            "q_proj",
            "q_projection",
            r"lacks weights that the adapter changes: model.layers.\*.self_attn.q_projection",
        ),
        ("llama", "self_attn.k_proj", "self_attn.w1", r"lacks weights .*self_attn.w1.weight"),
        (
            "llama",
            "lora_A",
            "lora_magnitude_vector",
            "only one of lora_A and lora_B for model.layers",
        ),
        ("llama", "q_proj.lora_A.weight", "q_proj.alpha", "only one of lora_A and lora_B"),
        ("llama", ".lora_", ".other_", "no LoRA tensors"),
        (
            "qwen3_moe",
            "experts.w1",
            "experts.w4",
            r"unrecognized names: model.layers.\*.mlp.experts",
        ),
        ("qwen3_moe", "experts.w1", "mlp.w1", r"unrecognized names: .*w1, .*w3"),
        ("qwen3_5", "in_proj_q", "in_proj_x", "lacks weights .*in_proj_x|unrecognized names"),
    ],
)
def test_unknown_names_are_refused_with_a_list(
    family: str, old: str, new: str, words: str, world: Any
) -> None:
    case = world(family)
    case.rewrite(lambda name: name.replace(old, new))
    for to in ("peft", "merged"):
        failure(case.export("--to", to, code=1), words)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": None}, "'r' in adapter_config.json is missing or not a positive integer"),
        ({"r": 4.0}, "'r' in adapter_config.json is missing or not"),
        ({"r": 5}, "have rank 4, but adapter_config.json specifies 5"),
        ({"lora_alpha": 0}, "'lora_alpha' in .* not a positive number"),
        ({"peft_type": "IA3"}, "peft_type in adapter_config.json is 'IA3', not LORA"),
        ({"use_dora": True}, "not plain LoRA; it sets use_dora"),
        ({"modules_to_save": ["lm_head"]}, "not plain LoRA; it sets modules_to_save"),
        ({"alpha_pattern": {"(q|k)+": 3}}, "alpha_pattern .* unsupported entry: '\\(q"),
    ],
)
def test_a_configuration_that_is_not_plain_lora_is_refused(
    config: dict[str, Any], words: str, world: Any
) -> None:
    case = world()
    case.rewrite(**config)
    hints = {"plain": "Convert the adapter", "IA3": "Specify a LoRA", "entry": "Each key must"}
    hint = next((hints[word] for word in hints if word in words), "Check that")
    for to in ("peft", "merged"):
        failure(case.export("--to", to, code=1), words, hint)


# Files ----------------------------------------------------------------------------------------


def missing(case: World) -> None:
    (case.adapter / WEIGHTS).unlink()


def pickled(case: World) -> None:
    (case.adapter / WEIGHTS).rename(case.adapter / "adapter_model.bin")


def empty(case: World) -> None:
    (case.adapter / WEIGHTS).write_bytes(b"")


def web_page(case: World) -> None:
    (case.adapter / WEIGHTS).write_text("<!DOCTYPE html><title>Sign in</title>")


def without_header(case: World) -> None:
    os.truncate(case.adapter / WEIGHTS, 20)


def truncated(case: World) -> None:
    os.truncate(case.adapter / WEIGHTS, (case.adapter / WEIGHTS).stat().st_size - 1)


def linked(case: World) -> None:
    (case.root / "private.json").write_text("{}")
    (case.adapter / CONFIG).unlink()
    (case.adapter / CONFIG).symlink_to(case.root / "private.json")


def not_json(case: World) -> None:
    (case.adapter / CONFIG).write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "words", "hint"),
    [
        (missing, "not a PEFT adapter", "Specify an adapter"),
        (pickled, "not read, because loading them can run code", "Convert the weights"),
        (empty, "is not a safetensors file", "Download the file again"),
        (web_page, "is not a safetensors file", "Download the file again"),
        (without_header, "is truncated", "Download the file again"),
        (truncated, "is truncated", "Download the file again"),
        (linked, "is a symbolic link that points outside its directory", "Replace it"),
        (not_json, "is not a JSON object", "Correct the file"),
    ],
)
def test_an_adapter_that_cannot_be_read_is_refused(
    spoil: Any, words: str, hint: str, world: Any
) -> None:
    case = world()
    spoil(case)
    failure(case.export(code=1), words, hint)


def test_links_of_the_cache_of_the_hub_are_followed_and_others_are_not(world: Any) -> None:
    case = world()
    blobs, snapshot = case.root / "models--m" / "blobs", case.root / "models--m" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(case.base.iterdir()):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    case.base = snapshot
    case.export("--to", "merged")
    assert not (case.out / "config.json").is_symlink()
    (case.root / "secret").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(case.root / "secret")
    case.out = case.root / "out-again"
    argv = ["checkpoint", "export", str(case.adapter), "--to", "merged", "--base", str(snapshot)]
    done = invoke([*argv, "--output", str(case.out)])
    failure(done, "tokenizer.json is a symbolic link that points outside its directory")
    assert not case.out.exists()


def test_an_existing_directory_is_not_changed(world: Any) -> None:
    case = world()
    case.out.mkdir()
    case.export()  # an empty one is used
    before = {file: file.read_bytes() for file in case.out.iterdir()}
    argv = ["checkpoint", "export", str(case.adapter), "--output", str(case.out)]
    failure(invoke(argv), f"{case.out} already exists", "with --output")
    assert {file: file.read_bytes() for file in case.out.iterdir()} == before


@pytest.mark.parametrize("to", ["peft", "merged"])
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(28, "No space left on device"), 1, "cannot write .*: No space left on device"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_nothing_remains_of_an_export_that_fails(
    to: str, error: BaseException, code: int, words: str, world: Any, monkeypatch: Any
) -> None:
    def fail(file: Any, *_: object) -> None:
        file.write(b"x")
        raise error

    monkeypatch.setattr("tinkex_hub.tensors.write", fail)
    done = world().export("--to", to, code=code)
    if words:
        failure(done, words)


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """Return the directory that a killed export has left next to its target."""
    place = tmp_path / f".tinkex-export-{sha256(b'out').hexdigest()[:12]}"
    place.mkdir(mode=0o700)
    (place / "model.safetensors").write_text("part")
    return place


def test_what_a_killed_process_left_is_removed(unfinished: Path, world: Any) -> None:
    case = world()
    case.export()
    assert (unfinished.exists(), sorted(file.name for file in case.out.iterdir())) == (
        False,
        [CONFIG, WEIGHTS],
    )


def test_another_process_is_not_disturbed(unfinished: Path, world: Any) -> None:
    case, handle = world(), os.open(unfinished, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    failure(invoke(case.argv), "another process is writing to ", "another path with --output")
    os.close(handle)
    assert (unfinished / "model.safetensors").read_text() == "part"


def test_a_directory_that_another_user_may_have_made_is_not_used(
    unfinished: Path, world: Any
) -> None:
    unfinished.chmod(0o755)
    failure(invoke(world().argv), r"cannot use .*: other users can access it")
    assert (unfinished / "model.safetensors").read_text() == "part"


def test_the_space_is_checked_first(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    failure(world().export(code=1), "not enough space in ")


@pytest.mark.parametrize(
    ("words", "clause"),
    [
        (["nothing-here"], "no such directory: nothing-here"),
        ([".", "--to", "merged"], "--to merged requires --base to be a directory\n"),
        ([".", "--to", "merged", "--base", "a/b"], "requires --base to be a directory, not a/b\n"),
        ([".", "--base", "nowhere"], "not a PEFT adapter"),
    ],
)
def test_arguments_that_name_nothing(
    words: list[str], clause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(["checkpoint", "export", *words, "--output", "out"])
    assert clause in done.stderr
    assert (done.exit_code, done.stdout) == (1, "")
