"""Examples, adapters and a reference computation for tests of training."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinkex_local.engines import Datum, SampleSpec
from tinkex_local.state import adapter as files
from tinkex_local.state.adapter import AdapterSpec
from tinkex_local.state.models import DEFAULT_MODEL, LocalModel, built_in

MODEL = built_in(DEFAULT_MODEL) or LocalModel("", Path())
LORA = AdapterSpec(DEFAULT_MODEL, rank=8, seed=3)

T = TypeVar("T")


def finish(steps: Generator[None, None, T]) -> T:
    """Return the result of a generator."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def example(length: int, seed: int, **inputs: Any) -> Datum:
    """Return an example of random tokens; by default with weights for the cross-entropy."""
    tokens = np.random.default_rng(seed).integers(3, 2048, length + 1)
    if not inputs:
        inputs = {"weights": np.ones(length, np.float32)}
    return Datum(tokens[:-1], {"target_tokens": tokens[1:], **inputs})


def sample_spec(**changes: Any) -> SampleSpec:
    plain = SampleSpec(
        tokens=(500, 600, 700),
        num_samples=1,
        max_tokens=8,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        seed=5,
    )
    return replace(plain, **changes)


def write_adapter(directory: Path, lora: AdapterSpec = LORA, scale: float = 0.05) -> Path:
    """Write an adapter that changes the model: B is random, not zero."""
    from safetensors.numpy import load_file, save_file

    directory.mkdir(exist_ok=True)
    files.write(directory, lora, MODEL.facts)
    tensors = load_file(directory / files.TENSORS)
    random = np.random.default_rng(7)
    for name in sorted(tensors):
        if ".lora_B." in name:
            tensors[name] = random.normal(0, scale, tensors[name].shape).astype(np.float32)
    save_file(tensors, directory / files.TENSORS)
    return directory


def with_peft(directory: Path, **options: Any) -> Any:
    """Return the default model with the adapter in *directory*, as PEFT loads it.

    Warnings of missing or unexpected tensors are errors.
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from tinkex_torch.engine import BUILT_IN

    base = AutoModelForCausalLM.from_pretrained(BUILT_IN[DEFAULT_MODEL], dtype=torch.float32)
    with warnings.catch_warnings():
        # It warns of every adapter for the output of a tied model.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        warnings.simplefilter("ignore", FutureWarning)  # between versions of the two libraries
        return peft.PeftModel.from_pretrained(base, directory, **options).eval()
