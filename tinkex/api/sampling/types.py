"""What is asked of a model, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.schema import Json
from tinkex.exceptions import UsageError

#: Tokens generated when nobody says how many; some servers insist on a number.
DEFAULT_MAX_TOKENS = 256

Topk = tuple[tuple[tuple[int, float], ...] | None, ...]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn.

    :ivar max_tokens: most tokens to generate; ``None`` means :data:`DEFAULT_MAX_TOKENS`.
    :ivar temperature: 0 always takes the most likely token.
    :ivar top_k: draw from this many most likely tokens; -1 means from all.
    :ivar top_p: draw from the most likely tokens of this total probability, up to 1.
    :ivar seed: makes the result repeatable, where the server supports it.
    :ivar stop: texts that end a sequence.
    :raises UsageError: a value is out of range.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_k != -1 and self.top_k < 1:
            raise UsageError(f"top_k must be at least 1, or -1 for all, not {self.top_k}")
        stop: object = self.stop
        if isinstance(stop, str):  # each of its characters would end a sequence
            raise UsageError("stop takes a list of texts, not one text")
        if not all(self.stop):
            raise UsageError("a stop text must not be empty")

    def body(self) -> dict[str, Any]:
        """Return the form that every server accepts: ``stop`` a list, unset members left out."""
        body: dict[str, Any] = {
            "max_tokens": self.max_tokens or DEFAULT_MAX_TOKENS,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }
        if self.seed is not None:
            body["seed"] = self.seed
        if self.stop:
            body["stop"] = list(self.stop)
        return body


@dataclass(frozen=True)
class SampledSequence:
    """One continuation of the prompt.

    :ivar tokens: the generated token ids; the end-of-text token may be among them.
    :ivar logprobs: the natural logarithm of each token's probability, if the server tells.
    :ivar stop_reason: ``stop`` (end of text or a stop text) or ``length``.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    stop_reason: str

    @classmethod
    def from_json(cls, data: Any) -> SampledSequence:
        """Read one sequence.

        :raises tinkex.exceptions.InvalidResponse: *data* is not one.
        """
        sequence = schema.mapping(data, "sequences")
        tokens = schema.items(sequence, "tokens")
        if not set(map(type, tokens)) <= {int}:
            schema.refuse("something that is no token among 'tokens'")
        logprobs = None
        if sequence.get("logprobs") is not None:
            logprobs = _numbers(schema.items(sequence, "logprobs"), "logprobs")
        stop_reason = schema.optional_text(sequence, "stop_reason") or "stop"
        return cls(tuple(tokens), logprobs, stop_reason)

    def as_dict(self) -> dict[str, Any]:
        """Return the sequence as JSON has it."""
        return {
            "tokens": list(self.tokens),
            "logprobs": None if self.logprobs is None else _all_finite(self.logprobs),
            "stop_reason": self.stop_reason,
        }


@dataclass(frozen=True)
class SampleResponse:
    """All continuations of one prompt.

    :ivar sequences: one for each sample asked for.
    :ivar prompt_logprobs: for each token of the prompt, if asked for; the first is unknown.
    :ivar topk_prompt_logprobs: for each token of the prompt, the most likely tokens instead.
    """

    sequences: tuple[SampledSequence, ...]
    prompt_logprobs: tuple[float | None, ...] | None = None
    topk_prompt_logprobs: Topk | None = None
    type: str = "sample"

    @classmethod
    def from_json(cls, data: Json, prompt_length: int | None = None) -> SampleResponse:
        """Read a result of sampling.

        :param prompt_length: tokens in the prompt; some servers leave the first one's unknown
            logprob out, which is put back.
        :raises tinkex.exceptions.InvalidResponse: *data* is not one.
        """
        sequences = tuple(map(SampledSequence.from_json, schema.items(data, "sequences")))
        logprobs: tuple[float | None, ...] | None = None
        if data.get("prompt_logprobs") is not None:
            values = schema.items(data, "prompt_logprobs")
            logprobs = tuple(None if x is None else _number(x, "prompt_logprobs") for x in values)
            if prompt_length is not None and len(logprobs) == prompt_length - 1:
                logprobs = (None, *logprobs)
        return cls(sequences, logprobs, _read_topk(data))

    def as_dict(self) -> dict[str, Any]:
        """Return the response as JSON has it; what is not finite becomes null."""
        prompt = self.prompt_logprobs
        topk = self.topk_prompt_logprobs
        return {
            "sequences": [sequence.as_dict() for sequence in self.sequences],
            "prompt_logprobs": None if prompt is None else _all_finite(prompt),
            "topk_prompt_logprobs": None
            if topk is None
            else [row and [[token, _finite(x)] for token, x in row] for row in topk],
            "type": self.type,
        }


def _read_topk(data: Json) -> Topk | None:
    name = "topk_prompt_logprobs"
    if data.get(name) is None:
        return None
    rows: list[tuple[tuple[int, float], ...] | None] = []
    for row in schema.items(data, name):
        if row is not None and not isinstance(row, list):
            schema.refuse(f"no list in {name!r}")
        rows.append(None if row is None else tuple(_pair(pair, name) for pair in row))
    return tuple(rows)


def _pair(pair: Any, name: str) -> tuple[int, float]:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], int):
        schema.refuse(f"no pair of token and number in {name!r}")
    return pair[0], _number(pair[1], name)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        schema.refuse(f"no number in {name!r}")
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        schema.refuse(f"an absurd number in {name!r}")


def _numbers(values: list[Any], name: str) -> tuple[float, ...]:
    if set(map(type, values)) <= {float}:  # thousands in each sample: not one by one
        return tuple(values)
    return tuple(_number(value, name) for value in values)


def _all_finite(values: Sequence[float | None]) -> list[float | None]:
    """Return *values* with null in place of those that JSON has no number for."""
    try:
        if all(map(math.isfinite, values)):  # type: ignore[arg-type]
            return list(values)
    except TypeError:  # one is unknown
        pass
    return [_finite(value) for value in values]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
