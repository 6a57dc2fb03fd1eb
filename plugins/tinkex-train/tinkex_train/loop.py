"""The loop of supervised fine-tuning."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tinkex.api import (
    AdamParams,
    Datum,
    ForwardBackwardResult,
    SavedWeights,
    ServiceClient,
    TrainingClient,
    TrainingFuture,
)
from tinkex.exceptions import (
    InvalidResponse,
    LocalError,
    OperationFailed,
    TinkexError,
    Unreachable,
)
from tinkex_train import learning_rate
from tinkex_train.data import Batches, DataSet
from tinkex_train.log import RunDirectory
from tinkex_train.signals import deferred_signals

#: Steps that are submitted before the result of an earlier one is awaited.
_AHEAD = 1
#: Seconds after which checkpoints other than the last expire, as in the official cookbook.
_TTL = 7 * 24 * 3600
#: Parameters of AdamW, as in the official cookbook.
ADAM = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}


@dataclass(frozen=True)
class Plan:
    """The plan of a training run.

    :ivar learning_rate: the rate at the start of the *schedule*.
    :ivar eval_every: steps between two evaluations; 0: only before the first step and at the end.
    :ivar save_every: steps between two checkpoints; 0: only at the end.
    :ivar name: name of the last checkpoint.
    """

    batches: Batches
    learning_rate: float
    schedule: str
    eval_every: int
    save_every: int
    name: str


@dataclass
class Summary:
    """The outcome of a training run.

    :ivar steps: number of steps done, those of earlier runs included.
    :ivar tokens: number of tokens of this run.
    :ivar losses: mean NLL of each step of this run, before its update.
    :ivar test_nll: mean NLL of the held-out data at the end, in nats per token.
    """

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    test_nll: float | None = None
    state_path: str | None = None
    sampler_path: str | None = None


@dataclass(frozen=True)
class _Step:
    """A submitted step."""

    number: int
    data: Sequence[Datum]
    tokens: int
    trained_tokens: int
    rate: float
    loss: TrainingFuture[ForwardBackwardResult]
    update: TrainingFuture[dict[str, float]]


class Trainer:
    """Trains, evaluates and saves.

    :param held_out: data to evaluate on.
    :param start: the first step, from 0.
    :param on_step: called after each step.
    :param say: called with messages for the user.
    """

    def __init__(
        self,
        client: ServiceClient,
        training: TrainingClient,
        data: DataSet,
        held_out: DataSet | None,
        plan: Plan,
        log: RunDirectory,
        *,
        start: int = 0,
        on_step: Callable[[Summary], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._training = training
        self._data = data
        self._held_out = held_out
        self._plan = plan
        self._log = log
        self._start = start
        self._on_step = on_step
        self._say = say
        self._began = time.monotonic()
        self._pending: deque[_Step] = deque()
        self._submitted = start
        self._saved: int | None = None
        self.summary = Summary(steps=start)

    def run(self) -> Summary:
        """Train to the end, and save.

        If training is interrupted or a file cannot be written, save before raising the exception.

        :raises OperationFailed: the loss is not a number.
        :raises tinkex.exceptions.TinkexError: the service failed.
        """
        try:
            self._train()
            self._save(self._plan.name, is_final=True)
        except (KeyboardInterrupt, SystemExit, LocalError):
            self._save_interrupted()
            raise
        finally:
            self.summary.seconds = round(time.monotonic() - self._began, 3)
        return self.summary

    def _train(self) -> None:
        batches, plan = self._plan.batches, self._plan
        for number, indices in enumerate(batches.starting_at(self._start), self._start):
            tests: dict[str, float] = {}
            if self._is_due(plan.save_every, number) and number > self._start:
                self._finish_pending()
                self._save(f"{number:06d}")
            if self._is_due(plan.eval_every, number) or number == 0:
                self._finish_pending()
                tests = self._evaluate()
            self._submit(number, indices)
            if tests:
                self._finish(tests)
            elif len(self._pending) > _AHEAD:
                self._finish()
        self._finish_pending()
        if tests := self._evaluate():
            self._log.add_metrics({"step": batches.steps, "progress": 1.0, **tests})

    def _is_due(self, every: int, number: int) -> bool:
        return every > 0 and number % every == 0

    def _submit(self, number: int, indices: Sequence[int]) -> None:
        examples = [self._data.examples[i] for i in indices]
        data = [Datum.from_example(example, normalize=True) for example in examples]
        plan = self._plan
        rate = plan.learning_rate * learning_rate.factor(plan.schedule, number, plan.batches.steps)
        with deferred_signals():
            loss = self._training.forward_backward(data)
            update = self._training.optim_step(AdamParams(rate, **ADAM))
            self._submitted += 1
            tokens = sum(len(datum.tokens) for datum in data)
            trained = sum(example.num_trained for example in examples)
            self._pending.append(_Step(number, data, tokens, trained, rate, loss, update))

    def _finish_pending(self) -> None:
        while self._pending:
            self._finish()

    def _finish(self, more: Mapping[str, float] | None = None) -> None:
        """Wait for the oldest step and write its metrics and *more*."""
        step = self._pending[0]
        loss = _mean_nll([step.data], [step.loss.result()])
        updated = step.update.result()
        self._pending.popleft()
        summary, batches = self.summary, self._plan.batches
        if not math.isfinite(loss):
            raise OperationFailed(
                f"the loss in step {step.number} is not finite (NaN or infinity)",
                hint="Lower the learning rate with --learning-rate.",
                category="user",
            )
        summary.steps = step.number + 1
        summary.tokens += step.tokens
        summary.losses.append(loss)
        summary.seconds = time.monotonic() - self._began
        self._on_step(summary)
        self._log.add_metrics(
            {
                "step": step.number,
                "epoch": step.number // batches.per_epoch,
                "progress": step.number / batches.steps,
                "learning_rate": step.rate,
                "num_sequences": len(step.data),
                "num_tokens": step.tokens,
                "num_loss_tokens": step.trained_tokens,
                "train_mean_nll": loss,
                "time/total": round(summary.seconds, 3),
                **updated,
                **(more or {}),
            }
        )

    def _evaluate(self) -> dict[str, float]:
        """Return the metrics of the held-out data, if given."""
        if self._held_out is None:
            return {}
        batches = Batches(len(self._held_out.examples), self._plan.batches.size, 1)
        chunks = [
            [Datum.from_example(self._held_out.examples[i], normalize=True) for i in indices]
            for indices in batches.starting_at(0)
        ]
        results = [future.result() for future in list(map(self._training.forward, chunks))]
        self.summary.test_nll = _mean_nll(chunks, results)
        return {"test/nll": self.summary.test_nll}

    def _save(self, name: str, *, is_final: bool = False) -> None:
        """Save a checkpoint of the steps submitted so far, and record it."""
        per_epoch = self._plan.batches.per_epoch
        ttl = None if is_final else _TTL
        state = self._reach(lambda: self._training.save_state(name, ttl_seconds=ttl))
        self.summary.state_path = state.path
        row: dict[str, Any] = {
            "name": name,
            "epoch": self._submitted // per_epoch,
            "batch": self._submitted % per_epoch,
            "state_path": self.summary.state_path,
        }
        if is_final:
            sampler = self._reach(lambda: self._training.save_weights_for_sampler(name))
            self.summary.sampler_path = sampler.path
            row |= {"final": True, "sampler_path": sampler.path}
        self._saved = self._submitted
        self._log.add_checkpoint(row)

    def _reach(self, save: Callable[[], SavedWeights]) -> SavedWeights:
        """Call *save*, repeatedly while the service cannot be reached, until the timeout."""
        deadline, delay = self._client.deadline("the new checkpoint"), 0.5
        while True:
            try:
                return save()
            except Unreachable as error:  # the request has not arrived
                if not deadline.allows(delay):
                    raise
                deadline.pause(delay, str(error))
                delay = min(2 * delay, 8.0)

    def _save_interrupted(self) -> None:
        """Save the steps since the last checkpoint."""
        if self._submitted == (self._start if self._saved is None else self._saved):
            return
        self._say("Saving a checkpoint. Press Ctrl-C again to stop without saving.")
        try:
            with suppress(LocalError):  # metrics that cannot be written
                self._finish_pending()
            self._save(f"{self._submitted:06d}-interrupted")
        except LocalError as error:
            saved = f"The checkpoint {self.summary.state_path} was saved"
            self._say(f"{saved}, but --resume cannot continue from it: {error}.")
        except TinkexError as error:
            self._say(f"The checkpoint was not saved: {error}.")


def _mean_nll(chunks: Sequence[Sequence[Datum]], results: Sequence[ForwardBackwardResult]) -> float:
    """Return the mean negative log-likelihood of the targets, in nats, by their weights.

    :raises InvalidResponse: a result has neither logprobs nor a loss.
    """
    total = weights = 0.0
    for data, result in zip(chunks, results, strict=True):
        total += sum(_nlls(data, result))
        weights += sum(sum(datum.loss_fn_inputs["weights"]) for datum in data)
    return total / weights


def _nlls(data: Sequence[Datum], result: ForwardBackwardResult) -> Iterator[float]:
    if not all("logprobs" in output for output in result.outputs):
        if "loss:sum" not in result.metrics:
            raise InvalidResponse("unexpected response from the server: no 'logprobs'")
        yield result.metrics["loss:sum"]
        return
    for datum, output in zip(data, result.outputs, strict=True):
        weights, logprobs = datum.loss_fn_inputs["weights"], output["logprobs"]
        if len(weights) != len(logprobs):
            count = f"{len(logprobs)} logprobs for {len(weights)} tokens"
            raise InvalidResponse(f"unexpected response from the server: {count}")
        yield from (-w * lp for w, lp in zip(weights, logprobs, strict=True) if w)
