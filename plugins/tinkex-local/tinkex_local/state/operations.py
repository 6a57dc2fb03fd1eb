"""Long-running operations: a request is answered with an id, the id with the result.

A request with a sequence number may arrive twice; the second time it gets the id of the first.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from tinkex_local.problems import OperationError, conflict, not_found
from tinkex_local.state.service import Service
from tinkex_local.state.store import as_json, from_json
from tinkex_local.wire.bodies import Body

#: Seconds that results are kept.
KEEP = 7 * 86400


def earlier(service: Service, scope: str, seq: int | None, body: Body) -> str | None:
    """Return the request id that the same request got before, if it came before.

    :param scope: what the sequence numbers count in: a session, a run or a sampler.
    :raises Problem: another request had the number.
    """
    if seq is None:
        return None
    row = service.store.row(
        "SELECT request_id, digest FROM operations WHERE scope = ? AND seq = ?", scope, seq
    )
    if row is None:
        return None
    if row["digest"] != body.digest():
        raise conflict(f"Sequence number {seq} was already used by another request")
    return str(row["request_id"])


def require_order(service: Service, scope: str, seq: int | None) -> None:
    """Check that *seq* comes after all numbers seen in *scope*.

    Gaps are fine: clients count requests that were refused at once, too.

    :raises Problem: it comes too late.
    """
    if seq is None:
        return
    last = service.store.scalar("SELECT max(seq) FROM operations WHERE scope = ?", scope)
    if last is not None and seq < last:
        raise conflict(f"Sequence number {seq} is out of order: {last} came before")


def perform(
    service: Service,
    kind: str,
    scope: str,
    seq: int | None,
    body: Body,
    action: Callable[[], dict[str, Any]],
    *,
    ordered: bool = False,
    began: float | None = None,
) -> str:
    """Do a short operation at once, within one transaction; return its id.

    The operation and its outcome are noted together, so it is done once or not at all. A
    failure of the operation itself is noted as its outcome.

    :param action: returns the result, or raises :class:`OperationError` having changed nothing.
    :param ordered: a number lower than one seen before in *scope* is refused.
    :param began: when the work started, if before this call.
    :raises Problem: the sequence number does not fit.
    """
    began = service.clock() if began is None else began
    with service.store.transaction():
        before = earlier(service, scope, seq, body)
        if before is not None:
            return before
        if ordered:
            require_order(service, scope, seq)
        try:
            state, outcome = "done", {"type": kind, **action()}
        except OperationError as error:
            state, outcome = "failed", failure(error)
        return record(service, kind, scope, seq, body, state, result=outcome, began=began)


def failure(error: OperationError) -> dict[str, Any]:
    """Return the outcome of a failed operation as it goes over the wire."""
    return {"error": str(error), "category": error.category}


def finish(
    service: Service, request_id: str, state: str, outcome: dict[str, Any], *, began: float
) -> None:
    """Note the outcome of a request that was pending, and when the work started."""
    service.store.write(
        "UPDATE operations SET state = ?, result = ?, began = ?, finished = ? WHERE request_id = ?",
        state,
        as_json(outcome),
        began,
        service.clock(),
        request_id,
    )


def find(service: Service, request_id: str) -> dict[str, Any]:
    """Return a request, its payload and its result decoded.

    :raises Problem: it is not known, or its result is no longer kept.
    """
    row = service.store.row("SELECT * FROM operations WHERE request_id = ?", request_id)
    if row is None:
        raise not_found("request", request_id)
    decoded = {name: from_json(row[name]) for name in ("payload", "result")}
    return {**row, **decoded}


def forget_old(service: Service) -> None:
    """Drop results older than :data:`KEEP`."""
    service.store.write("DELETE FROM operations WHERE created < ?", service.clock() - KEEP)


def record(
    service: Service,
    kind: str,
    scope: str,
    seq: int | None,
    body: Body,
    state: str,
    *,
    payload: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    began: float | None = None,
) -> str:
    """Note a request; return its id.

    :param payload: what is to be done, if that is still pending.
    :param result: the outcome, if there is one.
    """
    request_id, now = uuid.uuid4().hex, service.clock()
    service.store.insert(
        "operations",
        request_id=request_id,
        kind=kind,
        scope=scope,
        seq=seq,
        digest=body.digest(),
        state=state,
        payload=as_json(payload),
        result=as_json(result),
        created=now if began is None else began,
        began=began,
        finished=None if result is None else now,
    )
    return request_id
