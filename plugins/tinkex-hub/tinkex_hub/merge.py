"""Base models with the updates of an adapter added to their weights.

Every weight is computed in float32 (float64 weights in float64) and rounded once to its own type.
All other tensors are copied byte by byte. One matrix is in memory at a time, a large one in blocks
of rows.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex.exceptions import UsageError
from tinkex_hub import tensors
from tinkex_hub.base_model import CONFIG, INDEX, BaseModel
from tinkex_hub.directories import open_file, read_json
from tinkex_hub.lora import Adapter, Lora
from tinkex_hub.placement import Experts, Fused, Linear, Packed, Place
from tinkex_hub.tensors import FLOATS, TensorFile

if TYPE_CHECKING:
    from tinkex_hub.tensors import Array

#: Maximum number of values of a weight that are updated at a time.
_BLOCK = 4 * 1024 * 1024
#: Files of a model that are copied: configurations, tokenizers, templates, code and licenses.
_KEPT = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
_TIED = "tie_word_embeddings"


@dataclass(frozen=True)
class Update:
    """The addition of ``scale * B @ A`` to a matrix, or to that of one expert.

    :ivar lora: the tensors A and B.
    :ivar expert: index of the expert in A, B and a weight with three dimensions.
    :ivar rows: the rows of the matrix (outputs × inputs) that it is added to; ``None``: all.
    :ivar packed: number of experts whose tensors PEFT has packed into one; 0 for others.
    """

    lora: Lora
    expert: int | None = None
    rows: slice | None = None
    packed: int = 0


@dataclass(frozen=True)
class Plan:
    """What a merge does.

    :ivar updates: tensor of the base model → the updates of it.
    :ivar inputs_first: tensors with the shape (experts, inputs, outputs).
    :ivar untied: name of the output layer that is added; ``None`` if there is none to add.
    """

    updates: dict[str, list[Update]]
    inputs_first: frozenset[str]
    untied: str | None


def plan(adapter: Adapter, places: list[Place], base: BaseModel) -> Plan:
    """Return the plan for a merge of the modules in *places* into *base*.

    An update of zeros does not separate an output layer from the embeddings.

    :raises UsageError: the base model is quantized, or has weights of another type.
    """
    hint = "Use a version of the model whose weights are in bfloat16, float16 or float32."
    if base.is_quantized:
        raise UsageError(f"cannot merge into the quantized base model {base.name}", hint=hint)
    updates: dict[str, list[Update]] = defaultdict(list)
    output = f"{base.output_layer}.weight"
    for place in places:
        for name, update in _updates(place, base):
            if name != output or not base.is_tied or _has_effect(adapter, update.lora):
                updates[name].append(update)
    untied = output if output in updates and base.is_tied else None
    for name in updates:
        info = base.tensors[_source(name, untied, base)]
        if info.dtype not in FLOATS:
            raise UsageError(f"the weight {name} has an unsupported type: {info.dtype}", hint=hint)
    inputs_first = {
        name
        for place in places
        if isinstance(place, Experts | Packed) and place.inputs_first
        for name, _ in _updates(place, base)
    }
    return Plan(dict(updates), frozenset(inputs_first), untied)


def write(
    adapter: Adapter,
    merge: Plan,
    base: BaseModel,
    source: Path,
    directory: Path,
    on_bytes: Callable[[str, int], None],
) -> None:
    """Write *base*, from *source*, with the updates of *merge* into *directory*.

    :param on_bytes: called with the name of the file and the number of bytes written.
    :raises UsageError: a merged weight is not finite.
    :raises OSError: a file cannot be written.
    """
    embeddings = f"{base.prefix}embed_tokens.weight"
    files = dict(base.files)
    if merge.untied:
        files[merge.untied] = files[embeddings]
    for name in sorted(set(files.values())):
        with ExitStack() as stack:
            old = TensorFile(stack.enter_context(open_file(source, name)), name)
            new = dict(old.tensors)
            if merge.untied and files[embeddings] == name:
                new[merge.untied] = old.tensors[embeddings]
            merging = _Merging(adapter, merge, old, embeddings)
            with (directory / name).open("xb") as file:
                data = _counted(merging.data(new), partial(on_bytes, name))
                tensors.write(file, new, data, old.metadata)
                file.flush()
                os.fsync(file.fileno())
    _copy_files(source, directory)
    if (source / INDEX).exists():
        _write_index(source, directory, base, files, merge)
    if f"{base.output_layer}.weight" in merge.updates:
        _untie(directory, base)


def size_of(merge: Plan, base: BaseModel) -> int:
    """Return the number of bytes of the merged weights."""
    added = base.tensors[f"{base.prefix}embed_tokens.weight"].size if merge.untied else 0
    return sum(info.size for info in base.tensors.values()) + added


def _has_effect(adapter: Adapter, lora: Lora) -> bool:
    return any(block.strip(b"\0") for block in adapter.weights.chunks(lora.names[1]))


def _source(name: str, untied: str | None, base: BaseModel) -> str:
    return f"{base.prefix}embed_tokens.weight" if name == untied else name


def _updates(place: Place, base: BaseModel) -> Iterator[tuple[str, Update]]:
    if isinstance(place, Linear):
        yield f"{place.path}.weight", Update(place.lora)
    elif isinstance(place, Fused):
        start = 0
        for part in place.parts:
            rows = slice(start, start := start + part.shape[0])
            yield f"{place.path}.weight", Update(part, rows=rows)
    elif isinstance(place, Packed):
        name = f"{place.path}.{place.parameter}"
        count = base.tensors[name].shape[0]
        for expert in range(count):
            yield name, Update(place.lora, expert, packed=count)
    else:
        for expert in range(place.count):
            for projection, lora in place.loras.items():
                yield _of_expert(place, expert, projection, lora)


def _of_expert(place: Experts, expert: int, projection: str, lora: Lora) -> tuple[str, Update]:
    if not place.is_fused:
        return f"{place.path}.{expert}.{projection}.weight", Update(lora, expert)
    if projection == "down_proj":
        return f"{place.path}.down_proj", Update(lora, expert)
    is_gate, wide = projection == "gate_proj", lora.shape[0]
    rows = slice(0, wide) if is_gate else slice(wide, None)
    if place.is_interleaved:
        rows = slice(0 if is_gate else 1, None, 2)
    return f"{place.path}.gate_up_proj", Update(lora, expert, rows)


# Values ---------------------------------------------------------------------------------------


class _Merging:
    """Yields the bytes of the tensors of one merged file.

    :param old: the file of the base model.
    :param embeddings: the tensor from which an output layer is made.
    """

    def __init__(self, adapter: Adapter, merge: Plan, old: TensorFile, embeddings: str) -> None:
        self._adapter, self._merge, self._old = adapter, merge, old
        self._embeddings = embeddings
        #: Name and content of the last tensor of all experts, which each of them needs a part of.
        self._last: tuple[str, Any] = ("", None)

    def data(self, names: Iterable[str]) -> Iterator[bytes]:
        """Yield the bytes of the tensors *names*.

        :raises UsageError: a value is not finite, or is too large for its type.
        """
        for name in names:
            updates = self._merge.updates.get(name, [])
            source = self._embeddings if name == self._merge.untied else name
            if not updates:
                yield from self._old.chunks(source)
            elif len(self._old.tensors[source].shape) == 2:
                yield from self._matrix(name, source, updates)
            else:
                yield from self._experts(name, updates)

    def _matrix(self, name: str, source: str, updates: list[Update]) -> Iterator[bytes]:
        rows, columns = self._old.tensors[source].shape
        factors = [
            (update.rows.start if update.rows else 0, *self._factors(update)) for update in updates
        ]
        step = max(1, _BLOCK // columns)
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            old = self._old.array(source, begin, end)
            new = old.astype(self._wide(old))
            for start, scale, a, b in factors:
                low, high = max(begin, start), min(end, start + b.shape[0])
                if low < high:
                    _add(new[low - begin : high - begin], scale, b[low - start : high - start], a)
            yield self._rounded(name, old, new)

    def _experts(self, name: str, updates: list[Update]) -> Iterator[bytes]:
        by_expert: dict[int | None, list[Update]] = defaultdict(list)
        for update in updates:
            by_expert[update.expert].append(update)
        for expert in range(self._old.tensors[name].shape[0]):
            old = self._old.array(name, expert, expert + 1)[0]
            new = old.astype(self._wide(old))
            matrix = new.T if name in self._merge.inputs_first else new
            for update in by_expert[expert]:
                scale, a, b = self._factors(update)
                _add(matrix[update.rows or slice(None)], scale, b, a)
            yield self._rounded(name, old, new)

    def _factors(self, update: Update) -> tuple[float, Array, Array]:
        """Return the scale of *update*, and A and B as matrices."""
        lora, weights = update.lora, self._adapter.weights
        expert = update.expert or 0
        found = []
        for name, info in zip(lora.names, (lora.a, lora.b), strict=True):
            if len(info.shape) == 3:
                index = expert if info.shape[0] > 1 else 0  # 1: common to all experts
                found.append(weights.array(name, index, index + 1)[0])
            elif update.packed and name == lora.names[0]:
                rank = info.shape[0] // update.packed
                found.append(weights.array(name, expert * rank, (expert + 1) * rank))
            elif update.packed:
                if self._last[0] != name:
                    self._last = name, weights.array(name)
                found.append(self._last[1][:, expert :: update.packed])
            else:
                found.append(weights.array(name))
        a, b = (one.astype(self._wide(one)) for one in found)
        return lora.scale, a, b

    @staticmethod
    def _wide(array: Array) -> str:
        return "float64" if array.dtype.itemsize == FLOATS["F64"] else "float32"

    @staticmethod
    def _rounded(name: str, old: Array, new: Array) -> bytes:
        import ml_dtypes
        import numpy as np

        # A comparison with NaN is false.
        limit = float(ml_dtypes.finfo(old.dtype).max)  # type: ignore[no-untyped-call]
        if not (np.abs(new) <= limit).all():
            raise UsageError(
                f"the merged weight {name} contains NaN, or values outside the range of {old.dtype}"
            )
        return new.astype(old.dtype).tobytes()


def _add(matrix: Array, scale: float, b: Array, a: Array) -> None:
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):  # the result is checked
        update = b @ a
        update *= scale
        matrix += update


def _counted(data: Iterable[bytes], on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    for block in data:
        yield block
        on_bytes(len(block))


# Other files ----------------------------------------------------------------------------------


def _copy_files(source: Path, directory: Path) -> None:
    for file in sorted(source.iterdir()):
        is_kept = file.suffix in _KEPT or file.name.startswith(("LICENSE", "NOTICE"))
        if is_kept and file.name != INDEX and file.is_file():
            with open_file(source, file.name) as old, (directory / file.name).open("xb") as new:
                shutil.copyfileobj(old, new)


def _write_index(
    source: Path, directory: Path, base: BaseModel, files: dict[str, str], merge: Plan
) -> None:
    metadata = read_json(source, INDEX).get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    index = {
        "metadata": {**metadata, "total_size": size_of(merge, base)},
        "weight_map": dict(sorted(files.items())),
    }
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _untie(directory: Path, base: BaseModel) -> None:
    """Write a configuration with separate matrices for the embeddings and the output layer."""
    config: dict[str, Any] = {**base.config, _TIED: False}
    if isinstance(inner := config.get("text_config"), dict):
        config["text_config"] = {**inner, _TIED: False}
    if config != base.config:
        text = json.dumps(config, indent=2) + "\n"
        (directory / CONFIG).write_text(text, encoding="utf-8")
