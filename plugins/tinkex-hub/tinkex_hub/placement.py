"""Where the modules of an adapter are in its base model.

The Tinker API names modules in its own way: ``unembed_tokens`` for the output layer, ``attn`` in
gpt-oss, one module ``w1``, ``w2`` or ``w3`` for all experts of a layer, and parts of a matrix that
the model has as one. Its names lack the prefix of models with images. Source of the names: the
package ``weights`` of tinker-cookbook 0.6.1.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tinkex.exceptions import UsageError
from tinkex_hub.base_model import BaseModel
from tinkex_hub.lora import PACKED, Adapter, Lora, shortened

#: Paths of the output layer.
_OUTPUT = re.compile(r"(?:language_model\.|model\.)?(?:unembed_tokens|lm_head)")
#: A module of a layer: the prefix of the layers, the number of the layer, the module in it.
_IN_LAYER = re.compile(r"((?:\w+\.)*)layers\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"(.+\.experts)\.w([123])")
#: The letters of Mixtral → the names of Hugging Face models.
PROJECTIONS = {"1": "gate_proj", "3": "up_proj", "2": "down_proj"}
#: The parts of a matrix, in the order of their rows.
_PARTS = {"in_proj_qkv": ("in_proj_q", "in_proj_k", "in_proj_v")}
_PART_OF = {part: whole for whole, parts in _PARTS.items() for part in parts}
#: Base models whose experts alternate the rows of the gate and of the other projection.
_INTERLEAVED = ("gpt_oss",)
#: How transformers 5 and PEFT 0.21 load the experts of a base model: from names of each expert, or
#: as parameters of all experts, whatever its checkpoint has. PEFT loads the other form wrongly, and
#: loses the dense layers and shared experts of models such as DeepSeek-V3.
_LOADED = {
    "gpt_oss": "fused",
    "qwen3_5_moe": "fused",
    "qwen3_moe": "separate",
    "qwen3_vl_moe": "fused",
}
#: Base models whose square experts have the shape (experts, inputs, outputs). If the shapes are
#: not square, they show it.
_INPUTS_FIRST = ("gpt_oss", "qwen3_vl_moe")
#: Modules whose names are the same in all supported models.
_COMMON = {
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"),
}
_ONE_EXPERT = re.compile(r".+\.experts\.\d+\.\w+")


@dataclass(frozen=True)
class Linear:
    """An ordinary module with a matrix.

    :ivar path: its path in the base model.
    :ivar loaded: for a module of one expert, as in :class:`Experts`; ``None`` for others.
    """

    path: str
    lora: Lora
    loaded: str | None = None


@dataclass(frozen=True)
class Fused:
    """A matrix whose rows belong to several modules of the adapter, in this order."""

    path: str
    parts: tuple[Lora, ...]


@dataclass(frozen=True)
class Experts:
    """The experts of a layer.

    :ivar path: path of the experts in the base model.
    :ivar count: number of experts.
    :ivar loras: projection (``gate_proj``, ``up_proj``, ``down_proj``) → its tensors.
    :ivar is_fused: the checkpoint of the base model has two tensors for all experts,
        ``gate_up_proj`` and ``down_proj``, instead of three for each expert.
    :ivar loaded: ``fused`` or ``separate``: the form in which PEFT loads them; empty if unknown.
    :ivar is_interleaved: rows of ``gate_up_proj`` belong to the gate and the other in turn.
    :ivar inputs_first: the parameters have the shape (experts, inputs, outputs).
    """

    path: str
    count: int
    loras: dict[str, Lora]
    loaded: str
    is_fused: bool = False
    is_interleaved: bool = False
    inputs_first: bool = False


@dataclass(frozen=True)
class Packed:
    """A parameter of fused experts whose tensors are in PEFT's form already.

    :ivar path: path of the experts.
    :ivar parameter: ``gate_up_proj`` or ``down_proj``.
    :ivar inputs_first: the parameters have the shape (experts, inputs, outputs).
    """

    path: str
    parameter: str
    lora: Lora
    inputs_first: bool = False


Place = Linear | Fused | Experts | Packed


def place(adapter: Adapter, base: BaseModel | None) -> list[Place]:
    """Return where the modules of *adapter* are in *base*.

    :param base: ``None`` if unknown; then only names that are the same in all models are supported.
    :raises UsageError: names are unknown, the base model lacks a module or has another shape, or
        the adapter is not plain LoRA.
    """
    if adapter.unusual:
        raise UsageError(
            f"the adapter is not plain LoRA; it sets {', '.join(adapter.unusual)}",
            hint="Convert the adapter to plain LoRA with the library that created it.",
        )
    places, unknown = _Placing(adapter, base).places()
    unknown += adapter.others
    if unknown:
        raise UsageError(
            f"the adapter has tensors with unrecognized names: {shortened(_starred(unknown))}",
            hint=_other_base(base)
            if base
            else "Specify the base model with --base, because tensor names depend on it.",
        )
    if base is not None:
        _check(places, base)
    return places


def _other_base(base: BaseModel) -> str:
    return f"If the adapter was not trained for {base.name}, specify its base model with --base."


def _starred(names: list[str]) -> list[str]:
    return list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name)[:200] for name in names))


class _Placing:
    def __init__(self, adapter: Adapter, base: BaseModel | None) -> None:
        self._adapter, self._base = adapter, base
        self._prefix = base.prefix if base else None
        self._type = base.model_type if base else ""
        self._places: dict[str, Place] = {}
        self._unknown: list[str] = []

    def places(self) -> tuple[list[Place], list[str]]:
        """Return the places, and the modules with unknown names."""
        parts: dict[str, dict[str, Lora]] = defaultdict(dict)
        experts: dict[str, dict[str, Lora]] = defaultdict(dict)
        for module, lora in self._adapter.loras.items():
            path = self._path(module)
            last = path.rpartition(".")[2]
            match = _EXPERTS.fullmatch(path)
            if match and self._base and lora.a.count and lora.experts:
                experts[match[1]][PROJECTIONS[match[2]]] = lora
            elif match and not lora.a.count:  # models without a gate
                self._unknown.append(module)
            elif last in PACKED:
                self._add(self._packed(path, lora), module)
            elif last in _PART_OF and self._base:
                parts[path.removesuffix(last) + _PART_OF[last]][last] = lora
            elif match or last in _PART_OF or lora.experts or not self._may_be_linear(path):
                self._unknown.append(module)
            else:
                loaded = _LOADED.get(self._type, "") if _ONE_EXPERT.fullmatch(path) else None
                self._add(Linear(path, lora, loaded), module)
        for path, found in parts.items():
            self._add_fused(path, found)
        for path, found in experts.items():
            self._add_experts(path, found)
        return list(self._places.values()), self._unknown

    def _may_be_linear(self, path: str) -> bool:
        """Return whether *path* can be an ordinary module; the embeddings have another form."""
        last = path.rpartition(".")[2]
        if self._base is None:
            return last in _COMMON and not _ONE_EXPERT.fullmatch(path)
        return last != "embed_tokens"

    def _path(self, module: str) -> str:
        """Return the path of *module* in the base model, without a change of its last part."""
        if _OUTPUT.fullmatch(module):
            return self._base.output_layer if self._base else "lm_head"
        match = _IN_LAYER.fullmatch(module)
        if match is None:
            return module
        prefix, layer, rest = match.groups()
        # gpt-oss
        rest = re.sub(r"^attn\.", "self_attn.", rest)
        return f"{self._prefix or prefix}layers.{layer}.{rest}"

    def _add(self, place: Place, module: str) -> None:
        known = self._places.get(place.path)
        key = place.path
        if isinstance(place, Packed):
            key, known = f"{key}.{place.parameter}", self._places.get(f"{key}.{place.parameter}")
        if known is None:
            self._places[key] = place
        elif not self._is_copy(known, place):
            raise UsageError(
                f"the adapter has two different updates for {key}, one of them in {module}"
            )

    def _is_copy(self, known: Place, place: Place) -> bool:
        """Return whether both have the same tensors; TuFT writes those of some models twice."""
        if not isinstance(known, Linear | Packed) or not isinstance(place, Linear | Packed):
            return False
        weights = self._adapter.weights
        return all(
            list(weights.chunks(one)) == list(weights.chunks(other))
            for one, other in zip(known.lora.names, place.lora.names, strict=True)
        )

    def _packed(self, path: str, lora: Lora) -> Packed:
        is_first = path.endswith(".base_layer")
        parameter = "gate_up_proj" if is_first else "down_proj"
        path = path.removesuffix(".base_layer")
        inputs_first = self._inputs_first({f"{path}.{parameter}": lora.shape})
        return Packed(path, parameter, lora, inputs_first)

    def _add_fused(self, path: str, found: dict[str, Lora]) -> None:
        names = _PARTS[path.rpartition(".")[2]]
        if found.keys() != set(names) or not _are_alike(found.values()):
            self._unknown += [lora.module for lora in found.values()]
            return
        self._add(Fused(path, tuple(found[name] for name in names)), path)

    def _add_experts(self, path: str, found: dict[str, Lora]) -> None:
        assert self._base is not None
        counts = {lora.experts for lora in found.values()}
        if found.keys() != set(PROJECTIONS.values()) or len(counts) > 1:
            self._unknown += [lora.module for lora in found.values()]
            return
        names = (f"{path}.gate_up_proj", f"{path}.gate_up_proj_blocks")
        is_fused = any(name in self._base.tensors for name in names)
        loaded = _LOADED.get(self._type, "")
        if loaded == "fused" and not _are_alike((found["gate_proj"], found["up_proj"])):
            self._unknown += [lora.module for lora in found.values()]
            return
        wide, hidden = found["gate_proj"].shape
        inputs_first = is_fused and self._inputs_first(
            {f"{path}.gate_up_proj": (2 * wide, hidden), f"{path}.down_proj": (hidden, wide)}
        )
        interleaved = self._type in _INTERLEAVED
        place = Experts(path, counts.pop(), found, loaded, is_fused, interleaved, inputs_first)
        self._add(place, path)

    def _inputs_first(self, shapes: dict[str, tuple[int, int]]) -> bool:
        """Return whether the parameters have the shape (experts, inputs, outputs).

        :param shapes: parameter → outputs and inputs.
        """
        found = self._base.tensors if self._base else {}
        for name, shape in shapes.items():
            stored = found[name].shape[1:] if name in found else ()
            if shape[0] != shape[1] and stored in (shape, shape[::-1]):
                return stored != shape
        return self._type in _INPUTS_FIRST


def _are_alike(loras: Iterable[Lora]) -> bool:
    """Return whether *loras* can be parts of one module."""
    return len({(lora.rank, lora.scale, lora.a.dtype, lora.b.dtype) for lora in loras}) == 1


# The shapes of the base model -----------------------------------------------------------------


def expected(place: Place, base: BaseModel) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors that *base* must have for *place*, and their shapes."""
    if isinstance(place, Linear):
        path = place.path
        if path == base.output_layer and base.is_tied:
            path = f"{base.prefix}embed_tokens"
        yield f"{path}.weight", place.lora.shape
    elif isinstance(place, Fused):
        rows = sum(part.shape[0] for part in place.parts)
        yield f"{place.path}.weight", (rows, place.parts[0].shape[1])
    elif isinstance(place, Packed):
        outputs, inputs = place.lora.shape
        experts = _experts_in(place, base)
        if place.inputs_first:
            inputs, outputs = outputs, inputs
        yield f"{place.path}.{place.parameter}", (experts, outputs, inputs)
    elif not place.is_fused:
        for expert in range(place.count):
            for name, lora in place.loras.items():
                yield f"{place.path}.{expert}.{name}.weight", lora.shape
    else:
        wide, hidden = place.loras["gate_proj"].shape
        shapes = {"gate_up_proj": (2 * wide, hidden), "down_proj": place.loras["down_proj"].shape}
        for name, (outputs, inputs) in shapes.items():
            shape = (inputs, outputs) if place.inputs_first else (outputs, inputs)
            yield f"{place.path}.{name}", (place.count, *shape)


def _experts_in(place: Packed, base: BaseModel) -> int:
    info = base.tensors.get(f"{place.path}.{place.parameter}")
    return info.shape[0] if info and info.shape else 0


def _check(places: list[Place], base: BaseModel) -> None:
    missing: list[str] = []
    wrong: list[str] = []
    for place in places:
        for name, shape in expected(place, base):
            info = base.tensors.get(name)
            if info is not None and info.shape != shape and not base.is_quantized:
                wrong.append(
                    f"{name} has the shape {list(info.shape)}, but its update has {list(shape)}"
                )
            is_packed = any(f"{name}{end}" in base.tensors for end in ("_packed", "_blocks"))
            if info is None and not is_packed:
                missing.append(name)
    if missing or wrong:
        what = f"does not fit the adapter: {shortened(_starred(wrong))}"
        if missing:
            what = f"lacks weights that the adapter changes: {shortened(_starred(missing))}"
        raise UsageError(
            f"the base model {base.name} {what}",
            hint=_other_base(base),
        )
