"""Exported and merged adapters in PEFT and transformers, on small models with random weights.

The names and shapes of :mod:`tests.toy_models` are compared with the models here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy_models
from tests.toy_models import EXPERTS, FAMILIES, HIDDEN, LAYOUTS, NARROW, SHARED, WIDE, WORDS, toy
from tinkex.testing import invoke

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore"),  # those of PEFT are collected and looked at
]

COMMON = {
    "num_hidden_layers": 2,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "vocab_size": WORDS,
    "max_position_embeddings": 64,
}
MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": NARROW}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 8,
}
IMAGES = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 20,
    "out_hidden_size": HIDDEN,
    "patch_size": 4,
}
DEEP = {**IMAGES, "deepstack_visual_indexes": [0]}


def rope(*sections: int, **more: float) -> dict[str, Any]:
    known = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
    return {"rope_parameters": {**known, **more}}


#: Family → arguments of its configuration.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        **COMMON,
        "num_key_value_heads": 4,
        "head_dim": 4,
        "n_routed_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": NARROW,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 11,
        "kv_lora_rank": 13,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 6,
        "v_head_dim": 8,
    },
    "llama": COMMON,
    "qwen3": {**COMMON, "tie_word_embeddings": True},
    "qwen3_moe": {**COMMON, **MOE},
    "gpt_oss": {
        **COMMON,
        "intermediate_size": NARROW,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "qwen3_5": {
        "text_config": {**COMMON, **LINEAR, **rope(1, 1, 1, partial_rotary_factor=0.6)},
        "vision_config": IMAGES,
    },
    "qwen3_5_moe": {
        "text_config": {
            **COMMON,
            **MOE,
            **LINEAR,
            **rope(1, 1, 1, partial_rotary_factor=0.6),
            "shared_expert_intermediate_size": SHARED,
        },
        "vision_config": IMAGES,
    },
    "qwen3_vl": {"text_config": {**COMMON, **rope(2, 2, 1)}, "vision_config": DEEP},
    "qwen3_vl_moe": {"text_config": {**COMMON, **MOE, **rope(2, 2, 1)}, "vision_config": DEEP},
}


class Model:
    """A base model in files, and the functions to load it.

    :ivar toy: its names and shapes.
    """

    def __init__(self, root: Path, family: str, layout: str) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self.toy, self.root = toy(family), root
        self.base, self.adapter = root / "base", root / "adapter"
        self.kind = getattr(transformers, FAMILIES[family])
        torch.manual_seed(0)
        model = self.kind(self.kind.config_class(**ARGUMENTS[family]))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.2)
        model.save_pretrained(self.base)
        self.logprobs = logprobs(model)
        if layout == "hub":
            self._as_on_the_hub()
        toy_models.write_adapter(self.adapter, self.toy)

    def load(self, directory: Path) -> Any:
        import torch

        return self.kind.from_pretrained(directory, dtype=torch.float32)

    def export(self, to: str) -> Path:
        out = self.root / to
        base, words = str(self.base), ["--to", to, "--output", str(out)]
        done = invoke(["checkpoint", "export", str(self.adapter), "--base", base, *words])
        assert done.exit_code == 0, done.stderr
        return out

    def tensors(self) -> dict[str, Any]:
        return toy_models.load(self.base / "model.safetensors")

    def _as_on_the_hub(self) -> None:
        """Store the experts as the checkpoints of the family on the Hub do."""
        found = self.tensors()
        for name, shape in self.toy.base.items():
            path, _, last = name.rpartition(".")
            if name not in found:
                projections = ["down_proj"] if last == "down_proj" else ["gate_proj", "up_proj"]
                found[name] = np.stack(
                    [
                        np.concatenate([found.pop(f"{path}.{e}.{p}.weight") for p in projections])
                        for e in range(EXPERTS)
                    ]
                )
            elif found[name].shape != shape:
                found[name] = found[name].transpose(0, 2, 1)
        toy_models.save(self.base / "model.safetensors", found)


def logprobs(model: Any) -> Any:
    """Return the log-probabilities of all tokens after each of some."""
    import torch

    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.arange(1, 40, 3)[None] % WORDS).logits
    return torch.log_softmax(logits.float(), -1)


def distance(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


CASES = [(family, "hub") for family in FAMILIES if family != "deepseek_v3"] + [
    (family, "transformers") for family in ("qwen3_5_moe", "qwen3_vl_moe")
]


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str, str], Model]:
    pytest.importorskip("torch")
    return lambda family, layout: Model(tmp_path, family, layout)


@pytest.mark.parametrize(("family", "layout"), CASES)
def test_peft_loads_an_exported_adapter_and_the_merged_model_is_equal(
    family: str, layout: str, model: Callable[[str, str], Model]
) -> None:
    from peft import PeftModel

    case = model(family, layout)
    stored = {name: one.shape for name, one in case.tensors().items()}
    if layout == "hub":
        assert case.toy.base.items() <= stored.items()
    base = case.load(case.base)
    assert distance(logprobs(base), case.logprobs) < 1e-6
    out = case.export("peft")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(base, out)
    assert [w for w in caught if "missing adapter keys" in str(w.message)] == []
    written = toy_models.load(out / "adapter_model.safetensors")
    loaded = [one for name, one in adapted.named_parameters() if ".lora_" in name]
    if LAYOUTS.get(family) != "separate":  # those PEFT fuses itself
        assert len(loaded) == len(written)
    ours = logprobs(adapted)
    assert distance(ours, case.logprobs) > 0.5
    merged = case.load(case.export("merged"))
    assert distance(logprobs(merged), ours) < 1e-5


def test_peft_merges_a_tied_model_wrongly_but_export_does_not(
    model: Callable[[str, str], Model],
) -> None:
    from peft import PeftModel

    case = model("qwen3", "hub")
    adapted = PeftModel.from_pretrained(case.load(case.base), case.export("peft"))
    ours = logprobs(adapted)
    merged = case.export("merged")
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is False
    assert distance(logprobs(case.load(merged)), ours) < 1e-5
    assert distance(logprobs(adapted.merge_and_unload()), ours) > 0.1


def test_a_merged_model_that_peft_does_not_load_is_that_of_the_updates(
    model: Callable[[str, str], Model],
) -> None:
    case = model("deepseek_v3", "hub")
    stored = case.tensors()
    assert case.toy.base.items() <= {name: one.shape for name, one in stored.items()}.items()
    merged = logprobs(case.load(case.export("merged")))
    adapter = toy_models.load(case.adapter / "adapter_model.safetensors")
    expected = toy_models.merged(case.toy, stored, adapter)
    toy_models.save(case.base / "model.safetensors", expected)
    assert distance(merged, case.logprobs) > 0.5
    assert distance(merged, logprobs(case.load(case.base))) < 1e-5
