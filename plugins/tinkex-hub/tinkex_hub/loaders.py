"""What PEFT and vLLM do with an unconverted adapter, according to their source code.

PEFT 0.21: ``peft.utils.save_and_load``. vLLM 0.18: ``vllm.lora.peft_helper`` and ``lora_model``.
Neither has been run for this purpose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tinkex.api import AdapterMismatch
from tinkex_hub.lora import PACKED, PREFIX, Adapter, shortened

#: The values of vLLM's option ``--max-lora-rank``.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
#: Names of the hosted service that vLLM rejects.
_REFUSED = re.compile(r"(^|\.)unembed_tokens$|\.experts\.w[123]$|^model\.layers\.\d+\.attn\.")
#: Modules that are parts of one matrix in the base model; vLLM splits the matrix.
_PARTS = re.compile(r"\.in_proj_[qkv]$")
_OUTPUT = ("lm_head", "embed_tokens")


@dataclass(frozen=True)
class Verdict:
    """What a program does with an adapter.

    :ivar loads: ``all`` of its tensors, a ``part`` of them, or ``nothing``.
    :ivar reasons: the reasons, and other notes.
    """

    loads: str
    reasons: list[str]


def in_peft(adapter: Adapter) -> Verdict:
    """Return what PEFT does with *adapter*."""
    reasons, loads = [], "all"
    mismatch = AdapterMismatch.find(adapter.config, adapter.weights.tensors)
    if mismatch is not None:
        known = set(mismatch.modules) - set(mismatch.unlisted)
        loads = "part" if known else "nothing"
        reasons.append(str(mismatch))
        if adapter.config.get("target_modules") is None:
            loads = "part"
            reasons.append(
                "target_modules is missing or null, so PEFT chooses the modules by architecture"
            )
    if adapter.others:
        reasons.append(
            f"tensors that are neither lora_A nor lora_B: {shortened(adapter.others, 3)}"
        )
    if "lm_head" in {module.rpartition(".")[2] for module in adapter.loras}:
        reasons.append(
            "the adapter changes lm_head; if the base model ties lm_head to the embeddings, "
            "merge_and_unload() changes both"
        )
    return Verdict(loads, reasons)


def in_vllm(adapter: Adapter) -> Verdict:
    """Return what vLLM does with *adapter*."""
    modules = [name.removeprefix(PREFIX) for name in adapter.loras]
    refused = [f"{name} is set" for name in adapter.unusual if name != "fan_in_fan_out"]
    if not isinstance(adapter.config.get("target_modules"), (list, str)):
        refused.append("target_modules is not a list or a string")
    odd = sorted({_short(name) for name in modules if _REFUSED.search(name)})
    if odd:
        refused.append(f"unexpected modules: {shortened(odd, 3)}")
    ranks = [lora.rank for name, lora in adapter.loras.items() if not name.endswith(PACKED)]
    highest = max(ranks, default=adapter.rank)
    fitting = [rank for rank in _RANKS if rank >= highest]
    if not fitting:
        refused.append(f"the rank is higher than {_RANKS[-1]}")
    if refused:
        return Verdict("nothing", refused)
    reasons = [f"requires --max-lora-rank {fitting[0]} or more"]
    scale = adapter.alpha / adapter.rank
    if not adapter.config.get("use_rslora") and any(
        abs(lora.scale - scale) > 1e-9 * scale for lora in adapter.loras.values()
    ):
        reasons.append(
            "ignores alpha_pattern and rank_pattern, so some updates have the wrong scale"
        )
    if any(name.rpartition(".")[2] in _OUTPUT for name in modules):
        reasons.append("loads lm_head only for models that support it, such as Llama and Qwen3")
    if any(_PARTS.search(name) for name in modules):
        reasons.append(
            "splits in_proj_qkv, so it can load in_proj_q, in_proj_k and in_proj_v (Qwen3.5)"
        )
    if any(".experts." in name for name in modules):
        reasons.append("loads experts differently for each model, so test the result")
    return Verdict("all", reasons)


def _short(module: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", module)
