"""``checkpoint inspect``: of directories and of checkpoints on a service."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy_models
from tests.toy_models import ALPHA, FAMILIES, RANK, toy
from tinkex.api import ServiceClient
from tinkex.testing import Invocation, invoke, local_service
from tinkex_hub import norms

MODEL = "tinkex/baker-street-2M"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def inspect(source: Path | str, *words: str, **options: Any) -> Invocation:
    done = invoke(["checkpoint", "inspect", str(source), *words], **options)
    assert done.exit_code == 0, done.stderr
    return done


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_the_updates(family: str, dtype: str, tmp_path: Path) -> None:
    made = toy(family)
    tensors = toy_models.write_adapter(tmp_path / "adapter", made, dtype)
    found = inspect(tmp_path / "adapter", "-f", "json").rows
    squares = [float((update**2).sum()) for _, _, update in toy_models.deltas(made, tensors)]
    assert found["update_norm"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)
    each = [norm for module in found["modules"] for norm in module["norms"]]
    assert math.sqrt(sum(norm**2 for norm in each)) == pytest.approx(found["update_norm"])
    assert (found["lora_rank"], found["lora_alpha"]) == (RANK, ALPHA)
    assert found["dtype"] == {"float32": "F32", "bfloat16": "BF16"}[dtype]
    assert found["parameters"] == sum(one.size for one in tensors.values())
    assert found["size_bytes"] == (tmp_path / "adapter" / WEIGHTS).stat().st_size
    assert sum(module["parameters"] for module in found["modules"]) == found["parameters"]
    assert found["untrained"] == []


def test_modules_are_listed_by_name_with_their_layers(tmp_path: Path) -> None:
    toy_models.write_adapter(tmp_path / "adapter", toy("qwen3_moe"))
    rows = {row["module"]: row for row in inspect(tmp_path / "adapter", "--json").rows["modules"]}
    query, experts = rows["self_attn.q_proj"], rows["mlp.experts.w2"]
    assert (query["layers"], query["shape"], query["experts"]) == ([0, 1], [40, 24], None)
    assert (experts["layers"], experts["shape"], experts["experts"]) == ([0, 1], [24, 16], 3)
    assert rows["model.unembed_tokens"]["layers"] == []
    base = tmp_path / "base"
    toy_models.write_base(base, toy("qwen3_moe"))
    words = ["--base", str(base), "--output", str(tmp_path / "peft")]
    assert invoke(["checkpoint", "export", str(tmp_path / "adapter"), *words]).exit_code == 0
    rows = {row["module"]: row for row in inspect(tmp_path / "peft", "--json").rows["modules"]}
    separate = rows["mlp.experts.*.down_proj"]
    assert (separate["layers"], separate["experts"]) == ([0, 1], 3)
    assert separate["norms"] == pytest.approx(experts["norms"])


def test_a_screen_of_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = toy("llama")
    tensors = toy_models.write_adapter(tmp_path / "adapter", made, base_model_name_or_path="a/b")
    for name in tensors:
        if "k_proj.lora_B" in name:
            tensors[name] = np.zeros_like(tensors[name])
    kept = {name: one for name, one in tensors.items() if "mlp" not in name}
    toy_models.save(tmp_path / "adapter" / WEIGHTS, kept)
    monkeypatch.chdir(tmp_path)
    environ = {"COLUMNS": "80", "NO_COLOR": "1"}
    shown = inspect("adapter", terminal=True, environ=environ).stdout
    assert max(map(len, shown.splitlines())) <= 80
    lines = [line.strip("| ").split(" | ") for line in shown.splitlines()]
    texts = {line[0].strip(): line[1] for line in lines if len(line) == 2}
    assert texts["Base model"] == "a/b"
    assert texts["Untrained"].startswith("MLP, self_attn.k_proj")
    assert "self_attn.q_proj      2 layers  24 → 40  " in shown
    assert "self_attn.k_proj      2 layers  24 → 20  untrained" in shown
    assert any(block in shown for block in "▇█")
    assert texts["PEFT"].startswith("loads some tensors")
    assert texts["vLLM"].startswith("does not load the adapter")
    plain = inspect("adapter").stdout
    assert "Modules:\n  self_attn.k_proj      2 layers" in plain
    assert "vLLM: does not load the adapter\n  unexpected modules: model.unembed_tokens\n" in plain


def config(**more: Any) -> dict[str, Any]:
    return {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "lm_head"], **more}


@pytest.mark.parametrize(
    ("names", "settings", "peft", "vllm", "reason"),
    [
        (["q_proj"], config(), "all", "all", "requires --max-lora-rank 8 or more"),
        (
            ["q_proj"],
            config(target_modules=None),
            "part",
            "nothing",
            "target_modules is not a list",
        ),
        (["q_proj", "up_proj"], config(), "part", "all", "lacks up_proj"),
        (["up_proj"], config(), "nothing", "all", "lacks up_proj"),
        (["lm_head"], config(), "all", "all", "loads lm_head only for models"),
        (["unembed_tokens"], config(), "nothing", "nothing", "unexpected modules: model.unembed"),
        (["mlp.experts.w1"], config(), "nothing", "nothing", "model.layers.*.mlp.experts.w1"),
        (["in_proj_q"], config(), "nothing", "all", "splits in_proj_qkv, so it can load"),
        (["q_proj"], config(use_dora=True), "all", "nothing", "use_dora is set"),
        (["q_proj"], config(alpha_pattern={"q_proj": 99}), "all", "all", "ignores alpha_pattern"),
    ],
)
def test_what_peft_and_vllm_do(
    names: list[str], settings: dict[str, Any], peft: str, vllm: str, reason: str, tmp_path: Path
) -> None:
    outside = {"lm_head": "lm_head", "unembed_tokens": "model.unembed_tokens"}
    modules = [outside.get(name, f"model.layers.0.{name}") for name in names]
    made = toy_models.Toy({}, shapes=dict.fromkeys(modules, ((4, 6), (5, 4))))
    toy_models.write_adapter(tmp_path / "adapter", made, **settings)
    found = inspect(tmp_path / "adapter", "--json").rows
    assert (found["peft"]["loads"], found["vllm"]["loads"]) == (peft, vllm)
    assert any(reason in text for text in found["peft"]["reasons"] + found["vllm"]["reasons"])


def test_a_rank_that_vllm_does_not_support(tmp_path: Path) -> None:
    made = toy_models.Toy({}, shapes={"lm_head": ((600, 3), (2, 600))})
    toy_models.write_adapter(tmp_path / "adapter", made, **config(r=600))
    found = inspect(tmp_path / "adapter", "--json").rows["vllm"]
    assert found == {"loads": "nothing", "reasons": ["the rank is higher than 512"]}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([0.0, 0.0], "▁▁"),
        ([0.1, 0.5, 1.0], "▁▅█"),
        ([float(n) for n in range(100)], "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██"),
    ],
)
def test_sparklines(values: list[float], line: str) -> None:
    assert norms.sparkline(values, 16) == line


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[list[str]]:
    """Return the paths of a sampler and a training checkpoint on a local service."""
    pytest.importorskip("tinkex_local")
    with (
        local_service(tmp_path / "home"),
        ServiceClient() as client,
        client.create_lora_training_client(MODEL, rank=4, seed=1) as training,
    ):
        yield [training.save_weights_for_sampler("one").path, training.save_state("two").path]


def test_a_checkpoint_is_read_on_the_service(saved: list[str], tmp_path: Path) -> None:
    for path in saved:
        remote = inspect(path, "--json").rows
        assert (remote["update_norm"], remote["source"]) == (None, path)
        assert remote["base_model"] == MODEL
        assert remote["modules"][0]["norms"] is None
        with_norms = inspect(path, "--json", "--norms").rows
        target = tmp_path / path.rpartition("/")[2]
        assert invoke(["checkpoint", "download", path, "-o", str(target)]).exit_code == 0
        local = inspect(target, "--json").rows
        assert with_norms == local | {"source": path}
        assert len(local["untrained"]) == len(local["modules"])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing-here", "no such directory: nothing-here"),
        ("tinker://run/weights/none", "Unknown checkpoint"),
        ("empty", "empty is not a PEFT adapter: it has no adapter_config.json"),
    ],
)
def test_sources_that_do_not_exist(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tinkex_local")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "empty" / "below" / "other.age").touch()  # is not searched
    monkeypatch.chdir(tmp_path)
    with local_service(tmp_path / "home"):
        done = invoke(["checkpoint", "inspect", source])
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Hint: ")
