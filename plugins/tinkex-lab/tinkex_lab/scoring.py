"""Negative log-likelihood, perplexity and bits per byte of examples under a model.

The definitions are those of the evaluators in the Tinker cookbook (``nll_evaluator``,
``supervised.common``), whose weights are 0 or 1:

* NLL per token: the negative sum of the logprobs of all tokens with weight 1, divided by their
  number, in nats; perplexity is its exponential.
* Bits per byte: the negative sum of the logprobs of all such tokens that are not special, in bits,
  divided by the number of bytes of their text in UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from tinkex.api import ExampleBuilder, SupervisedExample, SupervisedRow, Tokenizer
from tinkex.exceptions import InvalidResponse


@dataclass(frozen=True)
class Likelihood:
    """Sums over the tokens with weight 1.

    :ivar tokens: number of tokens.
    :ivar nll: negative sum of their logprobs, in nats.
    :ivar text_bytes: number of bytes of the tokens that are not special.
    :ivar text_nll: negative sum of the logprobs of these tokens.
    """

    tokens: int = 0
    nll: float = 0.0
    text_bytes: int = 0
    text_nll: float = 0.0

    def __add__(self, other: Likelihood) -> Likelihood:
        return Likelihood(
            self.tokens + other.tokens,
            self.nll + other.nll,
            self.text_bytes + other.text_bytes,
            self.text_nll + other.text_nll,
        )

    @property
    def nll_per_token(self) -> float | None:
        """Mean of the negative logprobs in nats, if there are tokens."""
        return self.nll / self.tokens if self.tokens else None

    @property
    def perplexity(self) -> float | None:
        """Exponential of :attr:`nll_per_token`; infinite if that is above 700."""
        mean = self.nll_per_token
        return None if mean is None else math.exp(mean) if mean < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Negative logprobs in bits per byte of text, if there is text."""
        return self.text_nll / math.log(2) / self.text_bytes if self.text_bytes else None


class Scorer:
    """Computes the likelihood of examples from the logprobs of their tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.inner.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)

    def likelihood(
        self, example: SupervisedExample, logprobs: Sequence[float | None]
    ) -> Likelihood:
        """Return the likelihood of *example*.

        :param logprobs: the logprob of each of its tokens; ``None`` where it is unknown.
        :raises InvalidResponse: the logprob of a token with weight 1 is unknown.
        """
        scored = [i for i, weight in enumerate(example.weights) if weight]
        values = [logprobs[i] for i in scored]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            raise InvalidResponse(
                f"the server returned no logprob for {len(values) - len(known)} of "
                f"{len(values)} tokens",
                hint="Use a server that returns prompt logprobs.",
            )
        text = [i for i in scored if example.tokens[i] not in self._special]
        return Likelihood(
            len(scored),
            -sum(known),
            sum(self._sizes(example.tokens, text)),
            -sum(logprobs[i] or 0.0 for i in text),
        )

    def _sizes(self, tokens: Sequence[int], positions: Sequence[int]) -> Iterator[int]:
        """Yield the number of bytes of each run of adjacent tokens at *positions*.

        A run is decoded as a whole, because a character may consist of several tokens.
        """
        for _, run in groupby(enumerate(positions), lambda pair: pair[1] - pair[0]):
            places = [position for _, position in run]
            start, end = places[0], places[-1] + 1
            text = self._tokenizer.decode(
                tokens[start:end], strip_end=False, after=tokens[max(0, start - 1) : start]
            )
            yield len(text.encode("utf-8", "replace"))


@dataclass(frozen=True)
class Item:
    """An example to score, and its row.

    :ivar row: position of the row, from 0.
    """

    row: int
    where: str
    example: SupervisedExample

    @property
    def first(self) -> int:
        """Index of the first token with weight 1."""
        return next(i for i, weight in enumerate(self.example.weights) if weight)


def build_items(builder: ExampleBuilder, rows: Iterable[SupervisedRow]) -> list[Item]:
    """Return the examples of all *rows*.

    :raises UsageError: a row is invalid.
    :raises ChatTemplateError: the tokenizer has no usable chat template for a conversation.
    """
    return [
        Item(number, row.where, example)
        for number, row in enumerate(rows)
        for example in builder.build(row)
    ]


@dataclass(frozen=True)
class ModelScore:
    """The likelihood of the data under one model.

    :ivar model: path of the checkpoint, or name of the base model.
    :ivar rows: number of rows that were scored.
    :ivar failed: number of rows that could not be scored.
    :ivar best: whether no other model fits the data better; ``None`` if there is no other.
    """

    model: str
    base_model: str
    rows: int
    failed: int
    total: Likelihood
    best: bool | None = None


def marked_best(scores: Sequence[ModelScore]) -> list[ModelScore]:
    """Return *scores* with the best one marked, if there are several.

    Models with different base models may have different tokenizers, so they are compared by bits
    per byte; otherwise, models are compared by NLL per token. Models that failed to score rows are
    not comparable.
    """
    if len(scores) < 2:
        return list(scores)
    is_same = len({score.base_model for score in scores}) == 1

    def value(score: ModelScore) -> Any:
        found = score.total.nll_per_token if is_same else score.total.bits_per_byte
        return math.inf if found is None or score.failed else found

    lowest = min(map(value, scores))
    return [
        replace(score, best=value(score) == lowest and math.isfinite(lowest)) for score in scores
    ]
