"""Check and complete the files of a PEFT adapter."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

from tinkex.api import AdapterMismatch, verify
from tinkex.exceptions import LocalError, UsageError

#: Files of the service and of tinkex that are not part of the adapter.
BOOKKEEPING = ("checkpoint_complete", "tinkex.lock.json")
_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_BASE = "base_model_name_or_path"


def check(directory: Path, label: str) -> None:
    """Check that *directory* contains a PEFT adapter.

    :param label: its name in errors.
    :raises UsageError: the files are encrypted, or are not an adapter.
    """
    # Only at the top: the user may have named a home directory.
    names = sorted(file.name for file in directory.iterdir())
    encrypted = [name for name in names if name.endswith(".age")]
    if encrypted:
        raise UsageError(
            f"{label} is encrypted ({encrypted[0]})",
            hint="Decrypt the files with 'age' (download them first if necessary). Then specify "
            "the directory of the decrypted files to convert them, or upload them with "
            "'hf upload'.",
        )
    for wanted in ((_CONFIG,), _WEIGHTS):
        if not any((directory / name).is_file() for name in wanted):
            raise UsageError(
                f"{label} is not a PEFT adapter: it has no {wanted[0]}",
                hint=f"Specify an adapter that has both files: {_CONFIG} and {_WEIGHTS[0]}.",
            )


def fix_modules(directory: Path, found: AdapterMismatch | None) -> AdapterMismatch | None:
    """Write the missing ``target_modules`` of *found*; return the mismatch that remains."""
    if found is None or not found.is_fixable:
        return found
    deque(verify(directory, fix_config=True), maxlen=0)
    return None


def fill_base_model(directory: Path, base_model: str | None) -> str | None:
    """Add *base_model* to an adapter configuration without one; return its base model.

    :raises LocalError: the configuration cannot be read or written.
    """
    file = directory / _CONFIG
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError
        named = config.get(_BASE)
        if isinstance(named, str) and named:
            return base_model or named
        if base_model is not None:
            config[_BASE] = base_model
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise LocalError(f"cannot update {_CONFIG}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the checkpoint's {_CONFIG} is not a JSON object") from error
    return base_model
