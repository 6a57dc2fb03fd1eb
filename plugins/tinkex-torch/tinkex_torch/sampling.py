"""Sampling with a cache of keys and values; the sequences of a request are computed together."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from tinkex_local.engines import SampleResult, SampleSpec, Sequence
from tinkex_local.engines.sampling import best, choose, log_softmax
from tinkex_torch.adapter import Adapter
from tinkex_torch.base import BaseModel
from tinkex_torch.gradients import LOGITS

#: Maximum number of sequences computed together; each has its own keys and values.
TOGETHER = 32
#: Maximum number of prompt tokens processed at once.
PIECE = 512


class Reader:
    """A model, an adapter, and the keys and values of the tokens processed so far."""

    def __init__(self, base: BaseModel, adapter: Adapter | None) -> None:
        self.base = base
        self._factors = adapter.factors(adapter.vector) if adapter else {}
        self._scale = adapter.scale if adapter else 1.0
        self._cache = DynamicCache(config=base.config)

    def read(self, rows: list[list[int]], *, last: int = 0) -> NDArray[Any]:
        """Process the same number of tokens for each sequence; see :meth:`BaseModel.logits`."""
        tokens = torch.tensor(rows, device=self.base.device)
        with torch.no_grad(), self.base.adapted(self._factors, self._scale):
            logits = self.base.logits(tokens, cache=self._cache, last=last)
        return np.asarray(logits.cpu())

    def repeated(self, count: int) -> Reader:
        """Return a reader of *count* sequences that all begin with this one."""
        other = copy.copy(self)
        other._cache = copy.deepcopy(self._cache)
        other._cache.batch_repeat_interleave(count)
        return other

    def keep(self, indices: list[int]) -> None:
        """Forget all sequences but those at *indices*."""
        self._cache.batch_select_indices(torch.tensor(indices, device=self.base.device))


def sample(
    reader: Reader, spec: SampleSpec, ended: Callable[[list[int]], bool]
) -> Generator[None, None, SampleResult]:
    """Sample sequences; yields after each step.

    :param ended: whether a list of tokens ends its sequence.
    """
    scores = _Scores(spec)
    logits = yield from _read_prompt(reader, spec, scores)
    sequences: list[Sequence] = []
    for start in range(0, spec.num_samples, TOGETHER):
        indices = range(start, min(start + TOGETHER, spec.num_samples))
        sequences += yield from _continue(reader, logits, spec, indices, ended)
    return SampleResult(sequences, *scores.result())


class _Scores:
    """The log-probabilities of the prompt.

    :ivar first: position of the first token to score; the number of tokens if none is.
    """

    def __init__(self, spec: SampleSpec) -> None:
        self._spec = spec
        self.first = max(1, len(spec.tokens) - spec.prompt_logprobs)
        self._logprobs: list[float | None] = [None] * self.first
        self._tables: list[list[tuple[int, float]] | None] = [None] * self.first

    def add(self, row: NDArray[Any]) -> None:
        """Score the next token with the logits after the one before it."""
        logprobs = log_softmax(row)
        self._logprobs.append(float(logprobs[self._spec.tokens[len(self._logprobs)]]))
        if self._spec.topk_prompt_logprobs:
            self._tables.append(best(logprobs, self._spec.topk_prompt_logprobs))

    def result(self) -> tuple[Any, Any]:
        if not self._spec.prompt_logprobs:
            return None, None
        return self._logprobs, self._tables if self._spec.topk_prompt_logprobs else None


def _read_prompt(
    reader: Reader, spec: SampleSpec, scores: _Scores
) -> Generator[None, None, NDArray[Any]]:
    """Process the prompt and return the logits after it."""
    prompt = list(spec.tokens)
    size = max(1, min(PIECE, LOGITS // reader.base.vocabulary))
    for start in range(0, len(prompt), size):
        piece = prompt[start : start + size]
        end = start + len(piece)
        # The logits after one token score the next.
        wanted = max(1, end + 1 - max(scores.first, start + 1))
        rows = reader.read([piece], last=wanted)[0]
        for position, row in enumerate(rows, end + 1 - len(rows)):
            if scores.first <= position < len(prompt):
                scores.add(row)
        yield
    return np.asarray(rows[-1])


def _continue(
    reader: Reader,
    logits: NDArray[Any],
    spec: SampleSpec,
    indices: range,
    ended: Callable[[list[int]], bool],
) -> Generator[None, None, list[Sequence]]:
    """Sample the sequences *indices* after the prompt."""
    writers = [_Writer(spec, index) for index in indices]
    active = list(writers)
    rows = np.broadcast_to(logits, (len(active), len(logits)))
    reader = reader.repeated(len(active))
    while True:
        for writer, row in zip(active, rows, strict=True):
            writer.add(row, ended)
        kept = [index for index, writer in enumerate(active) if not writer.stop_reason]
        if not kept:
            return [writer.sequence() for writer in writers]
        if len(kept) < len(active):
            active = [active[index] for index in kept]
            reader.keep(kept)
        yield
        rows = reader.read([[writer.tokens[-1]] for writer in active])[:, -1]


class _Writer:
    """A sequence that is being sampled."""

    def __init__(self, spec: SampleSpec, index: int) -> None:
        self._spec = spec
        # Seeding with text gives the same result on every platform and Python version.
        self._random = random.Random(f"{spec.seed}:{index}")  # noqa: S311 - not for secrets
        self.tokens: list[int] = []
        self._logprobs: list[float] = []
        self._tables: list[list[tuple[int, float]]] = []
        self.stop_reason = ""

    def add(self, logits: NDArray[Any], ended: Callable[[list[int]], bool]) -> None:
        """Sample the next token."""
        spec, logprobs = self._spec, log_softmax(logits)
        token = choose(
            logprobs,
            temperature=spec.temperature,
            top_k=spec.top_k,
            top_p=spec.top_p,
            uniform=self._random.random(),
        )
        self.tokens.append(token)
        self._logprobs.append(float(logprobs[token]))
        if spec.topk_sample_logprobs:
            self._tables.append(best(logprobs, spec.topk_sample_logprobs))
        if ended(self.tokens):
            self.stop_reason = "stop"
        elif len(self.tokens) >= spec.max_tokens:
            self.stop_reason = "length"

    def sequence(self) -> Sequence:
        tables = self._tables if self._spec.topk_sample_logprobs else None
        return Sequence(self.tokens, self._logprobs, self.stop_reason, tables)
