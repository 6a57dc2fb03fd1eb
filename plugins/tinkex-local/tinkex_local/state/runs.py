"""Training runs: a base model and an adapter.

A run's state is in files: those named by its ``weights``, or new ones made from its seed. Once it
was trained, its state is only in the memory of one process, the run's ``holder``.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import asdict
from typing import Any

from tinkex_local.problems import bad_request
from tinkex_local.state import adapter, checkpoints, operations, paths, sessions
from tinkex_local.state.adapter import AdapterSpec
from tinkex_local.state.service import OWNER, Service
from tinkex_local.state.store import as_json, from_json, iso
from tinkex_local.wire import bodies


def create(service: Service, body: bodies.CreateModel) -> dict[str, Any]:
    """Create a run with a new adapter.

    :raises Problem: no such session or base model, or another request used the number.
    """
    scope = models_of(body.session_id)
    before = operations.earlier(service, scope, body.model_seq_id, body)
    if before is not None:
        return {"request_id": before, "model_id": run_id_of(body.session_id, body.model_seq_id)}
    sessions.require_open(service, body.session_id)
    facts = service.facts(body.base_model)
    lora = body.lora_config or bodies.LoraConfig()
    spec = AdapterSpec(
        base_model=body.base_model,
        rank=lora.rank,
        seed=secrets.randbits(62) if lora.seed is None else lora.seed,
        train_attn=lora.train_attn,
        train_mlp=lora.train_mlp,
        train_unembed=lora.train_unembed,
    )
    run_id = run_id_of(body.session_id, body.model_seq_id)

    def action() -> dict[str, Any]:
        adapter.check(spec, facts)
        insert(service, run_id, body.session_id, spec, body.user_metadata)
        return {"model_id": run_id}

    request_id = operations.perform(service, "create_model", scope, body.model_seq_id, body, action)
    return {"request_id": request_id, "model_id": run_id}


def usable(service: Service, model_id: str) -> sqlite3.Row:
    """Return the row of a run, which must not be unloaded.

    :raises Problem: it does not exist, or it was unloaded.
    """
    row = service.find("model", model_id)
    if row["unloaded"] is not None:
        raise bad_request(f"The model {model_id!r} was unloaded")
    return row


def usable_here(service: Service, model_id: str) -> sqlite3.Row:
    """Return the row of a run, which must be usable, and not trained by another process.

    :raises Problem: it is not.
    """
    row = usable(service, model_id)
    if reason := lost(service, row):
        raise bad_request(reason)
    return row


def is_training(service: Service, row: sqlite3.Row) -> bool:
    """Return whether a run was trained or has pending requests, so that its requests are queued."""
    if row["holder"] is not None:
        return True
    query = "SELECT 1 FROM operations WHERE scope = ? AND state = 'pending'"
    return service.store.scalar(query, scope_of(row["id"])) is not None


def lost(service: Service, row: sqlite3.Row) -> str | None:
    """Return why this process cannot continue a run's training; ``None`` if it can."""
    if row["holder"] in (None, service.process):
        return None
    last = checkpoints.listing(service, run_id=row["id"], kind=paths.TRAINING, limit=1)
    advice = f"the last checkpoint is {last[0]['tinker_path']}" if last else "no checkpoint exists"
    return (
        f"Another process of this service holds the state of training run {row['id']!r}. If "
        f"that process has ended, the unsaved training progress is lost; {advice}"
    )


def hold(service: Service, run_id: str) -> None:
    """Record that this process has the state of a run."""
    service.store.write(
        "UPDATE runs SET holder = ?, last_request = ? WHERE id = ?",
        service.process,
        service.clock(),
        run_id,
    )


def spec_of(row: sqlite3.Row) -> AdapterSpec:
    """Return the parameters of a run's adapter."""
    trained = {name: bool(row[name]) for name in ("train_attn", "train_mlp", "train_unembed")}
    return AdapterSpec(row["base_model"], row["rank"], row["seed"], **trained)


def insert(
    service: Service,
    run_id: str,
    session_id: str,
    spec: AdapterSpec,
    user_metadata: dict[str, Any] | None,
    *,
    weights: str | None = None,
) -> None:
    """Add a row for a new run.

    :param weights: internal id of a directory with its tensors; ``None`` for a new adapter.
    """
    now = service.clock()
    service.store.insert(
        "runs",
        id=run_id,
        session_id=session_id,
        **asdict(spec),
        user_metadata=as_json(user_metadata),
        created=now,
        last_request=now,
        weights=weights,
    )


def info(service: Service, body: bodies.ModelOnly) -> dict[str, Any]:
    """Return the response of ``get_info`` for a run.

    :raises Problem: the run or its model does not exist.
    """
    row = usable(service, body.model_id)
    model = service.model(row["base_model"])
    return {
        "type": "get_info",
        "model_id": body.model_id,
        "model_name": model.name,
        "is_lora": True,
        "lora_rank": row["rank"],
        "model_data": {
            "model_name": model.name,
            "arch": service.facts(model.name).model_type,
            # Clients on this machine can load the tokenizer from there; it is not on the hub.
            "tokenizer_id": str(model.directory),
        },
    }


def unload(service: Service, body: bodies.ModelOnly) -> dict[str, Any]:
    """Unload a run; its checkpoints are kept.

    :raises Problem: the run does not exist, or it was unloaded before.
    """
    usable(service, body.model_id)

    def action() -> dict[str, Any]:
        end(service, body.model_id)
        return {"model_id": body.model_id}

    scope = scope_of(body.model_id)
    return {"request_id": operations.perform(service, "unload_model", scope, None, body, action)}


def end(service: Service, run_id: str) -> None:
    """Record that a run is unloaded; its checkpoints are kept."""
    service.store.write("UPDATE runs SET unloaded = ? WHERE id = ?", service.clock(), run_id)


def listing(service: Service, limit: int, offset: int) -> dict[str, Any]:
    """Return a page of the runs, the newest first."""
    rows = service.store.rows(
        "SELECT * FROM runs ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?", limit, offset
    )
    total = service.store.scalar("SELECT count(*) FROM runs")
    return {
        "training_runs": [as_dict(service, row) for row in rows],
        "cursor": {"offset": offset, "limit": limit, "total_count": total},
    }


def as_dict(service: Service, row: sqlite3.Row) -> dict[str, Any]:
    """Return a run in the protocol's form."""

    def latest(kind: str) -> dict[str, Any] | None:
        found = checkpoints.listing(service, run_id=row["id"], kind=kind, limit=1)
        return found[0] if found else None

    return {
        "training_run_id": row["id"],
        "base_model": row["base_model"],
        "model_owner": OWNER,
        "is_lora": True,
        "corrupted": False,
        "lora_rank": row["rank"],
        "last_request_time": iso(row["last_request"]),
        "last_checkpoint": latest(paths.TRAINING),
        "last_sampler_checkpoint": latest(paths.SAMPLER),
        "user_metadata": from_json(row["user_metadata"]),
    }


def weights_info(service: Service, body: bodies.WeightsInfo) -> dict[str, Any]:
    """Return the base model and the adapter's shape for loading a checkpoint.

    :raises Problem: its path is invalid, or it does not exist.
    """
    path = paths.parse(body.tinker_path)
    checkpoints.find(service, path)
    spec = spec_of(service.find("training run", path.run_id))
    return {
        "base_model": spec.base_model,
        "is_lora": True,
        "lora_rank": spec.rank,
        "train_attn": spec.train_attn,
        "train_mlp": spec.train_mlp,
        "train_unembed": spec.train_unembed,
    }


def run_id_of(session_id: str, number: int) -> str:
    """Return the id of a session's run with *number*."""
    return f"{session_id}:train:{number}"


def scope_of(model_id: str) -> str:
    """Return the scope of a run's training sequence numbers."""
    return f"run {model_id}"


def id_of(scope: str) -> str:
    """Return the id of the run with *scope*."""
    return scope.removeprefix("run ")


def models_of(session_id: str) -> str:
    """Return the scope of a session's model sequence numbers."""
    return f"models of {session_id}"
