"""Saving a run's adapter as a checkpoint, and loading and copying checkpoints."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tinkex_local.problems import OperationError, bad_request
from tinkex_local.state import adapter, checkpoints, operations, paths, runs, sampling, sessions
from tinkex_local.state.paths import TinkerPath
from tinkex_local.state.service import Service
from tinkex_local.state.store import from_json
from tinkex_local.wire import bodies

_Write = Callable[[Path], None]
_Action = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """A request that saves a run or loads into it.

    :ivar run: the row of the run.
    :ivar write: writes the files into a directory.
    :ivar action: returns the result, within the transaction that records it; its argument is the
        directory.
    :ivar replaced: internal ids of files to remove after that transaction.
    """

    kind: str
    body: bodies.Save | bodies.LoadWeights
    run: sqlite3.Row
    write: _Write
    action: _Action
    replaced: list[str] = field(default_factory=list)


def save(service: Service, body: bodies.SaveWeights) -> dict[str, Any]:
    """Save a run as a training checkpoint.

    :raises Problem: the run does not exist, or the sequence number does not fit.
    """
    return _submit(service, "save_weights", body)


def save_external(service: Service, body: bodies.SaveWeightsExternal) -> dict[str, Any]:
    """Save a run as files for download from signed URLs.

    :raises Problem: encryption is requested, or see :func:`save`.
    """
    if body.age_encryption_recipients:
        raise bad_request("This service does not encrypt exports")
    return _submit(service, "save_weights_external", body)


def save_for_sampler(service: Service, body: bodies.SaveWeightsForSampler) -> dict[str, Any]:
    """Save a run for sampling, either under a name or for a new sampling session.

    :raises Problem: neither or both are requested, or see :func:`save`.
    """
    if (body.path is None) == (body.sampling_session_seq_id is None):
        raise bad_request("Specify either path or sampling_session_seq_id")
    return _submit(service, "save_weights_for_sampler", body)


def plan(
    service: Service,
    kind: str,
    body: bodies.Save | bodies.LoadWeights,
    write: _Write | None = None,
) -> Plan:
    """Return how to perform a request.

    :param write: writes the current state of a trained run.
    :raises Problem: the run does not exist, or a checkpoint to load.
    """
    if isinstance(body, bodies.LoadWeights):
        return _plan_of_load(service, body)
    row = runs.usable(service, body.model_id)
    kept = kind == "save_weights"  # only training checkpoints have the optimizer's state
    if write is None and row["weights"] is not None:
        write = partial(_copy, service.checkpoints / row["weights"], optimizer=kept)
    elif write is None:
        facts = service.facts(row["base_model"])
        write = partial(adapter.write, spec=runs.spec_of(row), facts=facts)
    if isinstance(body, bodies.SaveWeightsForSampler) and body.path is None:
        return Plan(kind, body, row, write, _adopt_unnamed(service, body, row))
    target = TinkerPath(body.model_id, _KINDS[kind], body.path or _unnamed())
    overwrite = isinstance(body, bodies.SaveWeights) and body.overwrite
    replaced: list[str] = []

    def action(staged: Path) -> dict[str, Any]:
        replaced.extend(checkpoints.make_room(service, target, overwrite=overwrite))
        _, size = checkpoints.adopt(
            service, staged, target, ttl=body.ttl_seconds, user_metadata=body.user_metadata
        )
        return {"path": str(target), "size_bytes": size}

    return Plan(kind, body, row, write, action, replaced)


_KINDS = {
    "save_weights": paths.TRAINING,
    "save_weights_for_sampler": paths.SAMPLER,
    "save_weights_external": paths.EXTERNAL,
}
#: Operation → its body.
_BODIES: dict[str, type[bodies.Save] | type[bodies.LoadWeights]] = {
    "save_weights": bodies.SaveWeights,
    "save_weights_for_sampler": bodies.SaveWeightsForSampler,
    "save_weights_external": bodies.SaveWeightsExternal,
    "load_weights": bodies.LoadWeights,
}


def body_of(kind: str, payload: dict[str, Any]) -> bodies.Save | bodies.LoadWeights:
    """Return the body that the payload of a queued request contains."""
    return msgspec.convert(payload["body"], _BODIES[kind])


def _adopt_unnamed(
    service: Service, body: bodies.SaveWeightsForSampler, row: sqlite3.Row
) -> _Action:
    target = TinkerPath(body.model_id, paths.SAMPLER, _unnamed())

    def action(staged: Path) -> dict[str, Any]:
        number = body.sampling_session_seq_id or 0
        sampler_id = sampling.sampler_id_of(row["session_id"], number)
        if service.store.scalar("SELECT 1 FROM samplers WHERE id = ?", sampler_id):
            raise OperationError(f"The sampling session {sampler_id!r} already exists")
        identifier, size = checkpoints.adopt(
            service,
            staged,
            target,
            ttl=body.ttl_seconds,
            user_metadata=body.user_metadata,
            listed=False,
        )
        sampling.insert_sampler(
            service, row["session_id"], number, body.digest(), row["base_model"], identifier
        )
        return {"path": None, "sampling_session_id": sampler_id, "size_bytes": size}

    return action


def load(service: Service, body: bodies.LoadWeights) -> dict[str, Any]:
    """Load a training checkpoint into a run, or into a new run of a session.

    :raises Problem: the checkpoint or the run does not exist, or they do not match.
    """
    path = paths.parse(body.path)
    if path.kind != paths.TRAINING:
        raise bad_request(
            f"{path} is not a training checkpoint; only …/{paths.TRAINING}/… paths can be loaded"
        )
    if body.model_id is not None and body.session_id is None and body.model_seq_id is None:
        return _load_into(service, body, path)
    if body.model_id is None and body.session_id is not None and body.model_seq_id is not None:
        return _create_from(service, body, path)
    raise bad_request("Specify either model_id, or session_id and model_seq_id")


def _load_into(service: Service, body: bodies.LoadWeights, path: TinkerPath) -> dict[str, Any]:
    model_id = body.model_id or ""
    row = runs.usable(service, model_id)
    before = operations.earlier(service, runs.scope_of(model_id), body.seq_id, body)
    if before is not None:
        return {"request_id": before, "model_id": model_id}
    source, spec = runs.spec_of(_source(service, body, path)), runs.spec_of(row)
    same = ("base_model", "rank", "target_modules")
    if any(getattr(source, name) != getattr(spec, name) for name in same):
        raise bad_request(
            f"{path} does not match the model {model_id}: the base model, rank and trained modules "
            "must be the same"
        )
    return _submit(service, "load_weights", body)


def _plan_of_load(service: Service, body: bodies.LoadWeights) -> Plan:
    model_id, path = body.model_id or "", paths.parse(body.path)
    replaced: list[str] = []

    def action(staged: Path) -> dict[str, Any]:
        identifier, _ = checkpoints.take(service, staged)
        # Checked here, because of concurrent loads.
        replaced.extend(filter(None, [service.find("training run", model_id)["weights"]]))
        service.store.write(
            "UPDATE runs SET weights = ?, holder = NULL WHERE id = ?", identifier, model_id
        )
        return {"path": str(path), "model_id": model_id}

    row, write = runs.usable(service, model_id), _copier(service, path, body.optimizer)
    return Plan("load_weights", body, row, write, action, replaced)


def _create_from(service: Service, body: bodies.LoadWeights, path: TinkerPath) -> dict[str, Any]:
    session_id, number = body.session_id or "", body.model_seq_id or 0
    scope, run_id = runs.models_of(session_id), runs.run_id_of(session_id, number)
    before = operations.earlier(service, scope, number, body)
    if before is not None:
        return {"request_id": before, "model_id": run_id}
    sessions.require_open(service, session_id)
    spec = runs.spec_of(_source(service, body, path))

    def action(staged: Path) -> dict[str, Any]:
        sessions.require_open(service, session_id)
        identifier, _ = checkpoints.take(service, staged)
        runs.insert(service, run_id, session_id, spec, body.user_metadata, weights=identifier)
        return {"path": str(path), "model_id": run_id}

    write = _copier(service, path, body.optimizer)
    request_id = _perform_with_files(service, "load_weights", scope, number, body, write, action)
    return {"request_id": request_id, "model_id": run_id}


def _source(service: Service, body: bodies.LoadWeights, path: TinkerPath) -> sqlite3.Row:
    checkpoints.find(service, path)
    source = service.find("training run", path.run_id)
    if body.base_model not in (None, source["base_model"]):
        raise bad_request(
            f"The base model of {path} is {source['base_model']}, not {body.base_model}"
        )
    return source


def _copier(service: Service, path: TinkerPath, optimizer: bool) -> _Write:
    source = service.checkpoints / checkpoints.find(service, path)["id"]

    def write(target: Path) -> None:
        # An adapter without effect was never trained: its optimizer starts fresh in any case.
        has_state = (source / adapter.OPTIMIZER).exists() or adapter.is_identity(source)
        if optimizer and not has_state:
            raise OperationError(
                f"{path} has no optimizer state; load it with optimizer set to false"
            )
        _copy(source, target, optimizer=optimizer)

    return write


def _copy(source: Path, target: Path, *, optimizer: bool) -> None:
    for file in source.iterdir():
        if optimizer or file.name != adapter.OPTIMIZER:
            shutil.copyfile(file, target / file.name)


def copy(service: Service, body: bodies.CopyWeights) -> dict[str, Any]:
    """Copy a checkpoint into a new run of a session; a repeated request makes no second copy.

    :raises Problem: the original or the session does not exist, another request used the number, or
        a project is given, which this service does not support.
    """
    if body.destination_project_id is not None:
        raise bad_request("This service does not support projects; omit destination_project_id")
    if body.session_id is None or body.model_seq_id is None:
        raise bad_request("Specify session_id and model_seq_id")
    source = paths.parse(body.source_path)
    session_id, number = body.session_id, body.model_seq_id
    run_id = runs.run_id_of(session_id, number)
    target = TinkerPath(run_id, source.kind, source.name)
    scope = runs.models_of(session_id)
    if operations.earlier(service, scope, number, body) is None:
        sessions.require_open(service, session_id)
        row = checkpoints.find(service, source)
        spec = runs.spec_of(service.find("training run", source.run_id))

        def action(staged: Path) -> dict[str, Any]:
            sessions.require_open(service, session_id)
            runs.insert(service, run_id, session_id, spec, None)
            runs.end(service, run_id)  # it cannot be saved any more
            checkpoints.adopt(
                service,
                staged,
                target,
                ttl=body.ttl_seconds,
                user_metadata=from_json(row["user_metadata"]),
            )
            return {"tinker_path": str(target)}

        write = partial(_copy, service.checkpoints / row["id"], optimizer=True)
        _perform_with_files(service, "copy_weights", scope, number, body, write, action)
    return {"tinker_path": str(target)}


def _submit(service: Service, kind: str, body: bodies.Save | bodies.LoadWeights) -> dict[str, Any]:
    """Perform a request immediately, or queue it if its run is in training."""
    model_id = body.model_id or ""
    row, scope = runs.usable(service, model_id), runs.scope_of(model_id)
    answer = {"request_id": "", "model_id": model_id}
    if runs.is_training(service, row):
        if kind != "load_weights":  # it replaces what was lost
            row = runs.usable_here(service, model_id)
        if body.seq_id is None:
            raise bad_request("seq_id is required for a model that is being trained")
        payload = {"body": msgspec.to_builtins(body)}
        request_id = operations.accept(service, kind, scope, body.seq_id, body, payload=payload)
        return answer | {"request_id": request_id}
    planned = plan(service, kind, body)

    def action(staged: Path) -> dict[str, Any]:
        runs.usable(service, model_id)  # a reset may have happened while the files were written
        return planned.action(staged)

    request_id = _perform_with_files(
        service, kind, scope, body.seq_id, body, planned.write, action, ordered=True
    )
    checkpoints.discard(service, planned.replaced)
    service.store.write("UPDATE runs SET last_request = ? WHERE id = ?", service.clock(), model_id)
    return answer | {"request_id": request_id}


def _perform_with_files(
    service: Service,
    kind: str,
    scope: str,
    seq: int | None,
    body: bodies.Body,
    write: Callable[[Path], None],
    action: _Action,
    *,
    ordered: bool = False,
) -> str:
    """Write files, then perform *action* with their directory; see :func:`operations.perform`."""
    before = operations.earlier(service, scope, seq, body)
    if before is not None:
        return before
    if ordered:
        operations.require_order(service, scope, seq)
    began = service.clock()  # writing the files takes the longest
    staged = failure = None
    try:
        staged = checkpoints.stage(service, write)
    except OperationError as error:
        failure = error

    def adopt() -> dict[str, Any]:
        if staged is None:
            raise failure or AssertionError
        return action(staged)

    try:
        return operations.perform(
            service, kind, scope, seq, body, adopt, ordered=ordered, began=began
        )
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)


def _unnamed() -> str:
    return f"unnamed-{uuid.uuid4().hex[:12]}"
