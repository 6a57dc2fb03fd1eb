"""Small base models and adapters for them, with the names and shapes of real families.

No matrix is square, and no width of experts is half of the hidden size, so that a mistaken axis
shows. The names are
those of models that transformers 5.24 writes (``test_real_models.py`` compares them), those of
adapters are the hosted service's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, WIDE, QUERIES, KEYS, WORDS, EXPERTS, NARROW, SHARED = 24, 22, 40, 20, 97, 3, 16, 18
RANK, ALPHA = 4, 6
#: Rows of the parts of the linear attention of Qwen3.5, and of its outputs.
PARTS = {"in_proj_q": 12, "in_proj_k": 12, "in_proj_v": 32}

Array = Any
#: A tensor of the base model, the index of the part that is updated, the expert, and whether the
#: part is stored as (inputs, outputs).
Goal = tuple[str, Any, int | None, bool]


@dataclass
class Toy:
    """A family: its configuration, and the shapes of its base model and adapter.

    :ivar base: tensor → shape.
    :ivar shapes: module of the adapter → shapes of A and B.
    :ivar goals: module of the adapter → where its update belongs.
    """

    config: dict[str, Any]
    base: dict[str, tuple[int, ...]] = field(default_factory=dict)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    goals: dict[str, list[Goal]] = field(default_factory=dict)

    def linear(self, module: str, path: str, outputs: int, inputs: int, rows: Any = None) -> None:
        """Add an ordinary module, or a part of one: the *rows* of an existing matrix."""
        if rows is None:
            self.base[f"{path}.weight"] = (outputs, inputs)
        self.shapes[module] = (RANK, inputs), (outputs, RANK)
        self.goals[module] = [(f"{path}.weight", rows or slice(None), None, False)]

    def expert(self, module: str, outputs: int, inputs: int, goals: list[Goal]) -> None:
        """Add a module of all experts; the factor at the hidden size is common to all."""
        a, b = (RANK, inputs), (outputs, RANK)
        counts = (1, EXPERTS) if inputs == HIDDEN else (EXPERTS, 1)
        self.shapes[module] = (counts[0], *a), (counts[1], *b)
        self.goals[module] = goals


def attention(toy: Toy, adapter: str, base: str, gates: int = 0) -> None:
    for name, outputs in (("q_proj", QUERIES + gates), ("k_proj", KEYS), ("v_proj", KEYS)):
        toy.linear(f"{adapter}.{name}", f"{base}.{name}", outputs, HIDDEN)
    toy.linear(f"{adapter}.o_proj", f"{base}.o_proj", HIDDEN, QUERIES)


def latent_attention(toy: Toy, adapter: str, base: str) -> None:
    """Add what is adapted of multi-head latent attention."""
    toy.linear(f"{adapter}.q_a_proj", f"{base}.q_a_proj", 11, HIDDEN)
    toy.linear(f"{adapter}.kv_a_proj_with_mqa", f"{base}.kv_a_proj_with_mqa", 17, HIDDEN)
    toy.linear(f"{adapter}.o_proj", f"{base}.o_proj", HIDDEN, 32)


def mlp(toy: Toy, adapter: str, base: str, wide: int = WIDE) -> None:
    for name in ("gate_proj", "up_proj"):
        toy.linear(f"{adapter}.{name}", f"{base}.{name}", wide, HIDDEN)
    toy.linear(f"{adapter}.down_proj", f"{base}.down_proj", HIDDEN, wide)


def linear_attention(toy: Toy, adapter: str, base: str) -> None:
    toy.base[f"{base}.in_proj_qkv.weight"] = (sum(PARTS.values()), HIDDEN)
    start = 0
    for name, rows in PARTS.items():
        place = slice(start, start := start + rows)
        toy.linear(f"{adapter}.{name}", f"{base}.in_proj_qkv", rows, HIDDEN, place)
    toy.linear(f"{adapter}.in_proj_z", f"{base}.in_proj_z", 32, HIDDEN)
    toy.linear(f"{adapter}.out_proj", f"{base}.out_proj", HIDDEN, 32)


def experts(toy: Toy, adapter: str, base: str, layout: str) -> None:
    """Add experts in a *layout*: separate, or fused: concatenated, interleaved, inputs first."""
    goals: dict[str, list[Goal]] = {"w1": [], "w3": [], "w2": []}
    sizes = {"w1": (NARROW, HIDDEN), "w3": (NARROW, HIDDEN), "w2": (HIDDEN, NARROW)}
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    flipped = "inputs" in layout
    if layout != "separate":
        shapes = {"gate_up_proj": (2 * NARROW, HIDDEN), "down_proj": (HIDDEN, NARROW)}
        for name, shape in shapes.items():
            toy.base[f"{base}.{name}"] = (EXPERTS, *(shape[::-1] if flipped else shape))
    for number in range(EXPERTS):
        for word, (outputs, inputs) in sizes.items():
            goal: Goal = (f"{base}.{number}.{names[word]}.weight", slice(None), number, False)
            if layout == "separate":
                toy.base[goal[0]] = (outputs, inputs)
            elif word == "w2":
                goal = (f"{base}.down_proj", np.s_[number], number, flipped)
            else:
                second = word == "w3"
                rows = slice(NARROW, None) if second else slice(NARROW)
                if "interleaved" in layout:
                    rows = slice(int(second), None, 2)
                index = np.s_[number, :, rows] if flipped else np.s_[number, rows]
                goal = (f"{base}.gate_up_proj", index, number, flipped)
            goals[word].append(goal)
    for word, (outputs, inputs) in sizes.items():
        toy.expert(f"{adapter}.{word}", outputs, inputs, goals[word])


def toy(family: str) -> Toy:
    """Return the toy of a *family*, with two layers."""
    config = {"model_type": family, "architectures": [FAMILIES[family]]}
    made = Toy({**config, "tie_word_embeddings": family == "qwen3"})
    prefix = "model.language_model." if family.startswith(("qwen3_5", "qwen3_vl")) else "model."
    if prefix != "model.":
        made.config["text_config"] = {"tie_word_embeddings": False}
    made.base[f"{prefix}embed_tokens.weight"] = (WORDS, HIDDEN)
    for layer in range(2):
        ours, theirs = f"{prefix}layers.{layer}", f"model.layers.{layer}"
        made.base[f"{ours}.input_layernorm.weight"] = (HIDDEN,)
        if family.startswith("qwen3_5") and layer == 0:
            linear_attention(made, f"{theirs}.linear_attn", f"{ours}.linear_attn")
        elif family == "deepseek_v3":
            latent_attention(made, f"{theirs}.self_attn", f"{ours}.self_attn")
        else:
            word = "attn" if family == "gpt_oss" else "self_attn"
            gates = QUERIES if family.startswith("qwen3_5") else 0
            attention(made, f"{theirs}.{word}", f"{ours}.self_attn", gates)
        if family in LAYOUTS and (family != "deepseek_v3" or layer):
            experts(made, f"{theirs}.mlp.experts", f"{ours}.mlp.experts", LAYOUTS[family])
        else:
            mlp(made, f"{theirs}.mlp", f"{ours}.mlp")
        if f"{ours}.mlp.up_proj.weight" not in made.base and family in SHARING:
            shared, wide = SHARING[family]
            mlp(made, f"{theirs}.mlp.{shared}", f"{ours}.mlp.{shared}", wide)
    made.linear("model.unembed_tokens", "lm_head", WORDS, HIDDEN)
    if family == "qwen3":  # tied
        del made.base["lm_head.weight"]
    return made


FAMILIES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
}
#: Families with shared experts → their name and width.
SHARING = {"deepseek_v3": ("shared_experts", NARROW), "qwen3_5_moe": ("shared_expert", SHARED)}
#: How the checkpoints on the Hub store experts.
LAYOUTS = {
    "deepseek_v3": "separate",
    "qwen3_moe": "separate",
    "gpt_oss": "interleaved, inputs first",
    "qwen3_5_moe": "concatenated",
    "qwen3_vl_moe": "concatenated, inputs first",
}


# Files ----------------------------------------------------------------------------------------


def arrays(shapes: dict[str, tuple[int, ...]], seed: int, dtype: str) -> dict[str, Array]:
    """Return random tensors of a NumPy type, or of ``bfloat16``."""
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 0.1, shape).astype(kind) for name, shape in shapes.items()}


def save(file: Path, tensors: dict[str, Array]) -> None:
    """Write *tensors* with the reference implementation of the format."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(one) for name, one in tensors.items()}, file)


def load(file: Path) -> dict[str, Array]:
    """Read a file with the reference implementation of the format."""
    from safetensors.numpy import load_file

    return dict(load_file(file))


def write_base(
    directory: Path, made: Toy, dtype: str = "float32", files: int = 1
) -> dict[str, Array]:
    """Write the base model *made* into a number of *files*; return its tensors."""
    directory.mkdir(parents=True)
    tensors = arrays(made.base, 1, dtype)
    (directory / "config.json").write_text(json.dumps(made.config))
    if files == 1:
        save(directory / "model.safetensors", tensors)
        return tensors
    names = [f"model-{n + 1:05}-of-{files:05}.safetensors" for n in range(files)]
    places = {name: names[number % files] for number, name in enumerate(tensors)}
    for name in names:
        save(directory / name, {one: tensors[one] for one in tensors if places[one] == name})
    index = {"metadata": {"total_size": 0, "kept": True}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors


def write_adapter(
    directory: Path, made: Toy, dtype: str = "float32", **config: Any
) -> dict[str, Array]:
    """Write an adapter for *made*, as the hosted service does; return its tensors."""
    directory.mkdir(parents=True)
    shapes = {
        f"base_model.model.{module}.lora_{side}.weight": shape
        for module, both in made.shapes.items()
        for side, shape in zip("AB", both, strict=True)
    }
    tensors = arrays(shapes, 2, dtype)
    save(directory / "adapter_model.safetensors", tensors)
    known = {"r": RANK, "lora_alpha": ALPHA, "target_modules": "all-linear", "peft_type": "LORA"}
    (directory / "adapter_config.json").write_text(json.dumps({**known, **config}))
    return tensors


def deltas(made: Toy, adapter: dict[str, Array]) -> Iterator[tuple[str, Any, Array]]:
    """Yield base tensor, index and update in float32 of everything that the adapter changes."""
    for module, goals in made.goals.items():
        a, b = (
            adapter[f"base_model.model.{module}.lora_{side}.weight"].astype("float32")
            for side in "AB"
        )
        for name, index, expert, flipped in goals:
            first, second = a, b
            if expert is not None:
                first, second = a[min(expert, len(a) - 1)], b[min(expert, len(b) - 1)]
            update = ALPHA / RANK * (second @ first)
            yield name, index, update.T if flipped else update


def merged(made: Toy, base: dict[str, Array], adapter: dict[str, Array]) -> dict[str, Array]:
    """Return the tensors of *base* with the updates, in float32."""
    found = {name: one.astype("float32") for name, one in base.items()}
    if "lm_head.weight" not in found:
        found["lm_head.weight"] = found["model.embed_tokens.weight"].copy()
    for name, index, update in deltas(made, adapter):
        found[name][index] += update
    return found
