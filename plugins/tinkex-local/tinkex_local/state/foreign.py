"""Imports adapters: PEFT directories, and downloads from other Tinker services."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex_local.problems import OperationError
from tinkex_local.state import adapter, checkpoints, paths, runs, sessions
from tinkex_local.state.adapter import ALPHA, ATTENTION, CONFIG, MLP, TENSORS, UNEMBED, AdapterSpec
from tinkex_local.state.models import ModelFacts
from tinkex_local.state.paths import TinkerPath
from tinkex_local.state.service import Service
from tinkex_local.wire import bodies

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Largest file that is read, in bytes.
LARGEST = 8 * 1024**3
#: Settings of PEFT that change the result → the only supported value.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA", None),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "target_parameters": (None, []),
}
_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
#: Tinker's names of the output layer.
_OUTPUT = ("unembed_tokens", "model.unembed_tokens", "model.lm_head")
_PLAIN = "Use a plain LoRA adapter with the same rank for all modules."
_OTHER_MODEL = "Use --base-model to specify the model that the adapter was trained for."
_DAMAGED = "Download or copy the adapter again."
_LARGEST_RANK, _LARGEST_ALPHA = 1024, 1e6

Tensors = dict[str, "NDArray[Any]"]


class ForeignError(Exception):
    """The directory is not an adapter that can be added; the message is a clause for users.

    :ivar hint: how the user can fix it.
    """

    def __init__(
        self,
        message: str,
        hint: str = f"Specify an adapter directory that contains {CONFIG} and {TENSORS}.",
    ) -> None:
        super().__init__(message)
        self.hint = hint


def add(service: Service, directory: Path, name: str, base_model: str | None) -> dict[str, Any]:
    """Copy the adapter in *directory* into a new run; return its checkpoint in the protocol's form.

    Modules of a group that the adapter lacks are added without effect.

    :param name: name of the checkpoint.
    :param base_model: ``None`` for the one that the adapter's configuration names.
    :raises ForeignError: it is not an adapter, or does not fit the model.
    :raises OperationError: the disk is full or not writable.
    """
    config = _read_config(directory)
    model_name = base_model or config.get("base_model_name_or_path")
    model = service.models.find(model_name) if isinstance(model_name, str) else None
    if model is None:
        known = ", ".join(entry.name for entry in service.models.all())
        what = f"unknown base model {model_name!r}"
        hint = "Add the model with 'tinkex local model add', or specify another with --base-model."
        if not isinstance(model_name, str):
            what = f"{CONFIG} does not contain the name of the base model"
            hint = "Specify the base model with --base-model."
        raise ForeignError(f"{what}; available models: {known}", hint)
    given = read_tensors(directory)
    spec = _spec(model.name, config["r"], given)
    if not spec.target_modules:
        _reject_unknown(list(given))
    try:
        adapter.check(spec, model.facts)
    except OperationError as error:
        raise ForeignError(str(error), "Specify another model with --base-model.") from error
    scaled = _checked(given, spec, model.facts, _scale(config) * spec.rank / ALPHA)
    write = partial(adapter.write, spec=spec, facts=model.facts, known=scaled)
    staged = checkpoints.stage(service, write)
    body = bodies.CreateSession(tags=[], sdk_version="tinkex-local", display_name=f"Add {name}")
    session_id = str(sessions.create(service, body)["session_id"])
    path = TinkerPath(runs.run_id_of(session_id, 0), paths.TRAINING, name)
    with service.store.transaction():
        runs.insert(service, path.run_id, session_id, spec, None)
        runs.end(service, path.run_id)  # only its checkpoint is used
        checkpoints.adopt(service, staged, path, ttl=None, user_metadata=None)
    sessions.finish(service, session_id, bodies.FinishSession())
    return checkpoints.as_dict(checkpoints.find(service, path)) | {
        "base_model": spec.base_model,
        "lora_rank": spec.rank,
    }


def _read(directory: Path, name: str) -> bytes:
    """Return the content of a regular file; links are not followed."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    path = directory / name
    try:
        if path.is_symlink():
            raise ForeignError(f"{path} is a symbolic link", "Replace it with a copy of the file.")
        with open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ForeignError(f"{path} is not a regular file")
            if found.st_size > LARGEST:
                limit = f"{LARGEST // 1024**3} GiB"
                hint = f"Use a file of at most {limit}."
                raise ForeignError(f"{path} is larger than {limit}", hint)
            return file.read()
    except FileNotFoundError as error:
        raise ForeignError(f"{directory} has no {name}") from error
    except OSError as error:
        reason = error.strerror or error
        raise ForeignError(f"cannot read {path}: {reason}", "Check the permissions.") from error


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        config = json.loads(_read(directory, CONFIG))
    except (ValueError, RecursionError) as error:
        raise ForeignError(f"{path} is not valid JSON", _DAMAGED) from error
    if not isinstance(config, dict):
        raise ForeignError(f"{path} does not contain a JSON object", _DAMAGED)
    for key, values in _ONLY.items():
        if config.get(key) not in values:
            raise ForeignError(f"{path}: unsupported {key}: {str(config[key])[:60]}", _PLAIN)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 0 < rank <= _LARGEST_RANK:
        raise ForeignError(f"{path}: r is not a whole number from 1 to {_LARGEST_RANK}", _PLAIN)
    if type(alpha) not in (int, float) or not abs(alpha or 0) < _LARGEST_ALPHA:
        limits = f"-{_LARGEST_ALPHA:g} and {_LARGEST_ALPHA:g}"
        raise ForeignError(f"{path}: lora_alpha is not a number between {limits}", _PLAIN)
    return config


def _scale(config: Mapping[str, Any]) -> float:
    """Return the factor of the product of lora_B and lora_A, as PEFT defines it."""
    rank = config["r"]
    return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def read_tensors(directory: Path) -> Tensors:
    """Return lora_A and lora_B of all modules in float32, by PEFT's names."""
    from safetensors import SafetensorError, deserialize

    raw = _read(directory, TENSORS)
    try:
        found: list[tuple[str, dict[str, Any]]] = deserialize(raw)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        what = f"{directory / TENSORS} is not a valid safetensors file"
        raise ForeignError(what, _DAMAGED) from error
    tensors: Tensors = {}
    unknown = []
    for name, tensor in sorted(found, key=itemgetter(0)):  # their order varies
        match = _FACTOR.fullmatch(name)
        if match is None:
            unknown.append(name)
            continue
        module = UNEMBED[0] if match[1] in _OUTPUT else match[1]
        full = f"base_model.model.{module}.lora_{match[2]}.weight"
        if full in tensors:
            what = f"{directory / TENSORS} contains {full} under two names"
            raise ForeignError(what, "Remove one of the two tensors.")
        tensors[full] = _as_float(name, tensor)
    if unknown:
        what = f"the adapter has tensors other than lora_A and lora_B: {_listed(unknown)}"
        raise ForeignError(what, _PLAIN)
    if not tensors:
        raise ForeignError(f"{directory / TENSORS} has no tensors", _DAMAGED)
    return tensors


def _as_float(name: str, tensor: Mapping[str, Any]) -> NDArray[Any]:
    import numpy as np

    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
    if tensor["dtype"] not in kinds:
        hint = f"Convert the tensors to one of the supported types: {', '.join(kinds)}."
        raise ForeignError(f"{name} has an unsupported element type: {tensor['dtype']}", hint)
    values = np.frombuffer(tensor["data"], kinds[tensor["dtype"]])
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32).reshape(tensor["shape"])
    if not np.isfinite(values).all():
        raise ForeignError(f"{name} contains a value that is not finite", _DAMAGED)
    return values


def _spec(base_model: str, rank: int, tensors: Tensors) -> AdapterSpec:
    """Return the parameters of a run that has all modules of *tensors*."""
    modules = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in tensors}
    groups = (ATTENTION, MLP, UNEMBED)
    attention, mlp, unembed = (not modules.isdisjoint(group) for group in groups)
    return AdapterSpec(
        base_model, rank, 0, train_attn=attention, train_mlp=mlp, train_unembed=unembed
    )


def _checked(given: Tensors, spec: AdapterSpec, facts: ModelFacts, factor: float) -> Tensors:
    """Return the tensors scaled for the service's constant alpha."""
    import numpy as np

    expected = {}
    for module, inputs, outputs in adapter.shapes(spec, facts):
        expected[f"{module}.lora_A.weight"] = (spec.rank, inputs)
        expected[f"{module}.lora_B.weight"] = (outputs, spec.rank)
    _reject_unknown([name for name in given if name not in expected])
    scaled: Tensors = {}
    for name, values in sorted(given.items()):  # safetensors returns them in random order
        if values.shape != expected[name]:
            raise ForeignError(
                f"{name} has the shape {list(values.shape)}; the model and the rank require "
                f"{list(expected[name])}",
                _OTHER_MODEL,
            )
        module, _, suffix = name.rpartition(".lora_")
        other = {"A": "B", "B": "A"}[suffix[0]]
        if f"{module}.lora_{other}.weight" not in given:
            raise ForeignError(f"{module} has lora_{suffix[0]}, but no lora_{other}", _DAMAGED)
        scaled[name] = values * np.float32(factor) if ".lora_B." in name else values
    return scaled


def _reject_unknown(names: list[str]) -> None:
    if names:
        what = f"the model has no modules for these tensors: {_listed(names)}"
        raise ForeignError(what, _OTHER_MODEL)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name[:100] for name in sorted(names)[:3]) + more
