"""Comparison of a LoRA adapter's configuration with its tensors.

PEFT (``peft.LoraConfig``) loads the tensors of the modules in ``target_modules``, and ignores all
others silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinkex.api.transfer.content import json_object, tensor_names
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.manifest import ADAPTER_CONFIG
from tinkex.exceptions import LocalError, a_few

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
#: Names of modules on the hosted service; PEFT uses the names of the base model.
_OTHER_NAMES = re.compile(
    r"(^|\.)unembed_tokens$|\.experts\.w[123]$|^model\.layers\.\d+\.attn\.|\.in_proj_[qkv]$"
)
#: Modules that are not part of ``all-linear`` in PEFT.
_NOT_LINEAR = ("lm_head", "embed_tokens")
#: Modules of fused experts, which ``target_parameters`` lists.
_FUSED = ("experts", "base_layer")
#: Maximum components of an entry in the configuration, and maximum names in messages.
_DEPTH, _SHOWN = 8, 20


@dataclass(frozen=True)
class AdapterMismatch:
    """The tensors of an adapter that PEFT ignores; :class:`str` returns the message for users.

    :ivar modules: names of all modules that have tensors, sorted: the correct ``target_modules``.
    :ivar unlisted: modules missing from ``target_modules``.
    :ivar unknown: paths of modules whose names must be converted first, ``*`` for each number.
    """

    modules: tuple[str, ...]
    unlisted: tuple[str, ...]
    unknown: tuple[str, ...]

    @classmethod
    def find(cls, config: Mapping[str, Any], tensors: Iterable[str]) -> AdapterMismatch | None:
        """Compare an adapter's configuration with the names of its tensors.

        If ``target_modules`` is a regular expression, it is not evaluated: it may be malicious.

        :returns: ``None`` if PEFT loads all tensors.
        """
        listed, fused = config.get("target_modules"), _texts(config.get("target_parameters"))
        entries, owners = _texts(listed), frozenset(name.rpartition(".")[0] for name in fused)
        modules, unlisted, unknown = set[str](), set[str](), set[str]()
        for path in {name.partition(".lora_")[0] for name in tensors if ".lora_" in name}:
            module = path.removeprefix(_PREFIX)
            last = module.rpartition(".")[2]
            if last in _FUSED and _has(owners, module.removesuffix(".base_layer")):
                continue
            if module == path or last in _FUSED or _OTHER_NAMES.search(module):
                unknown.add(re.sub(r"(?<=\.)\d+(?=\.)", "*", module))
                continue
            modules.add(last)
            is_all = isinstance(listed, str) and (listed != "all-linear" or last not in _NOT_LINEAR)
            if not is_all and not _has(entries, module):
                unlisted.add(last)
        if not unlisted and not unknown:
            return None
        return cls(*(tuple(sorted(names)) for names in (modules, unlisted, unknown)))

    @property
    def is_fixable(self) -> bool:
        """Whether correcting ``target_modules`` is sufficient."""
        return not self.unknown

    def __str__(self) -> str:
        if self.unknown:
            return f"PEFT ignores tensors whose names it does not know: {_shown(self.unknown)}"
        return (
            f"target_modules in {ADAPTER_CONFIG} lacks {_shown(self.unlisted)}, "
            "so PEFT may ignore the corresponding tensors"
        )


def _shown(names: tuple[str, ...]) -> str:
    return a_few([name[:200] for name in names], _SHOWN)


def examine(directory: Directory, relative: Path) -> AdapterMismatch | None:
    """Compare the adapter configuration *relative* in *directory* with the adapter's tensors.

    :returns: ``None`` if PEFT loads all tensors, or there is no readable adapter.
    """
    try:
        with directory.open(relative, "rb") as file:
            config = json_object(file)
        with directory.open(relative.with_name(_WEIGHTS), "rb") as file:
            return AdapterMismatch.find(config, tensor_names(file))
    except (OSError, ValueError):
        return None


def _texts(values: Any) -> frozenset[str]:
    values = values if isinstance(values, list) else []
    return frozenset(value for value in values if isinstance(value, str))


def _has(entries: frozenset[str], module: str) -> bool:
    """Return whether one of *entries* matches the path *module* or its end, as in PEFT."""
    parts = module.split(".")[-_DEPTH:]
    ends = {".".join(parts[start:]) for start in range(len(parts))}
    return not entries.isdisjoint({module, *ends})


def fixed(
    directory: Directory, relative: Path, found: AdapterMismatch
) -> tuple[bytes, dict[str, Any]]:
    """Return the corrected configuration *relative*, and the values that changed.

    :raises LocalError: the configuration is nested too deeply.
    :raises OSError: it cannot be read.
    :raises ValueError: it is not a JSON object.
    """
    with directory.open(relative, "rb") as file:
        config = json_object(file)
    new = {"target_modules": found.modules, "task_type": config.get("task_type") or "CAUSAL_LM"}
    try:
        text = json.dumps({**config, **new}, indent=2, sort_keys=True) + "\n"
    except RecursionError as error:
        raise LocalError(f"{ADAPTER_CONFIG} is nested too deeply") from error
    return text.encode(), {key: config.get(key) for key in new}
