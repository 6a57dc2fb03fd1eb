"""The loss of training examples, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinkex_local.engines import Datum
from tinkex_local.problems import OperationError
from tinkex_torch.adapter import Adapter
from tinkex_torch.base import BaseModel
from tinkex_torch.losses import LOSSES

#: Maximum number of logits computed at once, unless a single example has more: 128 MiB of float32.
#: A backward pass needs about three times this.
LOGITS = 1 << 25
#: Maximum number of tokens processed at once, for models with a small vocabulary.
TOKENS = 8192


@dataclass(frozen=True)
class Part:
    """The result for some of the examples.

    :ivar logprobs: log-probabilities of the targets of each of them.
    :ivar gradient: of the adapter's vector; ``None`` if it was not requested.
    """

    logprobs: list[NDArray[Any]]
    loss: float
    gradient: Tensor | None


def batches(data: Sequence[Datum], vocabulary: int) -> list[list[int]]:
    """Group examples of similar length, so that little padding is computed."""
    limit = max(1, min(TOKENS, LOGITS // vocabulary))
    order = sorted(range(len(data)), key=lambda index: (_width(data[index]), -_length(data[index])))
    groups: list[list[int]] = []
    for index in order:
        group = groups[-1] if groups else []
        first = data[group[0]] if group else None  # the longest
        if (
            first is not None
            and _width(first) == _width(data[index])
            and _length(first) * (len(group) + 1) <= limit
        ):
            group.append(index)
        else:
            groups.append([index])
    return groups


def compute(
    base: BaseModel,
    adapter: Adapter,
    data: Sequence[Datum],
    indices: list[int],
    loss_fn: str,
    config: Mapping[str, float],
    *,
    backward: bool,
) -> Part:
    """Return the loss of the examples *indices*, and its gradient if *backward*.

    :raises OperationError: the loss is not finite.
    """
    examples = [data[index] for index in indices]
    device = base.device
    lengths = [_length(example) for example in examples]
    tokens = _padded([example.tokens for example in examples]).to(device)
    targets = _padded([_columns(example.inputs["target_tokens"]) for example in examples])
    names = examples[0].inputs.keys() - {"target_tokens"}
    inputs = {
        name: torch.from_numpy(np.concatenate([_columns(e.inputs[name]) for e in examples]))
        for name in names
    }
    inputs = {name: values.to(device) for name, values in inputs.items()}
    with torch.set_grad_enabled(backward):
        vector = adapter.vector.detach().requires_grad_(backward)
        with base.adapted(adapter.factors(vector), adapter.scale):
            logits = base.logits(tokens)
        picked = logits.log_softmax(-1).gather(-1, targets.to(device))
        # Without the padding, (all tokens, K), as the inputs are.
        logprobs = torch.cat([row[:length] for row, length in zip(picked, lengths, strict=True)])
        losses = LOSSES[loss_fn](logprobs, inputs, config)
        total = losses.sum()
        loss = float(total.detach())
        if not math.isfinite(loss):
            raise _not_finite(losses, indices, lengths)
        gradient = torch.autograd.grad(total, vector)[0] if backward else None
    values = logprobs.detach().cpu().split(lengths)
    shaped = [
        row.numpy().reshape(example.inputs["target_tokens"].shape)
        for row, example in zip(values, examples, strict=True)
    ]
    return Part(shaped, loss, gradient)


def _not_finite(losses: Tensor, indices: list[int], lengths: list[int]) -> OperationError:
    rows = losses.detach().split(lengths)
    bad = [index for index, row in zip(indices, rows, strict=True) if not row.sum().isfinite()]
    where = f" of datum {min(bad)}" if bad else ""
    return OperationError(
        f"the loss{where} is not finite (NaN or infinity); the gradients of this request were "
        "discarded"
    )


def _length(example: Datum) -> int:
    return len(example.tokens)


def _width(example: Datum) -> int:
    return math.prod(example.inputs["target_tokens"].shape[1:])


def _columns(values: NDArray[Any]) -> NDArray[Any]:
    """Return *values* with shape (N, K)."""
    return values.reshape(len(values), -1)


def _padded(rows: list[NDArray[Any]]) -> Tensor:
    """Return the rows, padded with zeros at the end."""
    tensors = [torch.from_numpy(np.ascontiguousarray(row, dtype=np.int64)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
