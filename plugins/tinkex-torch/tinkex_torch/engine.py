"""The engine ``torch``. This module imports PyTorch only when something is computed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tinkex_local.engines import (
    AdamParams,
    Datum,
    LossResult,
    Run,
    SampleResult,
    SampleSpec,
    TrainingEngine,
)
from tinkex_local.problems import OperationError
from tinkex_local.state.models import DEFAULT_MODEL, LocalModel

if TYPE_CHECKING:
    import torch

    from tinkex_torch.adapter import Adapter
    from tinkex_torch.base import BaseModel
    from tinkex_torch.runs import Runs

# Read by OpenMP when PyTorch is imported. By default, threads wait actively for each other, which
# makes every operation many times slower while other processes use the same processors.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

#: Maximum number of base models in memory.
MODELS = 2
#: Maximum number of adapters for sampling in memory.
ADAPTERS = 8
#: Directories of the models that this package contains, by name.
BUILT_IN = {DEFAULT_MODEL: Path(__file__).parent / "models" / "baker-street-2M"}

Value = TypeVar("Value")


class TorchEngine(TrainingEngine):
    """Samples and trains with PyTorch; the base model's weights are float32 except on CUDA."""

    name = "torch"

    def __init__(self) -> None:
        self._models: dict[Path, BaseModel] = {}
        self._adapters: dict[tuple[Path, Path], Adapter] = {}

    def serves(self, model: LocalModel) -> bool:
        """Return whether the model has Hugging Face files."""
        if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
            return False
        directory = _directory(model)
        weights = ("model.safetensors", "model.safetensors.index.json")
        return (directory / "config.json").is_file() and any(
            (directory / name).is_file() for name in weights
        )

    def sample(
        self, model: LocalModel, spec: SampleSpec, adapter: Path | None = None
    ) -> Generator[None, None, SampleResult]:
        """Sample as the base class says."""
        from tinkex_local.engines.sampling import stops_at

        ended = stops_at(spec, model.facts.eos, _directory(model))
        with _failures(model):
            from tinkex_torch import sampling

            base = self._base(model)
            reader = sampling.Reader(base, self._adapter(model, adapter) if adapter else None)
            return (yield from sampling.sample(reader, spec, ended))

    def load(self, model: LocalModel, run: Run, directory: Path, *, optimizer: bool) -> None:
        """Load a run as the base class says."""
        with _failures(model):
            from tinkex_torch.adapter import Adapter
            from tinkex_torch.runs import TrainingState

            base = self._base(model)
            adapter = Adapter.read(directory, base.device)
            base.check(adapter)
            state = TrainingState(adapter)
            if optimizer:
                state.load_optimizer(directory)
            self._runs[run.id] = state

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
        """Compute a loss and its gradients as the base class says."""
        outputs: list[dict[str, Any]] = [{} for _ in data]
        loss, gradient = 0.0, None
        with _failures(model):
            from tinkex_torch import gradients

            for indices in gradients.batches(data, self._base(model).vocabulary):
                # Fetched in each step: between two steps, other requests may have moved them.
                base, adapter = self._base(model), self._runs[run.id].adapter
                part = gradients.compute(
                    base, adapter, data, indices, loss_fn, config, backward=backward
                )
                for index, logprobs in zip(indices, part.logprobs, strict=True):
                    outputs[index] = {"logprobs": logprobs}
                loss += part.loss
                if part.gradient is not None:
                    gradient = part.gradient if gradient is None else gradient + part.gradient
                yield
            if gradient is not None:
                self._runs[run.id].accumulate(gradient)
        return LossResult(outputs, {"loss:sum": loss})

    def optim_step(self, model: LocalModel, run: Run, params: AdamParams) -> dict[str, float]:
        """Update the weights as the base class says."""
        with _failures(model):
            return self._runs[run.id].step(params)

    def zero_grad(self, run: Run) -> None:
        """Discard the gradients of a run."""
        self._runs[run.id].gradient = None

    def save(self, model: LocalModel, run: Run, directory: Path, *, optimizer: bool) -> None:
        """Write a run's files as the base class says."""
        state = self._runs[run.id]
        state.adapter.write(directory)
        if optimizer:
            state.save_optimizer(directory)

    def unload(self, run: Run) -> None:
        """Forget a run."""
        self._runs.drop(run.id)

    @cached_property
    def _runs(self) -> Runs:
        from tinkex_torch.runs import Runs

        return Runs()

    @cached_property
    def _device(self) -> torch.device:
        from tinkex_torch.base import choose_device

        return choose_device()

    def _base(self, model: LocalModel) -> BaseModel:
        from tinkex_torch.base import BaseModel

        directory = _directory(model)
        return _recent(
            self._models, directory, lambda: BaseModel(directory, self._device), limit=MODELS
        )

    def _adapter(self, model: LocalModel, directory: Path) -> Adapter:
        from tinkex_torch.adapter import Adapter

        def read() -> Adapter:
            adapter = Adapter.read(directory, self._device)
            self._base(model).check(adapter)
            return adapter

        return _recent(self._adapters, (_directory(model), directory), read, limit=ADAPTERS)


def _directory(model: LocalModel) -> Path:
    return BUILT_IN.get(model.name, model.directory)


Key = TypeVar("Key")


def _recent(
    values: dict[Key, Value], key: Key, create: Callable[[], Value], *, limit: int
) -> Value:
    """Return ``values[key]``, created if missing; keep the *limit* most recently used."""
    value = values.pop(key, None)
    if value is None:
        value = create()
    values[key] = value
    while len(values) > limit:
        del values[next(iter(values))]
    return value


@contextmanager
def _failures(model: LocalModel) -> Iterator[None]:
    """Raise the errors of PyTorch and transformers as errors that users see."""
    try:
        yield
    except (ImportError, RuntimeError, MemoryError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        # On the CPU, PyTorch raises RuntimeError for exhausted memory, too.
        if isinstance(error, MemoryError) or "memory" in str(error):
            message = f"not enough memory for {model.name}: use fewer or shorter examples"
            raise OperationError(f"{message} ({reason})") from error
        raise OperationError(f"the model {model.name} failed: {reason}", "server") from error
