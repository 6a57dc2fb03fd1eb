"""LoRA adapters in memory, and their files in PEFT's format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tinkex_local.problems import OperationError
from tinkex_local.state.adapter import CONFIG, TENSORS

_PREFIX = "base_model.model."
_SUFFIXES = (".lora_A.weight", ".lora_B.weight")

#: Exceptions raised while reading a missing or damaged file.
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RuntimeError, SafetensorError),
)
#: Module name → its two factors: A (rank, inputs) and B (outputs, rank).
Factors = dict[str, tuple[Tensor, Tensor]]


class Adapter:
    """The tensors of a LoRA adapter, stored one after another in a single float32 vector.

    With one vector, accumulation, clipping and AdamW take a few operations each, instead of a few
    for each of hundreds of tensors.

    :ivar config: the content of ``adapter_config.json``.
    :ivar shapes: shape of each tensor by its name in the file, in the order of the vector.
    :ivar vector: the values of all tensors.
    :ivar scale: factor of the product B·A.
    """

    vector: Tensor

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> None:
        self.config = config
        self.shapes = shapes
        rank = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
        self.scale = float(config["lora_alpha"] / rank)

    @classmethod
    def read(cls, directory: Path, device: torch.device) -> Adapter:
        """Read the adapter in *directory*.

        :raises OperationError: a file is missing or damaged.
        """
        try:
            config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(directory / TENSORS, device=str(device))
            adapter = cls(config, {name: tensors[name].shape for name in sorted(tensors)})
            adapter.vector = adapter.joined(tensors)
            return adapter
        except DAMAGE as error:
            raise OperationError(f"the adapter in {directory} is damaged: {error}") from error

    def write(self, directory: Path) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

        :raises OSError: a file cannot be written.
        """
        save(directory / TENSORS, self.split(self.vector), {"format": "pt"})
        text = json.dumps(self.config, indent=2, sort_keys=True) + "\n"
        (directory / CONFIG).write_text(text, encoding="utf-8")

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the parts of *vector* by tensor name; they are views."""
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}

    def joined(self, tensors: Mapping[str, Tensor], prefix: str = "") -> Tensor:
        """Return the *tensors* whose names are *prefix* and a name of the adapter as one vector.

        :raises KeyError: one is missing.
        :raises ValueError: one has another shape than the adapter's tensor.
        """
        parts = []
        for name, shape in self.shapes.items():
            tensor = tensors[prefix + name]
            if tensor.shape != shape:
                raise ValueError(f"{prefix + name} has the wrong shape")
            parts.append(tensor.to(torch.float32).flatten())
        return torch.cat(parts)

    def factors(self, vector: Tensor) -> Factors:
        """Return lora_A and lora_B in *vector* by module name.

        :raises OperationError: a tensor is not in a pair of lora_A and lora_B.
        """
        tensors = self.split(vector)
        found: Factors = {}
        for name in [name for name in tensors if name.endswith(_SUFFIXES[0])]:
            module = name.removesuffix(_SUFFIXES[0])
            second = tensors.pop(module + _SUFFIXES[1], None)
            if second is not None:
                found[module.removeprefix(_PREFIX)] = tensors.pop(name), second
        if tensors:
            what = "the adapter has a tensor that is not in a pair of lora_A and lora_B"
            raise OperationError(f"{what}: {min(tensors)}")
        return found


def save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    :raises OSError: the file cannot be written.
    """
    # Views of one vector share its memory, which safetensors refuses to write.
    apart = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    try:
        save_file(apart, path, metadata=metadata)
    except SafetensorError as error:  # it wraps the system's error
        raise OSError(str(error)) from error
