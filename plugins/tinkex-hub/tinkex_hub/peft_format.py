"""Adapters in the format of PEFT, with the names and shapes that its version 0.21 loads.

Modules that are one matrix in the base model get one update: A of the parts is stacked, B is
block-diagonal, so the rank is the sum of their ranks, and ``alpha_pattern`` keeps the scale. The
experts of a layer that are one parameter are packed: A as (experts * rank, inputs), B as (outputs,
rank * experts) with the expert as the fastest index. Values are copied, not computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex.exceptions import UsageError
from tinkex_hub import tensors
from tinkex_hub.lora import BASE, CONFIG, PREFIX, WEIGHTS, Adapter, Lora
from tinkex_hub.placement import PROJECTIONS, Experts, Fused, Linear, Packed, Place
from tinkex_hub.tensors import TensorInfo

if TYPE_CHECKING:
    from tinkex_hub.tensors import Array

#: Prefix of the checkpoints of Kimi models, whose names in memory differ.
_UNSUPPORTED = "language_model.model."
_MERGE = "Merge the adapter with 'tinkex checkpoint export … --to merged --base DIR'."
#: Parameters of fused experts, in the order in which PEFT wraps them.
_PARAMETERS = {"gate_up_proj": ".base_layer", "down_proj": ""}


@dataclass(frozen=True)
class _Tensor:
    """A tensor to be written: its header, and a function that yields its bytes."""

    info: TensorInfo
    data: Callable[[], Iterator[bytes]]


def write(adapter: Adapter, places: list[Place], base_model: str | None, directory: Path) -> int:
    """Write *adapter* into *directory* in the format of PEFT; return the number of tensors.

    :param places: where its modules are, see :func:`tinkex_hub.placement.place`.
    :raises UsageError: PEFT does not support it.
    :raises OSError: a file cannot be written.
    """
    if any(place.path.startswith(_UNSUPPORTED) for place in places):
        raise UsageError(
            "cannot convert the adapter: for this model, PEFT's module names differ from those in "
            "the weight files",
            hint=_MERGE,
        )
    _check_experts(places)
    _check_patterns(adapter, places)
    found = {f"{PREFIX}{name}": one for p in places for name, one in _tensors(adapter, p)}
    data = (block for one in found.values() for block in one.data())
    with (directory / WEIGHTS).open("xb") as file:
        tensors.write(file, {name: one.info for name, one in found.items()}, data)
    text = json.dumps(_config(adapter, places, base_model), indent=2, sort_keys=True) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
    return len(found)


def _check_experts(places: list[Place]) -> None:
    """Check that PEFT loads all modules of a model with experts.

    :raises UsageError: it does not, or that is unknown.
    """
    ways = {place.loaded for place in places if isinstance(place, Experts)}
    single = {place.loaded for place in places if isinstance(place, Linear)} - {None}
    # PEFT takes modules with the names of separate experts for experts.
    has_dense = any(
        isinstance(place, Linear)
        and place.loaded is None
        and place.path.endswith(tuple(PROJECTIONS.values()))
        for place in places
    )
    is_wrong = "" in ways | single or "fused" in single
    if is_wrong or ("separate" in ways | single and has_dense):
        raise UsageError(
            "PEFT might not load all experts and dense layers of this model type",
            hint=_MERGE,
        )


def _check_patterns(adapter: Adapter, places: list[Place]) -> None:
    """Check that the configuration gives the same ranks and scales with the new names.

    :raises UsageError: it does not.
    """
    for place in places:
        pairs: list[tuple[str, Lora]] = []
        if isinstance(place, Linear):
            pairs = [(place.path, place.lora)]
        elif isinstance(place, Experts):
            # Patterns name the projections of separate experts, and of the parameters.
            pairs = [(f"{place.path}.{name}", lora) for name, lora in place.loras.items()]
        elif isinstance(place, Fused):
            pairs = [(place.path, part) for part in place.parts]
        for path, lora in pairs:
            if adapter.settings_of(path) != (lora.rank, lora.scale):
                raise UsageError(
                    f"{lora.module} must be renamed to {path} for PEFT, but rank_pattern or "
                    f"alpha_pattern in {CONFIG} gives that name a different rank or scale",
                    hint=_MERGE,
                )


def size_of(adapter: Adapter, places: list[Place]) -> int:
    """Return the number of bytes of the tensors that :func:`write` writes."""
    return sum(one.info.size for place in places for _, one in _tensors(adapter, place))


# Tensors --------------------------------------------------------------------------------------


def _tensors(adapter: Adapter, place: Place) -> Iterator[tuple[str, _Tensor]]:
    """Yield the tensors of *place*, without PEFT's prefix."""
    if isinstance(place, Linear):
        yield from _copied(adapter, place.lora, place.path)
    elif isinstance(place, Packed):
        yield from _copied(adapter, place.lora, place.path + _PARAMETERS[place.parameter])
    elif isinstance(place, Fused):
        yield from _fused(adapter, place)
    elif place.loaded == "fused":
        yield from _packed(adapter, place)
    else:
        yield from _separate(adapter, place)


def _copied(adapter: Adapter, lora: Lora, path: str) -> Iterator[tuple[str, _Tensor]]:
    for side, name, info in zip("AB", lora.names, (lora.a, lora.b), strict=True):
        yield f"{path}.lora_{side}.weight", _Tensor(info, partial(adapter.weights.chunks, name))


def _computed(info: TensorInfo, compute: Callable[[], Array]) -> _Tensor:
    def data() -> Iterator[bytes]:
        found = compute()
        assert found.shape == info.shape, f"{found.shape} instead of {info.shape}"
        yield found.tobytes()

    return _Tensor(info, data)


def _fused(adapter: Adapter, place: Fused) -> Iterator[tuple[str, _Tensor]]:
    parts = place.parts
    rank = sum(part.rank for part in parts)
    rows = sum(part.shape[0] for part in parts)

    def first() -> Array:
        import numpy as np

        return np.concatenate([adapter.weights.array(part.names[0]) for part in parts])

    def second() -> Array:
        import numpy as np

        whole = np.zeros((rows, rank), tensors.numpy_type(parts[0].b.dtype))
        row = column = 0
        for part in parts:
            block = adapter.weights.array(part.names[1])
            whole[row : row + block.shape[0], column : column + block.shape[1]] = block
            row, column = row + block.shape[0], column + block.shape[1]
        return whole

    a = TensorInfo.new(parts[0].a.dtype, rank, parts[0].shape[1])
    yield f"{place.path}.lora_A.weight", _computed(a, first)
    b = TensorInfo.new(parts[0].b.dtype, rows, rank)
    yield f"{place.path}.lora_B.weight", _computed(b, second)


def _separate(adapter: Adapter, place: Experts) -> Iterator[tuple[str, _Tensor]]:
    def item(name: str, index: int) -> Iterator[bytes]:
        yield adapter.weights.array(name, index, index + 1).tobytes()

    for expert in range(place.count):
        for projection, lora in place.loras.items():
            for side, name, info in zip("AB", lora.names, (lora.a, lora.b), strict=True):
                new = TensorInfo.new(info.dtype, *info.shape[1:])
                index = expert if info.shape[0] > 1 else 0  # 1: common to all experts
                yield (
                    f"{place.path}.{expert}.{projection}.lora_{side}.weight",
                    _Tensor(new, partial(item, name, index)),
                )


def _packed(adapter: Adapter, place: Experts) -> Iterator[tuple[str, _Tensor]]:
    gate, up, down = (place.loras[name] for name in ("gate_proj", "up_proj", "down_proj"))
    count, wide, hidden = place.count, *gate.shape
    shapes = {
        "gate_up_proj": (2 * gate.rank, hidden, 2 * wide),
        "down_proj": (down.rank, down.shape[1], down.shape[0]),
    }

    def firsts(name: str) -> Array:
        import numpy as np

        found = (gate, up) if name == "gate_up_proj" else (down,)
        arrays = [_each(adapter, lora.names[0], count) for lora in found]
        whole = np.concatenate(arrays, axis=1)
        return whole.reshape(-1, whole.shape[-1])

    def seconds(name: str) -> Array:
        whole = _each(adapter, down.names[1], count)
        if name == "gate_up_proj":
            whole = _blocks(adapter, place)
        return whole.transpose(1, 2, 0).reshape(whole.shape[1], -1)

    for name, suffix in _PARAMETERS.items():
        rank, inputs, outputs = shapes[name]
        lora = gate if name == "gate_up_proj" else down
        a = TensorInfo.new(lora.a.dtype, count * rank, inputs)
        yield f"{place.path}{suffix}.lora_A.weight", _computed(a, partial(firsts, name))
        b = TensorInfo.new(lora.b.dtype, outputs, rank * count)
        yield f"{place.path}{suffix}.lora_B.weight", _computed(b, partial(seconds, name))


def _each(adapter: Adapter, name: str, count: int) -> Array:
    """Return the tensor *name* with an item for each expert."""
    import numpy as np

    found = adapter.weights.array(name)
    return np.broadcast_to(found, (count, *found.shape[1:]))


def _blocks(adapter: Adapter, place: Experts) -> Array:
    """Return B of ``gate_up_proj`` as (experts, 2 * width, 2 * rank)."""
    import numpy as np

    gate, up = (
        _each(adapter, place.loras[n].names[1], place.count) for n in ("gate_proj", "up_proj")
    )
    count, wide, rank = gate.shape
    whole = np.zeros((count, 2 * wide, 2 * rank), gate.dtype)
    first, second = (slice(0, None, 2), slice(1, None, 2))
    if not place.is_interleaved:
        first, second = slice(wide), slice(wide, None)
    whole[:, first, :rank] = gate
    whole[:, second, rank:] = up
    return whole


# The configuration ----------------------------------------------------------------------------


def _config(adapter: Adapter, places: list[Place], base_model: str | None) -> dict[str, Any]:
    given = adapter.config
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": given.get("task_type") or "CAUSAL_LM",
        BASE: base_model or adapter.base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "rank_pattern": dict(given.get("rank_pattern") or {}),
        "alpha_pattern": dict(given.get("alpha_pattern") or {}),
        "use_rslora": bool(given.get("use_rslora")),
        "use_dora": False,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name for place in places for name in _modules(place)}),
    }
    # In the order in which the names of the tensors count them.
    parameters = [_path_of(place, name) for name in _PARAMETERS for place in places]
    if any(parameters):
        config["target_parameters"] = list(dict.fromkeys(filter(None, parameters)))
    for place in places:
        if isinstance(place, Fused):
            _widen(config, place.path.rpartition(".")[2], len(place.parts))
        elif isinstance(place, Experts) and place.loaded == "fused":
            # PEFT looks up parameters by their path, too.
            _widen(config, r".*\.gate_up_proj", 2)
    return config


def _widen(config: dict[str, Any], key: str, factor: int) -> None:
    """Multiply the rank of the modules *key* by *factor*, and keep their scale."""
    config["rank_pattern"][key] = factor * config["r"]
    factor_of_alpha = math.sqrt(factor) if config["use_rslora"] else factor
    config["alpha_pattern"][key] = factor_of_alpha * config["lora_alpha"]


def _modules(place: Place) -> Iterator[str]:
    if isinstance(place, Experts) and place.loaded == "separate":
        yield from place.loras
    elif isinstance(place, Linear | Fused):
        yield place.path.rpartition(".")[2]


def _path_of(place: Place, parameter: str) -> str | None:
    """Return the end of the path of *parameter*, if *place* has an update of it."""
    has = isinstance(place, Experts) and place.loaded == "fused"
    has = has or (isinstance(place, Packed) and place.parameter == parameter)
    return ".".join([*place.path.split(".")[-2:], parameter]) if has else None
