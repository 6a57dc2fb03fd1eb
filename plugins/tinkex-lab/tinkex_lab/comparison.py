"""The samples of several models for the same prompts, side by side."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tinkex.columns import counted
from tinkex_lab.results import ResultRow, Sequence

#: Maximum number of words per text that are compared; the comparison takes quadratic time.
_MAX_WORDS = 2000


class Span(NamedTuple):
    """A part of a text, and whether it differs from the reference."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Model:
    """A compared model.

    :ivar label: what the user typed.
    :ivar name: path of the checkpoint, or name of the base model.
    """

    label: str
    name: str


@dataclass(frozen=True)
class Prompt:
    """A prompt and the samples of each model.

    :ivar text: the prompt, for display.
    :ivar samples: for each model, its samples; empty if the row failed.
    """

    id: str
    text: str
    samples: tuple[tuple[Sequence, ...], ...]

    def numbered(self) -> Iterator[tuple[int, list[Sequence | None]]]:
        """Yield the number of each sample, from 1, and the sample of each model, if any."""
        for number in range(max(map(len, self.samples), default=0)):
            yield number + 1, [s[number] if number < len(s) else None for s in self.samples]


@dataclass(frozen=True)
class Summary:
    """Means over all samples of a model.

    :ivar samples: number of samples, at least 1.
    :ivar tokens: mean number of tokens per sample.
    :ivar logprob: mean logprob per token in nats, or ``None`` if unknown.
    :ivar truncated: proportion of samples that ended at the maximum number of tokens.
    """

    samples: int
    tokens: float
    logprob: float | None
    truncated: float

    def __str__(self) -> str:
        mean = "" if self.logprob is None else f"mean logprob {self.logprob:.3f}, "
        samples = counted(self.samples, "sample")
        return f"{samples}, {mean}{self.tokens:.1f} tokens, {self.truncated:.0%} truncated"


@dataclass
class Comparison:
    """The samples of *models* for each prompt."""

    models: list[Model]
    prompts: list[Prompt] = field(default_factory=list)

    def summary(self, number: int) -> Summary | None:
        """Return the means of the model at position *number*; ``None`` if it has no samples."""
        samples = [s for prompt in self.prompts for s in prompt.samples[number]]
        if not samples:
            return None
        known = [
            (s.avg_logprob, s.token_count)
            for s in samples
            if s.avg_logprob is not None and s.token_count
        ]
        tokens = sum(count for _, count in known)
        return Summary(
            len(samples),
            sum(s.token_count or 0 for s in samples) / len(samples),
            sum(mean * count for mean, count in known) / tokens if tokens else None,
            sum(s.stop_reason == "length" for s in samples) / len(samples),
        )


def join(
    models: Iterable[Model],
    prompts: Iterable[tuple[int, str, Any]],
    results: Iterable[Mapping[int, ResultRow]],
) -> Comparison:
    """Return the comparison of *models*.

    :param prompts: index, id and prompt of each row.
    :param results: for each model, index of a row → its results.
    """
    tables = list(results)
    return Comparison(
        list(models),
        [
            Prompt(
                id,
                prompt_text(prompt),
                tuple(rows[index].sequences if index in rows else () for rows in tables),
            )
            for index, id, prompt in prompts
        ],
    )


def prompt_text(prompt: Any) -> str:
    """Return a prompt for display: a string, token ids, or messages with their roles."""
    if isinstance(prompt, str):
        return prompt
    if prompt and isinstance(prompt[0], int):
        return f"token ids: {list(prompt)}"
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def differences(reference: str, text: str) -> list[Span]:
    """Divide *text* into spans; mark those that differ from *reference*.

    Texts are compared word by word. Very long texts are not compared.
    """
    before, words = (re.findall(r"\s+|\w+|[^\w\s]", part) for part in (reference, text))
    if len(before) > _MAX_WORDS or len(words) > _MAX_WORDS:
        return [Span(text, differs=False)]
    matcher = difflib.SequenceMatcher(None, before, words, autojunk=False)
    return [
        Span("".join(words[start:end]), tag != "equal")
        for tag, _, _, start, end in matcher.get_opcodes()
        if start < end
    ]
