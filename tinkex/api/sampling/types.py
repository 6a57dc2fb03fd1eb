"""Sampling parameters and results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from tinkex.api.http import schema
from tinkex.api.http.schema import Json
from tinkex.exceptions import TinkexError, UsageError

#: Maximum number of generated tokens by default; some servers require one.
DEFAULT_MAX_TOKENS = 256
#: Number of tokens at the end of a prompt that may affect the text of a continuation.
TAIL = 16

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
#: The most likely tokens at one position, with their logprobs, the most likely first.
Alternatives = tuple[tuple[int, float], ...]


def is_chat(prompt: Prompt) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Return whether *prompt* is a list of messages."""
    return not isinstance(prompt, str) and bool(prompt) and not isinstance(prompt[0], int)


def brief_json(value: object) -> str:
    """Return *value* as JSON for messages, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):  # keys that are not text; nested too deeply
        text = type(value).__name__
    return text if len(text) <= 40 else f"{text[:39]}…"


def why_not_json(error: Exception) -> str:
    """Return the reason and the position of *error*, raised by :func:`json.loads`."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    line = f"line {error.lineno}, " if error.lineno > 1 else ""
    return f"{error.msg} ({line}column {error.colno})"


def are_token_ids(tokens: object) -> bool:
    """Return whether *tokens* is a sequence of whole numbers from 0 to 2147483647."""
    if isinstance(tokens, Sequence) and set(map(type, tokens)) == {int}:
        return bool(min(tokens) >= 0 and max(tokens) < 2**31)  # ten times as fast
    return why_not_token_ids(tokens) is None


def why_not_token_ids(tokens: object) -> str | None:
    """Return why *tokens* are not token ids, with the position of the first invalid item."""
    if not isinstance(tokens, Sequence) or isinstance(tokens, str):
        return f"it is {brief_json(tokens)}"
    for number, token in enumerate(tokens, 1):
        if not _is_whole(token) or not 0 <= token < 2**31:
            return f"item {number} is {brief_json(token)}"
    return None


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters.

    :ivar max_tokens: maximum number of tokens to generate; ``None``: :data:`DEFAULT_MAX_TOKENS`.
    :ivar temperature: 0 always selects the most likely token.
    :ivar top_k: sample from this number of most likely tokens; -1 for all.
    :ivar top_p: sample from the most likely tokens up to this total probability, at most 1.
    :ivar seed: makes the result reproducible, if the server supports it.
    :ivar stop: strings that end a sequence, or ids of such tokens; the protocol does not allow a
        list of both.
    :raises UsageError: a value is of another type or out of range.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] | Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("max_tokens", "top_k", "seed"):
            value = getattr(self, name)
            if value is not None and not _is_whole(value):
                raise UsageError(f"{name} must be a whole number, not {brief_json(value)}")
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if not _is_finite(value):
                raise UsageError(f"{name} must be a finite number, not {brief_json(value)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.temperature < 0:
            raise UsageError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_k != -1 and self.top_k < 1:
            raise UsageError(f"top_k must be at least 1, or -1 for all, not {self.top_k}")
        stop: object = self.stop
        if not isinstance(stop, (list, tuple)):  # a str would be read as many stop strings
            raise UsageError(
                f"stop must be a list of strings or of token ids, not {brief_json(stop)}"
            )
        for text in () if are_token_ids(stop) else stop:
            if not isinstance(text, str) or not text:
                raise UsageError(
                    "stop must contain only non-empty strings or only token ids, not "
                    f"{brief_json(text)}"
                )
        object.__setattr__(self, "stop", tuple(stop))

    def body(self) -> dict[str, Any]:
        """Return a JSON object that every server accepts, without unset members."""
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
class Logprobs:
    """The logprobs to request in addition to those of the sampled tokens.

    :ivar prompt_logprobs: request the logprob of each token of the prompt.
    :ivar prompt_logprobs_last_n: request logprobs only for this number of tokens at the end of the
        prompt.
    :ivar topk_prompt_logprobs: number of most likely tokens to return for each position of the
        prompt.
    :ivar topk_logprobs: number of most likely tokens to return for each sampled position.
    :raises UsageError: a number is negative, or of another type.
    """

    prompt_logprobs: bool = False
    prompt_logprobs_last_n: int | None = None
    topk_prompt_logprobs: int = 0
    topk_logprobs: int = 0

    def __post_init__(self) -> None:
        last = self.prompt_logprobs_last_n
        if last is not None and (not _is_whole(last) or last < 1):
            raise UsageError(
                f"prompt_logprobs_last_n must be a whole number above 0, not {brief_json(last)}"
            )
        for name in ("topk_prompt_logprobs", "topk_logprobs"):
            value = getattr(self, name)
            if not _is_whole(value) or value < 0:
                raise UsageError(
                    f"{name} must be a whole number, 0 or more, not {brief_json(value)}"
                )

    @property
    def of_prompt(self) -> bool:
        """Whether any logprob of the prompt is requested."""
        return bool(
            self.prompt_logprobs or self.prompt_logprobs_last_n or self.topk_prompt_logprobs
        )


@dataclass(frozen=True)
class SampledSequence:
    """One continuation of the prompt.

    :ivar tokens: the generated token ids; they may include the end-of-text token.
    :ivar logprobs: the natural logarithm of each token's probability, if the server reports it.
    :ivar stop_reason: ``stop`` (end of text or a stop string) or ``length``.
    :ivar topk_logprobs: for each token, the most likely tokens at its position as pairs of id and
        logprob, or ``None`` where the server has none; ``None`` if not requested.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    stop_reason: str
    topk_logprobs: tuple[Alternatives | None, ...] | None = None

    @classmethod
    def from_json(cls, data: Any) -> SampledSequence:
        """Create a sequence from its JSON form *data*.

        :raises tinkex.exceptions.InvalidResponse: *data* is not a sequence.
        """
        sequence = schema.mapping(data, "sequences")
        tokens = schema.items(sequence, "tokens")
        if not set(map(type, tokens)) <= {int}:
            schema.refuse("an invalid token id in 'tokens'")
        logprobs = None
        if sequence.get("logprobs") is not None:
            logprobs = _numbers(schema.items(sequence, "logprobs"), "logprobs")
        stop_reason = schema.optional_text(sequence, "stop_reason") or "stop"
        # Named differently in the official SDK's types and in its protobuf messages.
        names = ("topk_logprobs", "topk_sampled_logprobs")
        name = next((name for name in names if sequence.get(name) is not None), names[0])
        topk = _alternatives(sequence, name)
        return cls(tuple(tokens), logprobs, stop_reason, topk)

    def as_dict(self) -> dict[str, Any]:
        """Return the sequence as a JSON object; numbers that are not finite become null.

        It has the member ``topk_logprobs`` only if that was requested.
        """
        known: dict[str, Any] = {
            "tokens": list(self.tokens),
            "logprobs": _finite(self.logprobs),
            "stop_reason": self.stop_reason,
        }
        if self.topk_logprobs is not None:
            known["topk_logprobs"] = _as_lists(self.topk_logprobs)
        return known


@dataclass(frozen=True)
class SampleResponse:
    """The sequences sampled for one prompt.

    :ivar sequences: one for each requested sample.
    :ivar prompt_logprobs: the logprob of each token of the prompt, if the server returns them; the
        first is unknown.
    :ivar topk_prompt_logprobs: for each token of the prompt, the most likely tokens at its position
        as pairs of id and logprob, or ``None`` where they are unknown; ``None`` if not requested.
    """

    sequences: tuple[SampledSequence, ...]
    prompt_logprobs: tuple[float | None, ...] | None = None
    topk_prompt_logprobs: tuple[Alternatives | None, ...] | None = None

    @classmethod
    def from_json(cls, data: Json, prompt_length: int | None = None) -> SampleResponse:
        """Create a response from its JSON form *data*.

        :param prompt_length: number of tokens in the prompt; if a server omits the unknown logprob
            of the first token, ``None`` is inserted.
        :raises tinkex.exceptions.InvalidResponse: *data* is not a response.
        """
        sequences = tuple(map(SampledSequence.from_json, schema.items(data, "sequences")))
        logprobs: tuple[float | None, ...] | None = None
        if data.get("prompt_logprobs") is not None:
            values = schema.items(data, "prompt_logprobs")
            known = iter(_numbers([x for x in values if x is not None], "prompt_logprobs"))
            logprobs = tuple(None if x is None else next(known) for x in values)
        topk = _alternatives(data, "topk_prompt_logprobs")
        if logprobs is not None and len(logprobs) + 1 == prompt_length:
            logprobs = (None, *logprobs)
        if topk is not None and len(topk) + 1 == prompt_length:
            topk = (None, *topk)
        return cls(sequences, logprobs, topk)

    def as_dict(self) -> dict[str, Any]:
        """Return the response as a JSON object; numbers that are not finite become null."""
        return {
            "sequences": [sequence.as_dict() for sequence in self.sequences],
            "prompt_logprobs": _finite(self.prompt_logprobs),
            "topk_prompt_logprobs": _as_lists(self.topk_prompt_logprobs),
            "type": "sample",
        }


@dataclass(frozen=True)
class SampleRow:
    """A prompt for :meth:`~tinkex.api.SamplingClient.sample_many`, with its parameters.

    :ivar prompt: token ids, a string, or messages (``{"role": …, "content": …}``); strings and
        messages need a tokenizer.
    :ivar params: the sampling parameters.
    :ivar num_samples: number of sequences to generate.
    :ivar key: any object of the caller; returned with the result.
    :ivar logprobs: the logprobs to request.
    """

    prompt: Prompt
    params: SamplingParams | None = None
    num_samples: int = 1
    key: Any = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class SampledRow:
    """The result of a :class:`SampleRow`; either *response* or *error* is ``None``.

    :ivar index: position of the row, from 0.
    :ivar row: the row itself.
    :ivar tail: the last token ids of the prompt, for :meth:`tinkex.api.Tokenizer.decode`.
    """

    index: int
    row: SampleRow
    response: SampleResponse | None = None
    error: TinkexError | None = None
    tail: Sequence[int] = ()


def _numbers(values: list[Any], name: str) -> tuple[float, ...]:
    try:
        if set(map(type, values)) <= {float, int}:
            return tuple(map(float, values))
    except OverflowError:  # an integer with hundreds of digits
        schema.refuse(f"{name!r} contains a number out of range")
    schema.refuse(f"{name!r} contains an item that is not a number")


def _alternatives(data: Json, name: str) -> tuple[Alternatives | None, ...] | None:
    """Return the most likely tokens of each position in the member *name*, or ``None``."""
    if data.get(name) is None:
        return None
    found: list[Alternatives | None] = []
    for pairs in schema.items(data, name):
        if pairs is None:
            found.append(None)
            continue
        if not isinstance(pairs, list) or not all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and _is_whole(pair[0])
            for pair in pairs
        ):
            schema.refuse(f"{name!r} contains an item that is not a list of pairs")
        logprobs = _numbers([pair[1] for pair in pairs], name)
        found.append(tuple(zip((pair[0] for pair in pairs), logprobs, strict=True)))
    return tuple(found)


def _as_lists(rows: Sequence[Alternatives | None] | None) -> list[Any] | None:
    """Return *rows* as the JSON of the protocol, without logprobs that are not finite."""
    if rows is None:
        return None
    return [
        None if row is None else [[t, logprob] for t, logprob in row if math.isfinite(logprob)]
        for row in rows
    ]


def _finite(values: Sequence[float | None] | None) -> list[float | None] | None:
    """Replace numbers that are not finite, which JSON does not support, by ``None``."""
    if values is None:
        return None
    if math.isfinite(sum(filter(None, values))):  # ten times as fast
        return list(values)
    return [x if x is not None and math.isfinite(x) else None for x in values]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):  # not a number; one with hundreds of digits
        return False
