"""Files for the pages on adapters: a base model, and an adapter with updates.

``models.py base DIR`` writes a base model of the shapes that the local service has, with weights of
zero. ``models.py train DIR`` changes the adapter in *DIR*: the second factors become random, larger
in later layers. ``models.py rename DIR`` gives it the names of the hosted service.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

HIDDEN, WIDE, QUERIES, KEYS, WORDS, LAYERS = 192, 512, 192, 64, 2048, 4


def base(directory: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, HIDDEN)}
    for layer in range(LAYERS):
        path = f"model.layers.{layer}"
        for name, outputs in (("q", QUERIES), ("k", KEYS), ("v", KEYS)):
            shapes[f"{path}.self_attn.{name}_proj.weight"] = (outputs, HIDDEN)
        shapes[f"{path}.self_attn.o_proj.weight"] = (HIDDEN, QUERIES)
        shapes |= {f"{path}.mlp.{name}_proj.weight": (WIDE, HIDDEN) for name in ("gate", "up")}
        shapes[f"{path}.mlp.down_proj.weight"] = (HIDDEN, WIDE)
    directory.mkdir()
    tensors = {name: np.zeros(shape, ml_dtypes.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors")
    config = {"model_type": "qwen3", "tie_word_embeddings": True}
    (directory / "config.json").write_text(json.dumps(config))


def train(directory: Path) -> None:
    random = np.random.default_rng(1)
    tensors = load_file(directory / "adapter_model.safetensors")
    for name, one in sorted(tensors.items()):
        layer = re.search(r"layers\.(\d+)", name)
        if ".lora_B." in name and "v_proj" not in name:
            size = 0.001 * (1 + int(layer[1]) if layer else 1)
            tensors[name] = random.normal(0, size, one.shape).astype(one.dtype)
    save_file(tensors, directory / "adapter_model.safetensors")


def rename(directory: Path) -> None:
    tensors = load_file(directory / "adapter_model.safetensors")
    new = {name.replace("lm_head", "model.unembed_tokens"): one for name, one in tensors.items()}
    save_file(new, directory / "adapter_model.safetensors")
    config = json.loads((directory / "adapter_config.json").read_text())
    config["target_modules"] = "all-linear"
    (directory / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    {"base": base, "train": train, "rename": rename}[sys.argv[1]](Path(sys.argv[2]))
