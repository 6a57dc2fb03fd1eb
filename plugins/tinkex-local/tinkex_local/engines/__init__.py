"""What computes: drivers of the entry-point group ``tinkex_local.engines``."""

from __future__ import annotations

import abc
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from tinkex_local.state.models import LocalModel

GROUP = "tinkex_local.engines"
DEFAULT = "onnx"


@dataclass(frozen=True)
class SampleSpec:
    """One sampling request, checked and complete.

    :ivar max_tokens: most tokens of one sequence; together with the prompt within the context.
    :ivar temperature: 0 takes the likeliest token each time.
    :ivar top_k: how many of the likeliest tokens may be drawn; 0 means all.
    :ivar seed: sequence *i* depends on it and on *i* alone.
    :ivar prompt_logprobs: how many of the last prompt tokens to score; 0 means none.
    :ivar topk_prompt_logprobs: how many alternatives to give for each of them.
    """

    tokens: tuple[int, ...]
    num_samples: int
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop_strings: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    prompt_logprobs: int = 0
    topk_prompt_logprobs: int = 0


@dataclass(frozen=True)
class Sequence:
    """One continuation.

    :ivar logprobs: of each token under the model itself: natural logarithm, temperature 1,
        before top-k and top-p.
    :ivar stop_reason: ``stop`` or ``length``.
    """

    tokens: list[int]
    logprobs: list[float]
    stop_reason: str


@dataclass(frozen=True)
class SampleResult:
    """The result of a :class:`SampleSpec`; prompt tokens that were not scored are ``None``."""

    sequences: list[Sequence]
    prompt_logprobs: list[float | None] | None = None
    topk_prompt_logprobs: list[list[tuple[int, float]] | None] | None = None


class Engine(abc.ABC):
    """A way to run models; created once in a process, without arguments."""

    #: As in the entry point.
    name: ClassVar[str]

    @abc.abstractmethod
    def sample(self, model: LocalModel, spec: SampleSpec) -> Generator[None, None, SampleResult]:
        """Return a generator that yields after every small step and returns the result.

        Steps of several generators are never run at the same time, but may alternate.

        :raises OperationError: the model cannot be run, or not on this request.
        """
