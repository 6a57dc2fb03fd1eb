"""Adapter files in PEFT's format: shapes, creation, and a check for adapters without effect.

Names and configuration are the same as PEFT's for a LoRA adapter of a causal model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex_local.problems import OperationError
from tinkex_local.state.models import ModelFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
#: The optimizer's state, in training checkpoints of trained runs.
OPTIMIZER = "optimizer.safetensors"
#: A constant, as on the hosted service, so that scaling does not depend on the rank.
ALPHA = 32

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
UNEMBED = ("lm_head",)
#: Architectures with these module names; others fuse or rename modules.
ARCHITECTURES = frozenset(
    {"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"}
)


@dataclass(frozen=True)
class AdapterSpec:
    """The parameters of a new adapter.

    :ivar rank: rank of lora_A and lora_B.
    :ivar seed: seed of the random numbers in lora_A.
    """

    base_model: str
    rank: int
    seed: int
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True

    @property
    def target_modules(self) -> list[str]:
        """Names of the adapted modules, sorted."""
        chosen: tuple[str, ...] = ()
        chosen += ATTENTION if self.train_attn else ()
        chosen += MLP if self.train_mlp else ()
        chosen += UNEMBED if self.train_unembed else ()
        return sorted(chosen)


def check(spec: AdapterSpec, facts: ModelFacts) -> None:
    """Check that an adapter of *spec* can be created for the model.

    :raises OperationError: it cannot.
    """
    if not spec.target_modules:
        raise OperationError(
            "lora_config trains nothing: train_attn, train_mlp and train_unembed are all false"
        )
    if facts.model_type not in ARCHITECTURES:
        raise OperationError(
            f"this service does not support adapters for models of type {facts.model_type!r}"
        )
    if spec.train_mlp and facts.intermediate is None:
        raise OperationError(
            f"the MLP width of {spec.base_model} is unknown: copy the model's config.json "
            "into its directory, or set train_mlp to false"
        )


def shapes(spec: AdapterSpec, facts: ModelFacts) -> Iterator[tuple[str, int, int]]:
    """Yield ``(module, inputs, outputs)`` of every adapted module, with PEFT's names."""
    hidden, wide = facts.hidden, facts.intermediate or 0
    queries, keys = facts.heads * facts.head_size, facts.key_value_heads * facts.head_size
    sizes = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }
    chosen = set(spec.target_modules)
    for layer in range(facts.layers):
        for module, (inputs, outputs) in sizes.items():
            if module.partition(".")[2] in chosen:
                yield f"base_model.model.model.layers.{layer}.{module}", inputs, outputs
    if "lm_head" in chosen:
        yield "base_model.model.lm_head", hidden, facts.vocabulary


def write(
    directory: Path,
    spec: AdapterSpec,
    facts: ModelFacts,
    known: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write a new adapter into *directory*: A is random with the seed, B is zero.

    :param known: tensors to use instead, by name.
    :raises OSError: the files cannot be written.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    random = np.random.default_rng(spec.seed % 2**64)
    tensors = {}
    for module, inputs, outputs in shapes(spec, facts):
        # PEFT's own initialization: kaiming-uniform with a = sqrt(5).
        bound = 1 / math.sqrt(inputs)
        first = random.uniform(-bound, bound, (spec.rank, inputs))
        tensors[f"{module}.lora_A.weight"] = first.astype(np.float32)
        tensors[f"{module}.lora_B.weight"] = np.zeros((outputs, spec.rank), np.float32)
    try:
        save_file(tensors | dict(known or {}), directory / TENSORS, metadata={"format": "pt"})
    except SafetensorError as error:  # it wraps the system's error
        raise OSError(str(error)) from error
    config = json.dumps(_config(spec), indent=2, sort_keys=True) + "\n"
    (directory / CONFIG).write_text(config, encoding="utf-8")


def is_identity(directory: Path) -> bool:
    """Return whether the adapter has no effect, because lora_B of each module is zero.

    :raises OSError: the adapter cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / TENSORS, framework="numpy") as file:
            names = [name for name in file.keys() if ".lora_B." in name]  # noqa: SIM118
            return not any(file.get_tensor(name).any() for name in names)
    except SafetensorError as error:
        raise OSError(f"{directory / TENSORS} is damaged: {error}") from error


def _config(spec: AdapterSpec) -> dict[str, object]:
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": spec.base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": spec.rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": spec.target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
