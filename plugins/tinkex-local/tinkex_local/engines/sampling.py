"""Selecting tokens from logits, shared by the engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinkex_local.engines import SampleSpec
from tinkex_local.problems import OperationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float64]


def stops_at(spec: SampleSpec, eos: frozenset[int], directory: Path) -> Callable[[list[int]], bool]:
    """Return a function that checks whether a list of tokens ends its sequence.

    :param directory: contains the ``tokenizer.json`` that decodes tokens for stop strings.
    :raises OperationError: the tokenizer is needed and cannot be read.
    """
    ids, strings = eos | spec.stop_tokens, spec.stop_strings
    if not strings:
        return lambda tokens: tokens[-1] in ids
    decoder = _decoder(directory / "tokenizer.json")
    # A token is at least one byte of text; a few more because the first may be incomplete.
    window = max(len(text.encode()) for text in strings) + 8

    def ended(tokens: list[int]) -> bool:
        if tokens[-1] in ids:
            return True
        tail = decoder.decode(tokens[-window:], skip_special_tokens=False)
        return any(text in tail for text in strings)

    return ended


@lru_cache(maxsize=4)
def _decoder(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no more specific exception
        raise OperationError(f"cannot read {path}: {error}", "server") from error


def log_softmax(logits: NDArray[Any]) -> Floats:
    """Return the natural logarithm of the softmax along the last axis."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def choose(
    logprobs: Floats, *, temperature: float, top_k: int, top_p: float, uniform: float
) -> int:
    """Sample a token with the random number *uniform*.

    :param logprobs: log-probabilities of the whole vocabulary.
    :param temperature: 0 selects the most likely token.
    :param top_k: sample from this number of most likely tokens; 0 or less for all.
    :param top_p: sample from the fewest tokens that together have this probability, after
        temperature and top-k.
    :param uniform: a number from 0 up to but not including 1.
    """
    if temperature <= 0 or top_k == 1:
        return int(logprobs.argmax())
    with np.errstate(over="ignore"):  # a tiny temperature may give -inf, which is correct
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
    """Return the *count* most likely tokens and their logprobs, in descending order."""
    order = np.argsort(-logprobs, kind="stable")[:count]
    return [(int(token), float(logprobs[token])) for token in order]


def _draw(weights: Floats, uniform: float) -> int:
    totals = np.cumsum(weights)
    return min(int(np.searchsorted(totals, uniform * totals[-1], side="right")), len(totals) - 1)
