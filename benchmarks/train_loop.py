"""A training loop of :mod:`train`, as a process: each line of standard input runs some steps.

It prints a line when it is ready, then the seconds of each run. All loops train the same model on
the same batch with the same learning rate and rank.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

MODEL = "tinkex/baker-street-2M"
BATCH, LENGTH, RANK, RATE = 16, 128, 32, 1e-4


def batch() -> Any:
    """Return token ids, batch × (length + 1)."""
    return np.random.default_rng(0).integers(3, 2048, (BATCH, LENGTH + 1))


def bare() -> Callable[[], object]:
    """Return a step of a loop in PyTorch with PEFT."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from tinkex_torch.engine import BUILT_IN

    base = AutoModelForCausalLM.from_pretrained(BUILT_IN[MODEL], dtype=torch.float32)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = peft.LoraConfig(r=RANK, lora_alpha=32, target_modules=[*modules, "lm_head"])
    model = peft.get_peft_model(base, lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.95), eps=1e-12, weight_decay=0)
    rows = torch.from_numpy(batch())

    def step() -> float:
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def sdk() -> Callable[[], object]:
    """Return a step with the official SDK."""
    import tinker
    from tinker import types

    service = tinker.ServiceClient()
    created: Any = service.create_lora_training_client(base_model=MODEL, rank=RANK)
    client = created.result() if hasattr(created, "result") else created
    data = [
        types.Datum(
            model_input=types.ModelInput.from_ints(row[:-1].tolist()),
            loss_fn_inputs={"target_tokens": row[1:].tolist(), "weights": [1.0] * LENGTH},
        )
        for row in batch()
    ]

    def submit() -> Any:
        loss = client.forward_backward(data, "cross_entropy")
        return loss, client.optim_step(types.AdamParams(learning_rate=RATE))

    return pipelined(submit)


def tinkex() -> Callable[[], object]:
    """Return a step with tinkex.api."""
    from tinkex.api import AdamParams, Datum, ServiceClient

    client = ServiceClient().create_lora_training_client(MODEL, rank=RANK)
    data = [
        Datum(row[:-1].tolist(), {"target_tokens": row[1:].tolist(), "weights": [1.0] * LENGTH})
        for row in batch()
    ]

    def submit() -> Any:
        return client.forward_backward(data), client.optim_step(AdamParams(RATE))

    return pipelined(submit)


def pipelined(submit: Callable[[], Any]) -> Callable[[], object]:
    """Return a step that submits the next one before it waits for the last, as recipes do."""
    pending: list[Any] = []

    def step() -> None:
        pending.append(submit())
        if len(pending) > 1:
            for future in pending.pop(0):
                future.result()

    return step


def lines() -> Iterator[int]:
    """Yield the number of steps on each line of standard input."""
    for line in sys.stdin:
        yield int(line)


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    step = {"bare": bare, "sdk": sdk, "tinkex": tinkex}[sys.argv[1]]()
    print("ready", flush=True)
    for count in lines():
        began = time.perf_counter()
        for _ in range(count):
            step()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
