"""Long-running operations: a request returns an id, and polling the id returns the result.

A repeated request with the same sequence number gets the id of the first.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from tinkex_local.problems import OperationError, conflict, not_found
from tinkex_local.state.service import Service
from tinkex_local.state.store import as_json, from_json
from tinkex_local.wire.bodies import Body

#: Seconds for which results are kept.
KEEP = 7 * 86400


def earlier(service: Service, scope: str, seq: int | None, body: Body) -> str | None:
    """Return the id that an earlier identical request got, or ``None``.

    :param scope: the object that numbers its requests: a session, a run or a sampler.
    :raises Problem: another request used the number.
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

    Gaps are allowed: clients may also count requests that were refused at once.

    :raises Problem: it is out of order.
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
    """Perform a short operation immediately, in one transaction; return its id.

    The operation and its outcome are recorded together, so it is done once or not at all. A failure
    of the operation is recorded as its outcome.

    :param action: returns the result, or raises :class:`OperationError` without any change.
    :param ordered: refuse a number lower than an earlier one in *scope*.
    :param began: when the work started, if before this call.
    :raises Problem: the sequence number is not valid.
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
    """Return the JSON form of a failed operation's outcome."""
    return {"error": str(error), "category": error.category}


def finish(
    service: Service, request_id: str, state: str, outcome: dict[str, Any], *, began: float
) -> None:
    """Record the outcome of a pending request, and when the work started."""
    service.store.write(
        "UPDATE operations SET state = ?, result = ?, began = ?, finished = ? WHERE request_id = ?",
        state,
        as_json(outcome),
        began,
        service.clock(),
        request_id,
    )


def find(service: Service, request_id: str) -> dict[str, Any]:
    """Return a request with its decoded payload and result.

    :raises Problem: it is unknown, or its result has been dropped.
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
    """Record a request; return its id.

    :param payload: the request's parameters, if it is pending.
    :param result: the outcome, if known.
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
