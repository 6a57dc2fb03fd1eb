"""An engine that trains in numpy: the next token depends on the last one alone.

The logits after token *t* are ``B (A e(t)) * alpha / r`` with the factors of ``lm_head`` and a fixed
vector *e(t)*, so a new adapter predicts every token alike. It keeps to the interface of engines and
does real arithmetic, for tests of everything around an engine without torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tinkex_local.engines import (
    AdamParams,
    Datum,
    LossResult,
    Run,
    SampleResult,
    SampleSpec,
    Sequence,
    TrainingEngine,
)
from tinkex_local.problems import OperationError
from tinkex_local.state import adapter
from tinkex_local.state.models import DEFAULT_MODEL, LocalModel

HEAD = "base_model.model.lm_head"
A, B = f"{HEAD}.lora_A.weight", f"{HEAD}.lora_B.weight"
Arrays = dict[str, NDArray[Any]]


class _Run:
    """A loaded run: its tensors, gradients, moments and number of steps."""

    def __init__(self, tensors: Arrays, moments: Arrays, config: str) -> None:
        self.tensors, self.moments, self.config = tensors, moments, config
        self.gradients: Arrays = {}


class BigramEngine(TrainingEngine):
    """Trains runs of the built-in model.

    :ivar calls: the names of the methods called, with the id of the run.
    :ivar on: method name → called before it does anything; may raise.
    """

    name = "bigram"
    losses = frozenset({"cross_entropy", "importance_sampling"})

    def __init__(self) -> None:
        self.runs: dict[str, _Run] = {}
        self.calls: list[tuple[str, str]] = []
        self.on: dict[str, Callable[[], None]] = {}

    def serves(self, model: LocalModel) -> bool:
        return model.name == DEFAULT_MODEL

    def load(self, model: LocalModel, run: Run, directory: Path, *, optimizer: bool) -> None:
        self._called("load", run)
        moments = load_file(directory / adapter.OPTIMIZER) if optimizer else {}
        config = (directory / adapter.CONFIG).read_text()
        self.runs[run.id] = _Run(load_file(directory / adapter.TENSORS), moments, config)

    def save(self, model: LocalModel, run: Run, directory: Path, *, optimizer: bool) -> None:
        self._called("save", run)
        held = self.runs[run.id]
        (directory / adapter.CONFIG).write_text(held.config)
        try:
            save_file(held.tensors, directory / adapter.TENSORS)
            if optimizer:
                save_file(held.moments or {"step": np.zeros(1)}, directory / adapter.OPTIMIZER)
        except SafetensorError as error:
            raise OSError(str(error)) from error

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
        self._called(f"forward {'backward' if backward else 'only'}", run)
        held = self.runs[run.id]
        total, outputs = 0.0, []
        added = {name: np.zeros_like(held.tensors[name], np.float64) for name in (A, B)}
        for datum in data:
            yield
            rows = _Rows(held.tensors, datum.tokens)
            targets = datum.inputs["target_tokens"].reshape(len(datum.tokens), -1)
            logprobs = np.take_along_axis(rows.logprobs, targets, 1)
            if loss_fn == "cross_entropy":
                slope = -datum.inputs["weights"].reshape(targets.shape).astype(np.float64)
                total += float((slope * logprobs).sum())
            else:
                with np.errstate(over="ignore"):
                    ratio = np.exp(logprobs - datum.inputs["logprobs"].reshape(targets.shape))
                slope = -ratio * datum.inputs["advantages"].reshape(targets.shape)
                total += float(slope.sum())
            for name, value in rows.gradients(targets, slope).items():
                added[name] += value
            shape = datum.inputs["target_tokens"].shape
            outputs.append({"logprobs": logprobs.reshape(shape).astype(np.float32)})
        if backward:
            for name, value in added.items():
                held.gradients[name] = held.gradients.get(name, 0) + value
        return LossResult(outputs, {"loss:sum": total})

    def optim_step(self, model: LocalModel, run: Run, params: AdamParams) -> dict[str, float]:
        self._called("optim_step", run)
        held = self.runs[run.id]
        gradients, held.gradients = held.gradients, {}
        if not gradients:
            return {}
        norm = float(np.sqrt(sum((g**2).sum() for g in gradients.values())))
        if not np.isfinite(norm):
            raise OperationError("The gradients are not finite")
        factor = min(1.0, params.grad_clip_norm / (norm + 1e-6)) if params.grad_clip_norm else 1.0
        step = held.moments.get("step", np.zeros(1)) + 1
        held.moments["step"] = step
        for name, gradient in gradients.items():
            value = held.tensors[name].astype(np.float64)
            value *= 1 - params.learning_rate * params.weight_decay
            moments = []
            for key, beta, power in (("m", params.beta1, 1), ("v", params.beta2, 2)):
                before = held.moments.get(f"{name}.{key}", np.zeros_like(gradient))
                after = beta * before + (1 - beta) * (factor * gradient) ** power
                held.moments[f"{name}.{key}"] = after
                moments.append(after / (1 - beta ** step[0]))
            value -= params.learning_rate * moments[0] / (np.sqrt(moments[1]) + params.eps)
            held.tensors[name] = value.astype(np.float32)
        return {"unclipped_grad_l2:mean": norm}

    def zero_grad(self, run: Run) -> None:
        self._called("zero_grad", run)
        self.runs[run.id].gradients = {}

    def unload(self, run: Run) -> None:
        self._called("unload", run)
        self.runs.pop(run.id, None)

    def sample(
        self, model: LocalModel, spec: SampleSpec, adapter: Path | None = None
    ) -> Generator[None, None, SampleResult]:
        size = model.facts.vocabulary
        zeros = {A: np.zeros((1, model.facts.hidden)), B: np.zeros((size, 1))}
        tensors = zeros if adapter is None else load_file(adapter / "adapter_model.safetensors")
        sequences = []
        for index in range(spec.num_samples):
            draw = np.random.default_rng([spec.seed % 2**63, index])
            tokens, logprobs = [spec.tokens[-1]], []
            while len(tokens) <= spec.max_tokens:
                yield
                row = _Rows(tensors, np.array(tokens[-1:])).logprobs[0]
                weights = np.exp(row) / np.exp(row).sum()
                token = int(row.argmax() if spec.temperature == 0 else draw.choice(size, p=weights))
                tokens.append(token)
                logprobs.append(float(row[token]))
            sequences.append(Sequence(tokens[1:], logprobs, "length"))
        return SampleResult(sequences)

    def _called(self, name: str, run: Run) -> None:
        self.calls.append((name, run.id))
        self.on.get(name.partition(" ")[0], lambda: None)()


class _Rows:
    """The log-probabilities after each of some tokens, and the gradients of the factors."""

    def __init__(self, tensors: Arrays, tokens: NDArray[Any]) -> None:
        self._first = tensors[A].astype(np.float64)
        self._second = tensors[B].astype(np.float64)
        self._scale = adapter.ALPHA / len(self._first)
        width = self._first.shape[1]
        self._inputs = np.cos(np.outer(tokens + 1, np.arange(1, width + 1)))
        self._inner = self._inputs @ self._first.T
        logits = self._scale * self._inner @ self._second.T
        logits -= logits.max(axis=1, keepdims=True)
        self.logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def gradients(self, targets: NDArray[Any], slope: NDArray[Any]) -> Arrays:
        """Return the gradients, for the derivatives *slope* of the loss by the targets' logprobs."""
        if not np.isfinite(slope).all():
            return {}
        logits = -np.exp(self.logprobs) * slope.sum(axis=1, keepdims=True)
        for column in range(targets.shape[1]):
            logits[np.arange(len(targets)), targets[:, column]] += slope[:, column]
        logits *= self._scale
        return {A: (logits @ self._second).T @ self._inputs, B: logits.T @ self._inner}


def loss_body(
    model_id: str, seq_id: int, data: list[dict[str, Any]] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return the JSON body of ``forward_backward``; *data* is by default one example."""
    given = {"data": data or [example([5, 6, 7])], "loss_fn": "cross_entropy", **changes}
    body = {"model_id": model_id, "seq_id": seq_id, "forward_backward_input": given}
    return json.loads(json.dumps(body))  # type: ignore[no-any-return]


def example(tokens: list[int], **inputs: list[float]) -> dict[str, Any]:
    """Return an example that predicts each of *tokens* from the one before it."""
    count = len(tokens) - 1
    arrays = {"target_tokens": tokens[1:], "weights": [1.0] * count, **inputs}
    return {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": tokens[:-1]}]},
        "loss_fn_inputs": {
            name: {
                "data": values,
                "dtype": "int64" if name == "target_tokens" else "float32",
                "shape": [count],
            }
            for name, values in arrays.items()
        },
    }
