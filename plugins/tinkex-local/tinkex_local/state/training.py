"""Training requests: checked and accepted; they are computed when their results are polled."""

from __future__ import annotations

import math
from typing import Any

from tinkex_local.engines.choice import Engines
from tinkex_local.problems import Problem, bad_request
from tinkex_local.state import operations, runs
from tinkex_local.state.service import Service
from tinkex_local.wire import batches, bodies
from tinkex_local.wire.batches import Encoded


def forward(service: Service, engines: Engines, body: Encoded) -> dict[str, Any]:
    """Accept a ``forward`` or ``forward_backward`` request.

    :raises Problem: it is invalid, or nothing can compute it here.
    """
    batch = body.decoded()
    row = runs.usable_here(service, batch.model_id)
    engine = engines.require_trainer(service.model(row["base_model"]))
    batches.checked(batch, service.facts(row["base_model"]), engine.losses)
    request_id = operations.accept(
        service,
        "forward_backward" if batch.backward else "forward",
        runs.scope_of(batch.model_id),
        batch.seq_id,
        body,
        payload={
            "base_model": row["base_model"],
            "tokens": batch.token_count,
            "endpoint": body.kind,
            "is_protobuf": body.is_protobuf,
        },
        data=body.raw,
    )
    return {"request_id": request_id, "model_id": batch.model_id}


def optim_step(service: Service, engines: Engines, body: bodies.OptimStep) -> dict[str, Any]:
    """Accept an ``optim_step`` request.

    :raises Problem: it is invalid, or nothing can compute it here.
    """
    row = runs.usable_here(service, body.model_id)
    engines.require_trainer(service.model(row["base_model"]))
    if body.adam_params is None:
        raise bad_request("adam_params is missing; this service supports only the AdamW optimizer")
    params = {name: getattr(body.adam_params, name) for name in body.adam_params.__struct_fields__}
    for name, value in params.items():
        if not math.isfinite(value):
            raise bad_request(f"adam_params.{name} is not finite")
    scope = runs.scope_of(body.model_id)
    request_id = operations.accept(
        service, "optim_step", scope, body.seq_id, body, payload={"params": params}
    )
    return {"request_id": request_id, "model_id": body.model_id}


def note_refusal(service: Service, body: Encoded, problem: Problem) -> None:
    """Record that a request of a run was rejected, if it used a number.

    Clients count rejected requests, so that others would wait for that number.
    """
    model_id, seq_id = body.identity()
    if model_id is None or seq_id is None or problem.status == 409:
        return
    if service.store.scalar("SELECT 1 FROM runs WHERE id = ?", model_id):
        operations.refuse(service, body.kind, runs.scope_of(model_id), seq_id, body)
