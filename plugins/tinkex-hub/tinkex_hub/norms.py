"""The size of an adapter's updates: the Frobenius norm of ``scale * B @ A`` of every module."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tinkex_hub.lora import Adapter, Lora

_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")
#: Ending of the path of one expert's module.
_EXPERT = re.compile(r"(.*\bexperts)\.\d+\.(.+)")


@dataclass(frozen=True)
class Kind:
    """The modules of one name in all layers.

    :ivar module: the name: ``self_attn.q_proj``; experts of a layer count as one.
    :ivar layers: the numbers of the layers, in order; empty for a module outside of the layers.
    :ivar loras: the tensors of each, several for separate experts.
    """

    module: str
    layers: list[int]
    loras: list[list[Lora]]

    @property
    def first(self) -> Lora:
        """The tensors of the first module."""
        return self.loras[0][0]

    @property
    def experts(self) -> int:
        """Number of experts in a layer; 0 for an ordinary module."""
        return max(self.first.experts, len(self.loras[0]) if len(self.loras[0]) > 1 else 0)

    @property
    def parameters(self) -> int:
        """Number of values of all tensors."""
        return sum(lora.parameters for layer in self.loras for lora in layer)


def kinds(adapter: Adapter) -> list[Kind]:
    """Return the modules of *adapter* by name, in the order of the first layer that has each."""
    found: dict[str, dict[int, list[Lora]]] = defaultdict(lambda: defaultdict(list))
    for module, lora in adapter.loras.items():
        match = _LAYER.fullmatch(module)
        layer, name = (int(match[1]), match[2]) if match else (-1, module)
        expert = _EXPERT.fullmatch(name)
        found[f"{expert[1]}.*.{expert[2]}" if expert else name][layer].append(lora)
    made = []
    for name, by_layer in found.items():
        layers = sorted(by_layer)
        numbers = [layer for layer in layers if layer >= 0]
        made.append(Kind(name, numbers, [by_layer[layer] for layer in layers]))
    return sorted(made, key=lambda kind: (not kind.layers, kind.module))


def norms(adapter: Adapter, kind: Kind) -> list[float]:
    """Return the norm of the update of each layer of *kind*; reads its tensors."""
    return [math.sqrt(sum(_squared(adapter, lora) for lora in layer)) for layer in kind.loras]


def _squared(adapter: Adapter, lora: Lora) -> float:
    """Return the squared norm, by ``|BA|² = sum(BᵀB * AAᵀ)``, whose matrices are small."""
    import numpy as np

    total = 0.0
    for a, b in _matrices(adapter, lora):
        total += float(np.sum((b.T @ b) * (a @ a.T)))
    return max(total, 0.0) * lora.scale**2


def _matrices(adapter: Adapter, lora: Lora) -> Iterator[tuple[Any, Any]]:
    weights = adapter.weights
    for expert in range(max(lora.experts, 1)):
        found = []
        for name, info in zip(lora.names, (lora.a, lora.b), strict=True):
            if lora.experts:
                index = expert if info.shape[0] > 1 else 0
                found.append(weights.array(name, index, index + 1)[0].astype("float64"))
            else:
                found.append(weights.array(name).astype("float64"))
        yield found[0], found[1]


def sparkline(values: list[float], width: int = 24) -> str:
    """Return *values* as a line of blocks of different heights, the highest for the largest.

    :param width: maximum number of blocks; adjacent values are averaged if there are more values.
    """
    if len(values) > width:
        edges = [len(values) * n // width for n in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    top = max(values, default=0.0)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[min(int(v / top * len(blocks)), 7)] if top else blocks[0] for v in values)
