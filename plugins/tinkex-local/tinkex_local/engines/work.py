"""The computations of polls: sampling requests, and the requests of runs in training."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tinkex_local.engines import AdamParams, Run, TrainingEngine
from tinkex_local.engines.choice import INSTALL, Engines
from tinkex_local.problems import OperationError, Problem
from tinkex_local.state import adapter, checkpoints, operations, runs, sampling, weights
from tinkex_local.state.models import LocalModel
from tinkex_local.state.service import Service
from tinkex_local.wire import batches, protobuf

Row = Any
#: Operations that change gradients or weights; they fail if one before them fails.
STEPS = ("forward_backward", "optim_step")


@dataclass(frozen=True)
class Outcome:
    """The result of a computation, not yet recorded.

    :ivar result: returns the result within the transaction that records it.
    :ivar data: arrays of the result.
    :ivar is_repeatable: whether the computation can be repeated; if not, an engine has changed the
        state of a run.
    :ivar clean_up: called after the transaction; its argument is whether that succeeded.
    """

    result: Callable[[], dict[str, Any]]
    data: bytes | None = None
    is_repeatable: bool = True
    clean_up: Callable[[bool], None] = lambda succeeded: None


Work = Generator[None, None, Outcome]


class Worker:
    """Computes requests with engines, and knows which runs the engines have loaded."""

    def __init__(self, service: Service, engines: Engines) -> None:
        self.engines = engines
        self._service = service
        #: Run → its engine, and the files it was loaded from.
        self._loaded: dict[str, tuple[Run, TrainingEngine, str | None]] = {}

    def start(self, row: dict[str, Any]) -> Work:
        """Return a generator that computes a request, a step at a time.

        It raises :exc:`OperationError` if the request fails.
        """
        if row["kind"] == "sample":
            return self._sample(row)
        if row["kind"] == "optim_step":
            return self._optim_step(row)
        if row["kind"] in ("forward", "forward_backward"):
            return self._forward(row)
        return self._save_or_load(row)

    def discard_gradients(self, scope: str) -> None:
        """Discard the gradients of a run after a failure, so that no step uses a part of them."""
        for run, engine, _ in self._loaded.values():
            if runs.scope_of(run.id) == scope:
                engine.zero_grad(run)

    def _sample(self, row: Row) -> Work:
        payload = row["payload"]
        model = self._model(payload["base_model"])
        directory = sampling.directory_of(self._service, payload["checkpoint_id"])
        spec, engine = sampling.spec_from(payload), self.engines.engine(model)
        if directory is None:
            result = yield from engine.sample(model, spec)
        elif isinstance(engine, TrainingEngine):
            result = yield from engine.sample(model, spec, directory)
        else:
            raise OperationError(
                f"The engine {engine.name} cannot apply this checkpoint's adapter. If the model "
                f"has the file model.safetensors, install an engine that can: {INSTALL}"
            )
        return Outcome(lambda: {"type": "sample", **asdict(result)})

    def _forward(self, row: Row) -> Work:
        run, model, engine = self._ready(row)
        payload = row["payload"]
        raw = operations.arrays(self._service, row["request_id"]) or b""
        body = batches.Encoded(payload["endpoint"], raw, payload["is_protobuf"])
        try:
            batch = body.decoded()
            data, config = batches.checked(batch, model.facts, engine.losses)
        except Problem as problem:  # the model was replaced
            raise OperationError(str(problem.detail)) from problem
        result = yield from engine.forward(
            model, run, data, batch.loss_fn, config, backward=batch.backward
        )
        metrics = {name: float(value) for name, value in result.metrics.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise OperationError(f"The metric {name} is {value}, not a finite number")
        arrays = protobuf.forward_backward_output(result.outputs, metrics)
        outcome = {"type": row["kind"], "metrics": metrics}
        if not batch.backward:
            return Outcome(lambda: outcome, arrays)
        return Outcome(partial(self._held, run, outcome), arrays, is_repeatable=False)

    def _optim_step(self, row: Row) -> Work:
        run, model, engine = self._ready(row)
        yield
        metrics = engine.optim_step(model, run, AdamParams(**row["payload"]["params"]))
        outcome = {"type": "optim_step", "metrics": metrics}
        return Outcome(partial(self._held, run, outcome), is_repeatable=False)

    def _save_or_load(self, row: Row) -> Work:
        kind = row["kind"]
        body = weights.body_of(kind, row["payload"])
        write = None
        if kind != "load_weights" and self._row(row)["holder"] is not None:
            run, model, engine = self._ready(row)
            write = partial(engine.save, model, run, optimizer=kind == "save_weights")
        yield
        try:
            plan = weights.plan(self._service, kind, body, write)
        except Problem as problem:
            raise OperationError(str(problem.detail)) from problem
        staged = checkpoints.stage(self._service, plan.write)

        def clean_up(succeeded: bool) -> None:
            shutil.rmtree(staged, ignore_errors=True)
            if succeeded:
                checkpoints.discard(self._service, plan.replaced)

        return Outcome(lambda: {"type": kind, **plan.action(staged)}, clean_up=clean_up)

    def _held(self, run: Run, outcome: dict[str, Any]) -> dict[str, Any]:
        runs.hold(self._service, run.id)
        return outcome

    def _model(self, name: str) -> LocalModel:
        model = self._service.models.find(name)
        if model is None:
            raise OperationError(f"The model {name} was removed")
        return model

    def _row(self, row: Row) -> Row:
        try:
            return runs.usable_here(self._service, runs.id_of(row["scope"]))
        except Problem as problem:
            raise OperationError(str(problem.detail)) from problem

    def _ready(self, row: Row) -> tuple[Run, LocalModel, TrainingEngine]:
        """Return the run of a request with its current state loaded into its engine."""
        found = self._row(row)
        model = self._model(found["base_model"])
        run = Run(found["id"], runs.spec_of(found))
        known = self._loaded.get(run.id)
        if known is not None and (found["holder"] is not None or known[2] == found["weights"]):
            return run, model, known[1]
        self._unload_ended()
        try:
            engine = self.engines.require_trainer(model)
        except Problem as problem:
            raise OperationError(str(problem.detail)) from problem
        if found["holder"] is not None:
            raise OperationError(
                f"The state of training run {run.id!r} was discarded when the session ended"
            )
        with contextlib.ExitStack() as stack:
            if found["weights"] is not None:
                directory = self._service.checkpoints / found["weights"]
            else:
                temporary = tempfile.TemporaryDirectory(prefix="tinkex-local-")
                directory = Path(stack.enter_context(temporary))
                adapter.write(directory, run.spec, model.facts)
            optimizer = (directory / adapter.OPTIMIZER).exists()
            engine.load(model, run, directory, optimizer=optimizer)
        self._loaded[run.id] = (run, engine, found["weights"])
        return run, model, engine

    def _unload_ended(self) -> None:
        """Unload the runs that were unloaded or deleted, or whose session was finished."""
        query = (
            "SELECT 1 FROM runs JOIN sessions ON sessions.id = runs.session_id "
            "WHERE runs.id = ? AND unloaded IS NULL AND sessions.finished IS NULL"
        )
        for name, (run, engine, _) in list(self._loaded.items()):
            if self._service.store.scalar(query, name) is None:
                engine.unload(run)
                del self._loaded[name]
