"""Learning rates: the default for each model, and schedules."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

SCHEDULES = ("linear", "cosine", "constant")

#: For LoRA: ten times the rate of full fine-tuning, for a hidden size of 2,000. The exponents are
#: those of the official cookbook (0.6, ``hyperparam_utils.get_lora_lr_over_full_finetune_lr``).
_BASE, _HIDDEN = 5e-4, 2000
_EXPONENTS = {"llama": 0.781, "qwen": 0.0775}
#: Hidden sizes of the models of Llama 3, whose exponent is large.
_LLAMA = {"1B": 2048, "3B": 3072, "8B": 4096, "70B": 8192, "405B": 16384}


def suggested(model: str, directory: Path | None) -> float:
    """Return the learning rate for LoRA on *model*.

    :param directory: its files; ``config.json`` has the hidden size.
    """
    name = model.lower()
    exponent = next((e for family, e in _EXPONENTS.items() if family in name), 0.0)
    hidden = _hidden_size(directory)
    if hidden is None and "llama" in name:
        size = re.search(r"\b\d+B\b", model)
        hidden = _LLAMA.get(size[0]) if size else None
    return float(f"{_BASE * (_HIDDEN / (hidden or _HIDDEN)) ** exponent:.2g}")


def _hidden_size(directory: Path | None) -> int | None:
    try:
        config = json.loads(((directory or Path()) / "config.json").read_bytes())
        size = config.get("text_config", config)["hidden_size"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return size if isinstance(size, int) and size > 0 else None


def factor(schedule: str, step: int, steps: int) -> float:
    """Return the factor of the learning rate at *step*, from 0, of *steps*."""
    progress = step / steps
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0
