"""The interface of engines, which compute samples (entry-point group ``tinkex_local.engines``)."""

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
    """A validated sampling request with all parameters.

    :ivar max_tokens: maximum number of tokens of a sequence; with the prompt, it fits into the
        context.
    :ivar temperature: 0 always selects the most likely token.
    :ivar top_k: sample from this number of most likely tokens; 0 for all.
    :ivar seed: sequence *i* depends only on the seed and *i*.
    :ivar prompt_logprobs: number of tokens at the end of the prompt to score; 0 for none.
    :ivar topk_prompt_logprobs: number of alternatives to return for each scored token.
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
    """A sampled continuation of a prompt.

    :ivar logprobs: natural logarithm of each token's probability, at temperature 1, before top-k
        and top-p.
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
    """The base class of engines, which run models; created once per process, without arguments."""

    #: The name of its entry point.
    name: ClassVar[str]

    @abc.abstractmethod
    def sample(self, model: LocalModel, spec: SampleSpec) -> Generator[None, None, SampleResult]:
        """Return a generator that yields after each step and finally returns the result.

        Steps of several generators may alternate, but never run concurrently.

        :raises OperationError: the model cannot be run, or not for this request.
        """
