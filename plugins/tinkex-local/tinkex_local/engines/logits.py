"""From logits to tokens, in numpy alone, so that one seed gives one result everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_softmax(logits: NDArray[Any]) -> Floats:
    """Return the natural logarithms of the probabilities along the last axis."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def choose(
    logprobs: Floats, *, temperature: float, top_k: int, top_p: float, uniform: float
) -> int:
    """Return the token drawn by *uniform*.

    :param logprobs: of the whole vocabulary.
    :param temperature: 0 takes the likeliest token.
    :param top_k: draw among that many of the likeliest; 0 or less means all.
    :param top_p: draw among the fewest tokens that together have this probability; after
        temperature and top-k.
    :param uniform: a number from 0 up to, not including, 1.
    """
    if temperature <= 0 or top_k == 1:
        return int(logprobs.argmax())
    with np.errstate(over="ignore"):  # a tiny temperature may reach -inf, which is right
        weights = np.exp((logprobs - logprobs.max()) / temperature)
    if top_k <= 0 and top_p >= 1:
        return _draw(weights, uniform)
    order = np.argsort(-weights, kind="stable")
    if top_k > 0:
        order = order[:top_k]
    weights = weights[order]
    if top_p < 1:
        before = np.cumsum(weights) - weights
        kept = max(1, int((before < top_p * weights.sum()).sum()))
        order, weights = order[:kept], weights[:kept]
    return int(order[_draw(weights, uniform)])


def best(logprobs: Floats, count: int) -> list[tuple[int, float]]:
    """Return the *count* likeliest tokens and their logprobs, the likeliest first."""
    order = np.argsort(-logprobs, kind="stable")[:count]
    return [(int(token), float(logprobs[token])) for token in order]


def _draw(weights: Floats, uniform: float) -> int:
    totals = np.cumsum(weights)
    return min(int(np.searchsorted(totals, uniform * totals[-1], side="right")), len(totals) - 1)
