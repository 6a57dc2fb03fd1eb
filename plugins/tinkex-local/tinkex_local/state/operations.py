"""Long-running operations: a request returns an id, and polling the id returns the result.

A repeated request with the same sequence number gets the id of the first. States are ``pending``,
``done``, ``failed`` and ``refused``: a rejected request used its number, but was never accepted.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from tinkex_local.problems import OperationError, conflict, not_found
from tinkex_local.state.service import Service
from tinkex_local.state.store import as_json, from_json

#: Seconds for which results are kept.
KEEP = 7 * 86400
#: Seconds for which the arrays of training results are kept, which are large.
KEEP_ARRAYS = 3600
#: All columns but the arrays.
_COLUMNS = "request_id, kind, scope, seq, state, payload, result, created, began, finished"


class Body(Protocol):
    """A request body."""

    def digest(self) -> str:
        """Return a digest that is equal for identical requests."""


def earlier(service: Service, scope: str, seq: int | None, body: Body) -> str | None:
    """Return the id that an earlier identical request got, or ``None``.

    :param scope: the object that numbers its requests: a session, a run or a sampler.
    :raises Problem: another request used the number.
    """
    if seq is None:
        return None
    row = service.store.row(
        "SELECT request_id, digest FROM operations "
        "WHERE scope = ? AND seq = ? AND state != 'refused'",
        scope,
        seq,
    )
    if row is None:
        return None
    if row["digest"] != body.digest():
        raise conflict(f"Sequence number {seq} was already used by another request")
    return str(row["request_id"])


def require_order(service: Service, scope: str, seq: int | None) -> None:
    """Check that *seq* comes after the numbers of all finished requests in *scope*.

    :raises Problem: it is out of order.
    """
    if seq is None:
        return
    last = _last_finished(service, scope)
    if last is not None and seq < last:
        raise conflict(f"Sequence number {seq} is out of order: it is lower than {last}")


def _last_finished(service: Service, scope: str, below: int = 2**63 - 1) -> int | None:
    query = (
        "SELECT max(seq) FROM operations "
        "WHERE scope = ? AND state IN ('done', 'failed') AND seq < ?"
    )
    last: int | None = service.store.scalar(query, scope, below)
    return last


def accept(
    service: Service,
    kind: str,
    scope: str,
    seq: int,
    body: Body,
    *,
    payload: dict[str, Any],
    data: bytes | None = None,
) -> str:
    """Record a request that polls compute, in the order of numbers in *scope*; return its id.

    :param payload: the request's parameters.
    :param data: its arrays, in any encoding.
    :raises Problem: the number was used by another request, or is out of order.
    """
    with service.store.transaction():
        before = earlier(service, scope, seq, body)
        if before is not None:
            return before
        require_order(service, scope, seq)
        return record(service, kind, scope, seq, body, "pending", payload=payload, data=data)


def refuse(service: Service, kind: str, scope: str, seq: int, body: Body) -> None:
    """Record that a request was rejected, so that later ones do not wait for its number."""
    with service.store.transaction():
        query = "SELECT 1 FROM operations WHERE scope = ? AND seq = ?"
        if service.store.scalar(query, scope, seq) is None:
            record(service, kind, scope, seq, body, "refused")


def first_pending(service: Service, scope: str) -> dict[str, Any] | None:
    """Return the pending request in *scope* with the lowest number, decoded as by :func:`find`."""
    row = service.store.row(
        f"SELECT {_COLUMNS} FROM operations WHERE scope = ? AND state = 'pending' "  # noqa: S608
        "ORDER BY seq, rowid LIMIT 1",
        scope,
    )
    return None if row is None else _decoded(row)


def last_arrival(service: Service, scope: str) -> float:
    """Return when the last of the pending requests in *scope* arrived."""
    query = "SELECT max(created) FROM operations WHERE scope = ? AND state = 'pending'"
    return float(service.store.scalar(query, scope) or 0.0)


def missing(service: Service, scope: str, seq: int) -> int | None:
    """Return a number below *seq* whose request has not arrived, or ``None``.

    Numbers start at 1; those below the last finished request count as arrived.
    """
    last = _last_finished(service, scope, seq) or 0
    query = "SELECT seq FROM operations WHERE scope = ? AND seq > ? AND seq < ?"
    arrived = {row[0] for row in service.store.rows(query, scope, last, seq)}
    return next((number for number in range(last + 1, seq) if number not in arrived), None)


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
    :param ordered: reject a number lower than an earlier one in *scope*.
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


def fail_rest(service: Service, scope: str, seq: int, kinds: tuple[str, ...], why: str) -> None:
    """Fail the pending requests of *kinds* in *scope* with numbers above *seq*."""
    marks = ", ".join("?" * len(kinds))
    service.store.write(
        "UPDATE operations SET state = 'failed', result = ?, data = NULL, finished = ? "  # noqa: S608
        f"WHERE scope = ? AND seq > ? AND state = 'pending' AND kind IN ({marks})",
        as_json(failure(OperationError(why))),
        service.clock(),
        scope,
        seq,
        *kinds,
    )


def failure(error: OperationError) -> dict[str, Any]:
    """Return the JSON form of a failed operation's outcome."""
    return {"error": str(error), "category": error.category}


def finish(
    service: Service,
    request_id: str,
    state: str,
    outcome: dict[str, Any],
    *,
    began: float,
    data: bytes | None = None,
) -> None:
    """Record the outcome of a pending request, and when the work started.

    :param data: the arrays of the result, which replace those of the request.
    """
    service.store.write(
        "UPDATE operations SET state = ?, result = ?, began = ?, finished = ?, data = ? "
        "WHERE request_id = ?",
        state,
        as_json(outcome),
        began,
        service.clock(),
        data,
        request_id,
    )


def find(service: Service, request_id: str) -> dict[str, Any]:
    """Return a request with its decoded payload and result.

    :raises Problem: it is unknown, or its result has been dropped.
    """
    query = f"SELECT {_COLUMNS} FROM operations WHERE request_id = ?"  # noqa: S608
    row = service.store.row(query, request_id)
    if row is None:
        raise not_found("request", request_id)
    return _decoded(row)


def arrays(service: Service, request_id: str) -> bytes | None:
    """Return the arrays of a request, or of its result; ``None`` if there are none."""
    query = "SELECT data FROM operations WHERE request_id = ?"
    data: bytes | None = service.store.scalar(query, request_id)
    return data


def _decoded(row: sqlite3.Row) -> dict[str, Any]:
    return {**row, **{name: from_json(row[name]) for name in ("payload", "result")}}


def forget_old(service: Service) -> None:
    """Drop results older than :data:`KEEP`, and arrays older than :data:`KEEP_ARRAYS`."""
    now = service.clock()
    service.store.write("DELETE FROM operations WHERE created < ?", now - KEEP)
    service.store.write(
        "UPDATE operations SET data = NULL WHERE data IS NOT NULL AND finished < ?",
        now - KEEP_ARRAYS,
    )


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
    data: bytes | None = None,
) -> str:
    """Record a request, within a transaction if it has a number; return its id.

    :param payload: the request's parameters, if it is pending.
    :param result: the outcome, if known.
    :param data: the request's arrays, if it is pending.
    """
    request_id, now = uuid.uuid4().hex, service.clock()
    if seq is not None:  # the client may send a corrected request with the number of a rejected one
        query = "DELETE FROM operations WHERE scope = ? AND seq = ? AND state = 'refused'"
        service.store.write(query, scope, seq)
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
        data=data,
    )
    return request_id
