"""The interface of engines, which sample and train (entry-point group ``tinkex_local.engines``)."""

from __future__ import annotations

import abc
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tinkex_local.state.adapter import AdapterSpec
from tinkex_local.state.models import LocalModel

if TYPE_CHECKING:  # numpy is imported by engines only
    from numpy.typing import NDArray

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
    :ivar topk_sample_logprobs: number of alternatives to return for each sampled token.
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
    topk_sample_logprobs: int = 0


@dataclass(frozen=True)
class Sequence:
    """A sampled continuation of a prompt.

    :ivar logprobs: natural logarithm of each token's probability, at temperature 1, before top-k
        and top-p.
    :ivar stop_reason: ``stop`` or ``length``.
    :ivar topk_logprobs: for each token, the most likely tokens and their logprobs in descending
        order; ``None`` if they were not requested.
    """

    tokens: list[int]
    logprobs: list[float]
    stop_reason: str
    topk_logprobs: list[list[tuple[int, float]]] | None = None


@dataclass(frozen=True)
class SampleResult:
    """The result of a :class:`SampleSpec`; prompt tokens that were not scored are ``None``."""

    sequences: list[Sequence]
    prompt_logprobs: list[float | None] | None = None
    topk_prompt_logprobs: list[list[tuple[int, float]] | None] | None = None


@dataclass(frozen=True)
class Loss:
    """A loss function of the protocol.

    :ivar inputs: names of the required arrays besides ``target_tokens``.
    :ivar config: the keys of ``loss_fn_config`` and their default values.
    """

    inputs: tuple[str, ...]
    config: Mapping[str, float] = field(default_factory=dict)


_RATIO = ("logprobs", "advantages")
_CLIP = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
#: The loss functions by name, with the inputs and defaults that Tinker documents. All are sums over
#: tokens and examples, without any mean.
LOSSES: Mapping[str, Loss] = {
    "cross_entropy": Loss(("weights",)),
    "importance_sampling": Loss(_RATIO),
    "ppo": Loss(_RATIO, _CLIP),
    "cispo": Loss(_RATIO, _CLIP),
    "dro": Loss(_RATIO, {"beta": 0.05}),
}


@dataclass(frozen=True)
class Datum:
    """A training example; the service has checked shapes, lengths and the vocabulary.

    :ivar tokens: the model's input, int64, shape (N,), at least one token.
    :ivar inputs: the loss's arrays by name: ``target_tokens`` is int64, the others are float32.
        All have shape (N,); with ``cross_entropy``, all may have shape (N, K). The target of
        position *i* is what the model predicts after ``tokens[i]``.
    """

    tokens: NDArray[Any]
    inputs: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LossResult:
    """The result of a forward pass.

    :ivar outputs: for each example, in order, ``{"logprobs": …}``: float32, the shape of its
        ``target_tokens``, under the weights before any update.
    :ivar metrics: ``loss:sum``, and others named ``<name>:<reduction>``; all finite.
    """

    outputs: list[dict[str, NDArray[Any]]]
    metrics: dict[str, float]


@dataclass(frozen=True)
class AdamParams:
    """The parameters of one AdamW step; ``grad_clip_norm`` 0 disables clipping."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@dataclass(frozen=True)
class Run:
    """A training run: its id and the parameters of its adapter."""

    id: str
    spec: AdapterSpec


class Engine(abc.ABC):
    """The base class of engines, which run models; created once per process, without arguments."""

    #: The name of its entry point.
    name: ClassVar[str]

    @abc.abstractmethod
    def serves(self, model: LocalModel) -> bool:
        """Return whether this engine can run *model*, from its files and the installed libraries.

        Called for lists of models, so it imports nothing heavy.
        """

    @abc.abstractmethod
    def sample(self, model: LocalModel, spec: SampleSpec) -> Generator[None, None, SampleResult]:
        """Return a generator that yields after each step and finally returns the result.

        Steps of several generators may alternate, but never run concurrently. The service may
        close a generator and start the same work again later.

        :raises OperationError: the model cannot be run, or not for this request.
        """


class TrainingEngine(Engine):
    """An engine that also trains adapters and samples with them.

    It keeps the runs that it has loaded: weights, gradients and optimizer state. It may move them
    to temporary files of its own, but never forgets one before :meth:`unload`. All calls come from
    one thread at a time; other calls may come between two steps of a generator, but none for the
    same run. Every method raises :exc:`OperationError` for failures that users should see, such as
    exhausted memory, and then leaves weights and optimizer state as they were.
    """

    #: The names in :data:`LOSSES` that it computes.
    losses: ClassVar[frozenset[str]] = frozenset(LOSSES)

    @abc.abstractmethod
    def sample(
        self, model: LocalModel, spec: SampleSpec, adapter: Path | None = None
    ) -> Generator[None, None, SampleResult]:
        """Sample as :meth:`Engine.sample` does, with an adapter if one is given.

        :param adapter: directory of a checkpoint, whose content never changes.
        """

    @abc.abstractmethod
    def load(self, model: LocalModel, run: Run, directory: Path, *, optimizer: bool) -> None:
        """Set weights and optimizer state of a run; the first call for it, or a later one.

        Gradients are discarded.

        :param directory: files that :meth:`save` or the service wrote for the same parameters; the
            service writes those of a new adapter, so engines need no random numbers.
        :param optimizer: load ``optimizer.safetensors`` too; otherwise the optimizer starts fresh.
        """

    @abc.abstractmethod
    def forward(
        self,
        model: LocalModel,
        run: Run,
        data: list[Datum],
        loss_fn: str,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> Generator[None, None, LossResult]:
        """Return a generator that computes a loss, yields after each step and returns the result.

        Gradients are added to those of earlier calls only at the end: a generator that is closed or
        fails has added nothing. A loss that is not finite is a failure.

        :param loss_fn: one of :attr:`losses`.
        :param config: a value for every key of the loss.
        :param backward: whether to add gradients.
        """

    @abc.abstractmethod
    def optim_step(self, model: LocalModel, run: Run, params: AdamParams) -> dict[str, float]:
        """Update the weights with AdamW, and discard the gradients, even in case of failure.

        Without gradients, nothing changes. Gradients that are not finite are a failure.

        :returns: metrics named ``<name>:<reduction>``, such as ``unclipped_grad_l2:mean``.
        """

    @abc.abstractmethod
    def zero_grad(self, run: Run) -> None:
        """Discard the gradients of a run."""

    @abc.abstractmethod
    def save(self, model: LocalModel, run: Run, directory: Path, *, optimizer: bool) -> None:
        """Write a run's ``adapter_model.safetensors`` and ``adapter_config.json``.

        Names and configuration as :func:`tinkex_local.state.adapter.write` writes them.

        :param directory: an existing, empty directory.
        :param optimizer: write ``optimizer.safetensors`` too.
        :raises OSError: a file cannot be written.
        """

    @abc.abstractmethod
    def unload(self, run: Run) -> None:
        """Forget a run; one that is not loaded is ignored."""
