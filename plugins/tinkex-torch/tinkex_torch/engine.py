"""The engine ``torch``. This module imports PyTorch only when something is computed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
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

Key = TypeVar("Key")
Value = TypeVar("Value")


class TorchEngine(TrainingEngine):
    """Samples and trains with PyTorch; the base model's weights are float32 except on CUDA.

    :param device: a name of PyTorch's; by default the best device of this machine.
    """

    name = "torch"

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self._models: dict[Path, BaseModel] = {}
        self._adapters: dict[tuple[Path, Path], Adapter] = {}
        # OpenMP keeps a team of threads for each thread that has computed. A server has about a
        # hundred threads, so that one thread computes for all of them.
        self._thread = ThreadPoolExecutor(1, "tinkex-torch")

    def serves(self, model: LocalModel) -> bool:
        if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
            return False
        names = ("model.safetensors", "model.safetensors.index.json")
        weights = [_directory(model) / name for name in names]
        return (_directory(model) / "config.json").is_file() and any(map(Path.is_file, weights))

    def sample(
        self, model: LocalModel, spec: SampleSpec, adapter: Path | None = None
    ) -> Generator[None, None, SampleResult]:
        return self._steps(model, self._sample(model, spec, adapter))

    def load(self, model: LocalModel, run: Run, directory: Path, *, optimizer: bool) -> None:
        self._compute(model, lambda: self._load(model, run, directory, optimizer))

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
        return self._steps(model, self._forward(model, run, data, loss_fn, config, backward))

    def optim_step(self, model: LocalModel, run: Run, params: AdamParams) -> dict[str, float]:
        return self._compute(model, lambda: self._runs[run.id].step(params))

    def zero_grad(self, run: Run) -> None:
        self._runs[run.id].gradient = None

    def save(self, model: LocalModel, run: Run, directory: Path, *, optimizer: bool) -> None:
        self._compute(model, lambda: self._runs[run.id].save(directory, optimizer=optimizer))

    def unload(self, run: Run) -> None:
        self._runs.drop(run.id)

    def _compute(self, model: LocalModel, function: Callable[[], Value]) -> Value:
        """Call *function* in the thread that computes.

        :raises OperationError: for errors of PyTorch.
        """
        try:
            self._base(model)  # import and load here, where Ctrl-C interrupts it
            return self._thread.submit(function).result()
        except (ImportError, RuntimeError, MemoryError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            # On the CPU, PyTorch raises RuntimeError for exhausted memory, too.
            if isinstance(error, MemoryError) or "memory" in str(error):
                message = (
                    f"not enough memory for {model.name}: use fewer or shorter examples or samples"
                )
                raise OperationError(f"{message} ({reason})") from error
            raise OperationError(f"the model {model.name} failed: {reason}", "server") from error

    def _steps(
        self, model: LocalModel, work: Generator[None, None, Value]
    ) -> Generator[None, None, Value]:
        """Advance *work* in the thread that computes."""
        result: list[Value] = []

        def advance() -> None:
            try:
                next(work)
            except StopIteration as stop:
                result.append(stop.value)

        while True:
            self._compute(model, advance)
            if result:
                return result[0]
            yield

    def _sample(
        self, model: LocalModel, spec: SampleSpec, directory: Path | None
    ) -> Generator[None, None, SampleResult]:
        from tinkex_local.engines.sampling import stops_at
        from tinkex_torch import sampling

        ended = stops_at(spec, model.facts.eos, _directory(model))
        adapter = self._adapter(model, directory) if directory else None
        reader = sampling.Reader(self._base(model), adapter)
        return (yield from sampling.sample(reader, spec, ended))

    def _load(self, model: LocalModel, run: Run, directory: Path, optimizer: bool) -> None:
        from tinkex_torch.adapter import Adapter
        from tinkex_torch.runs import TrainingState

        base = self._base(model)
        adapter = Adapter.read(directory, base.device)
        base.check(adapter)
        state = TrainingState(adapter)
        if optimizer:
            state.load_optimizer(directory)
        self._runs[run.id] = state

    def _forward(
        self,
        model: LocalModel,
        run: Run,
        data: list[Datum],
        loss_fn: str,
        config: Mapping[str, float],
        backward: bool,
    ) -> Generator[None, None, LossResult]:
        from tinkex_torch import gradients

        outputs: list[dict[str, Any]] = [{} for _ in data]
        loss, total = 0.0, None
        for indices in gradients.batches(data, self._base(model).vocabulary):
            # Fetched in each step: between two steps, other requests may have moved them.
            base, adapter = self._base(model), self._runs[run.id].adapter
            logprobs, part, gradient = gradients.compute(
                base, adapter, data, indices, loss_fn, config, backward=backward
            )
            for index, values in zip(indices, logprobs, strict=True):
                outputs[index] = {"logprobs": values}
            loss += part
            if gradient is not None:
                total = gradient if total is None else total + gradient
            yield
        if total is not None:
            self._runs[run.id].accumulate(total)
        return LossResult(outputs, {"loss:sum": loss})

    @cached_property
    def _runs(self) -> Runs:
        from tinkex_torch.runs import Runs

        return Runs()

    def _base(self, model: LocalModel) -> BaseModel:
        from tinkex_torch.base import BaseModel

        path = _directory(model)
        return _recent(self._models, path, lambda: BaseModel(path, self._device), limit=MODELS)

    def _adapter(self, model: LocalModel, directory: Path) -> Adapter:
        from tinkex_torch.adapter import Adapter

        def read() -> Adapter:
            base = self._base(model)
            adapter = Adapter.read(directory, base.device)
            base.check(adapter)
            return adapter

        return _recent(self._adapters, (_directory(model), directory), read, limit=ADAPTERS)


def _directory(model: LocalModel) -> Path:
    return BUILT_IN.get(model.name, model.directory)


def _recent(
    values: dict[Key, Value], key: Key, create: Callable[[], Value], *, limit: int
) -> Value:
    """Return ``values[key]``, created if missing; keep the *limit* most recently used."""
    value = values.pop(key, None)
    if value is None:
        while len(values) >= limit:
            del values[next(iter(values))]
        value = create()
    values[key] = value
    return value
