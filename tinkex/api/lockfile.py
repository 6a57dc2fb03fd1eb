"""A note beside downloaded files: which checkpoint they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinkex.api.paths import TinkerPath

NAME = "tinkex.lock.json"
#: Raised when the meaning of a member changes.
VERSION = 1

#: Written by PEFT beside every adapter (``peft.LoraConfig``).
_ADAPTER_CONFIG = "adapter_config.json"


def write(directory: Path, path: TinkerPath, sizes: Mapping[str, int]) -> Path:
    """Write the note about the files of *path* in *directory*; return its relative path.

    Base model and rank are those of the adapter's own configuration, so that nothing is claimed
    that the files do not say.

    :param sizes: relative file names and their sizes in bytes.
    """
    config = _adapter_config(directory / _ADAPTER_CONFIG)
    base_model, rank = config.get("base_model_name_or_path"), config.get("r")
    note = {
        "version": VERSION,
        "tinker_path": str(path),
        "run_id": path.run_id,
        "base_model": base_model if isinstance(base_model, str) else None,
        "lora_rank": rank if type(rank) is int else None,
        "files": [{"name": name, "size_bytes": size} for name, size in sorted(sizes.items())],
    }
    (directory / NAME).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    return Path(NAME)


def _adapter_config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
