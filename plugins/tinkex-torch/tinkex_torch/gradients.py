"""The loss of training examples, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def batches(data: Sequence[Datum], vocabulary: int) -> list[list[int]]:
    """Group examples of similar length, so that little padding is computed."""
    limit = max(1, min(TOKENS, LOGITS // vocabulary))
    order = sorted(range(len(data)), key=lambda index: (_width(data[index]), -_length(data[index])))
    groups: list[list[int]] = []
    for index in order:
        first = data[groups[-1][0]] if groups else None  # the longest of the group
        if (
            first is not None
            and _width(first) == _width(data[index])
            and _length(first) * (len(groups[-1]) + 1) <= limit
        ):
            groups[-1].append(index)
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
) -> tuple[list[NDArray[Any]], float, Tensor | None]:
    """Return the log-probabilities of the targets, loss and gradient of the examples *indices*.

    :param backward: whether to compute the gradient; otherwise it is ``None``.
    :raises OperationError: the loss is not finite.
    """
    device, examples = base.device, [data[index] for index in indices]
    lengths = [_length(example) for example in examples]
    tokens = _padded([example.tokens for example in examples]).to(device)
    targets = _padded([_columns(example.inputs["target_tokens"]) for example in examples])
    inputs = {
        name: torch.from_numpy(np.concatenate([_columns(e.inputs[name]) for e in examples])).to(
            device
        )
        for name in examples[0].inputs.keys() - {"target_tokens"}
    }
    with torch.set_grad_enabled(backward):
        vector = adapter.vector.detach().requires_grad_(backward)
        with base.adapted(adapter.factors(vector), adapter.scale):
            logits = base.logits(tokens)
        picked = logits.log_softmax(-1).gather(-1, targets.to(device))
        # Without the padding, (all tokens, K), as the inputs are.
        logprobs = torch.cat([row[:length] for row, length in zip(picked, lengths, strict=True)])
        losses = LOSSES[loss_fn](logprobs, inputs, config)
        total = losses.sum()
        _check_finite(losses.detach().split(lengths), indices)
        gradient = torch.autograd.grad(total, vector)[0] if backward else None
    shaped = [
        row.numpy().reshape(example.inputs["target_tokens"].shape)
        for row, example in zip(logprobs.detach().cpu().split(lengths), examples, strict=True)
    ]
    return shaped, float(total.detach()), gradient


def _check_finite(losses: Sequence[Tensor], indices: list[int]) -> None:
    for index, loss in zip(indices, losses, strict=True):
        if not loss.sum().isfinite():
            raise OperationError(
                f"the loss for datum {index} is not finite (NaN or infinity); a failed "
                "forward_backward discards all accumulated gradients"
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
