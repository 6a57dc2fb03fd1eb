"""LoRA adapters: their configuration, and lora_A and lora_B of each adapted module.

The update of a weight is ``scale * B @ A``; A has the shape (rank, inputs), B (outputs, rank). The
tensors are named ``base_model.model.<module>.lora_A.weight`` and ``….lora_B.weight``, by PEFT and
by the Tinker API.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from tinkex.exceptions import UsageError
from tinkex_hub.tensors import FLOATS, TensorFile, TensorInfo

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE = "base_model_name_or_path"
_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")
#: The keys of patterns that are supported: the end of a module's path, as PEFT writes them.
_PATTERN = re.compile(r"(?:\^|\.\*\\?\.)?((?:\w|\\?\.)+)\$?")
#: Modules of parameters with three dimensions, in PEFT's names: the last added parameter, and
#: the one before it.
PACKED = ("experts", "base_layer")
#: Settings of other methods than plain LoRA, with the values of plain LoRA.
_PLAIN = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "lora_bias": (False, None),
    "layer_replication": (None, []),
}


@dataclass(frozen=True)
class Lora:
    """lora_A and lora_B of one module.

    :ivar module: path of the module, without PEFT's prefix.
    :ivar names: names of the tensors A and B.
    :ivar a: the tensor A: (rank, inputs), or (experts or 1, rank, inputs).
    :ivar b: the tensor B: (outputs, rank), or (experts or 1, outputs, rank).
    :ivar scale: factor of the update.
    """

    module: str
    names: tuple[str, str]
    a: TensorInfo
    b: TensorInfo
    scale: float

    @property
    def rank(self) -> int:
        """The number of rows of A."""
        return self.a.shape[-2]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight that the update is added to: (outputs, inputs)."""
        return self.b.shape[-2], self.a.shape[-1]

    @property
    def experts(self) -> int:
        """Number of experts; 0 for an ordinary module."""
        return max(self.a.shape[0], self.b.shape[0]) if len(self.a.shape) == 3 else 0

    @property
    def parameters(self) -> int:
        """Number of values in both tensors."""
        return self.a.count + self.b.count


class Adapter:
    """A LoRA adapter.

    :param config: the content of ``adapter_config.json``.
    :param weights: the opened ``adapter_model.safetensors``.
    :ivar rank: the rank of modules that have no rank of their own.
    :ivar alpha: ``lora_alpha``; the update's factor is alpha / rank.
    :ivar loras: lora_A and lora_B by path of the module, in the order of the file.
    :ivar others: names of the other tensors.
    :raises UsageError: it is not a LoRA adapter, or its tensors contradict its configuration.
    """

    def __init__(self, config: Mapping[str, Any], weights: TensorFile) -> None:
        self.config, self.weights = config, weights
        kind = config.get("peft_type") or "LORA"
        if kind != "LORA":
            raise UsageError(
                f"peft_type in {CONFIG} is {str(kind)[:40]!r}, not LORA",
                hint="Specify a LoRA adapter.",
            )
        self.rank = _positive(config, "r", whole=True)
        self.alpha = _positive(config, "lora_alpha")
        self.loras, self.others = self._pairs()
        if not self.loras:
            raise UsageError("the adapter has no LoRA tensors")

    @classmethod
    def open(cls, config: Mapping[str, Any], file: BinaryIO, label: str) -> Adapter:
        """Return the adapter with the tensors in *file*, which must stay open."""
        try:
            return cls(config, TensorFile(file, label))
        except UsageError as error:
            error.hint = (
                error.hint or f"Check that {CONFIG} and {WEIGHTS} belong to the same LoRA adapter."
            )
            raise

    @property
    def base_model(self) -> str | None:
        """Name of the base model, if the configuration has one."""
        name = self.config.get(BASE)
        return name if isinstance(name, str) and name else None

    @property
    def unusual(self) -> list[str]:
        """Settings of other methods than plain LoRA."""
        return [name for name, plain in _PLAIN.items() if self.config.get(name) not in plain]

    def settings_of(self, module: str) -> tuple[int, float]:
        """Return the rank of *module* and the factor of its update, from the configuration.

        :raises UsageError: a pattern has an entry that is not supported.
        """
        rank = int(self._pattern("rank_pattern", module) or self.rank)
        alpha = self._pattern("alpha_pattern", module) or self.alpha
        return rank, alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _pairs(self) -> tuple[dict[str, Lora], list[str]]:
        names: dict[str, dict[str, str]] = defaultdict(dict)
        others = []
        for name in self.weights.tensors:
            match = _FACTOR.fullmatch(name)
            if match is None or match[2] in names[match[1]]:
                others.append(name)
            else:
                names[match[1]][match[2]] = name
        alone = [module for module, found in names.items() if len(found) != 2]
        if alone:
            raise UsageError(
                f"the adapter has only one of lora_A and lora_B for {shortened(alone)}"
            )
        pairs = ((module, (found["A"], found["B"])) for module, found in names.items())
        return {module: self._lora(module, found) for module, found in pairs}, others

    def _lora(self, module: str, names: tuple[str, str]) -> Lora:
        a, b = (self.weights.tensors[name] for name in names)
        path, _, last = module.rpartition(".")
        if is_packed := last in PACKED:  # patterns name the parameter
            module_path = f"{path}.gate_up_proj" if last == "base_layer" else f"{module}.down_proj"
        else:
            module_path = module
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        if a.dtype not in FLOATS or b.dtype not in FLOATS:
            raise UsageError(
                f"unsupported tensor types in {module}: lora_A is {a.dtype}, lora_B is {b.dtype}",
                hint=f"Convert the tensors to one of the supported types: {', '.join(FLOATS)}.",
            )
        if not 2 <= len(a.shape) == len(b.shape) <= 3 or a.shape[-2] != b.shape[-1]:
            raise UsageError(f"the shapes of lora_A and lora_B of {module} do not match: {shapes}")
        if len(a.shape) == 3 and 1 not in (a.shape[0], b.shape[0]) and a.shape[0] != b.shape[0]:
            raise UsageError(f"the shapes of lora_A and lora_B of {module} do not match: {shapes}")
        rank = a.shape[-2]
        expected, scale = self.settings_of(module_path)
        if not is_packed and rank != expected and a.count:
            raise UsageError(
                f"lora_A and lora_B of {module} have rank {rank}, but {CONFIG} specifies {expected}"
            )
        return Lora(module, names, a, b, scale)

    def _pattern(self, key: str, module: str) -> float | None:
        """Return the value of the first key of a pattern that matches the end of *module*.

        PEFT evaluates the keys as regular expressions, which may be malicious. Only paths are
        supported.

        :raises UsageError: another expression.
        """
        found = self.config.get(key) or {}
        for text, value in found.items() if isinstance(found, dict) else ():
            match = _PATTERN.fullmatch(text)
            if match is None or type(value) not in (int, float) or not value > 0:
                raise UsageError(
                    f"{key} in {CONFIG} has an unsupported entry: {text!r}",
                    hint="Each key must be a module path, and each value a positive number.",
                )
            if f".{module}".endswith(f".{match[1].replace(chr(92), '')}"):
                return float(value)
        return None


def _positive(config: Mapping[str, Any], key: str, *, whole: bool = False) -> Any:
    value: Any = config.get(key)
    if type(value) not in ((int,) if whole else (int, float)) or not 0 < value < math.inf:
        kind = "integer" if whole else "number"
        raise UsageError(f"{key!r} in {CONFIG} is missing or not a positive {kind}")
    return value


def shortened(names: Sequence[str], most: int = 6) -> str:
    """Join the first *names* for a message, with the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
