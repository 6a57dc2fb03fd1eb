"""Lists of checkpoints: of one run, and over all runs on servers of every kind."""

from __future__ import annotations

from tinkex.api.http import pagination, schema
from tinkex.api.http.capabilities import ACCOUNT_LIST
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.pagination import Page, Walk
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import run_url, served
from tinkex.api.resources.records import Checkpoint
from tinkex.exceptions import NotFound, NotOffered

#: Checkpoints that are asked for at once.
PAGE_SIZE = 1000
#: Runs that are asked at the same time.
_CONCURRENCY = 8

NOT_OFFERED = "This server has no list over all runs; each run was asked."
INCOMPLETE = "This server's list over all runs has no sampler checkpoints; each run was asked."


def of_run(transport: Transport, run_id: str, deadline: Deadline) -> list[Checkpoint]:
    """Return all checkpoints of the run *run_id*.

    :raises NotFound: there is no such run.
    """
    request = Request("GET", f"{run_url(run_id)}/checkpoints")
    try:
        data = transport.call(request, deadline).object()
    except NotOffered as error:
        from tinkex.api.resources.runs import no_such_run

        raise no_such_run(run_id, error) from error
    return [Checkpoint.from_json(record) for record in schema.items(data, "checkpoints")]


def of_account(
    transport: Transport,
    deadline: Deadline,
    limit: int | None,
    offset: int,
    access_scope: str | None = None,
) -> Walk[Checkpoint] | Page[Checkpoint]:
    """Return *limit* checkpoints (``None``: all) of the account: a page, or the way through them.

    What can be said of the kind of server is said by its first page, which has been fetched.
    """
    scope = {"access_scope": access_scope} if access_scope else {}

    def fetch(size: int, start: int) -> tuple[list[Checkpoint], int | None]:
        params = {"limit": size, "offset": start, **scope}
        request = Request("GET", "checkpoints", params=params, what="a list over all runs")
        data = transport.call(request, deadline).object()
        records = [Checkpoint.from_json(item) for item in schema.items(data, "checkpoints")]
        return records, pagination.total_count(data)

    known = transport.capabilities
    if known.lacks(ACCOUNT_LIST):
        return _of_all_runs(transport, deadline, limit, offset, NOT_OFFERED)
    walk = Walk(fetch, limit, offset, PAGE_SIZE, lambda checkpoint: checkpoint.tinker_path)
    try:
        # The page may be one beyond the end, which tells nothing about the list.
        seen = walk.first() or (fetch(1, 0)[0] if offset else [])
    except NotOffered:
        page = _of_all_runs(transport, deadline, limit, offset, NOT_OFFERED)
        known.missing(ACCOUNT_LIST)
        return page
    known.offered(ACCOUNT_LIST)
    if _leaves_samplers_out(seen) and _has_samplers(transport, deadline):
        return _of_all_runs(transport, deadline, limit, offset, INCOMPLETE)
    return walk


def _leaves_samplers_out(seen: list[Checkpoint]) -> bool:
    """Tell whether a list over all runs looks like one that never has sampler checkpoints.

    The servers that have such lists also leave the kind out of ``checkpoint_id``; so a list
    with ids in full form is taken as it is, at the cost of no further request.
    """
    return all(c.checkpoint_type == "training" and "/" not in c.checkpoint_id for c in seen)


def _has_samplers(transport: Transport, deadline: Deadline) -> bool:
    from tinkex.api.resources.runs import list_runs

    runs = list_runs(transport, deadline, 100)
    return any(run.last_sampler_checkpoint is not None for run in runs)


def _of_all_runs(
    transport: Transport, deadline: Deadline, limit: int | None, offset: int, note: str
) -> Page[Checkpoint]:
    from tinkex.api.resources.runs import TrainingRun, list_runs

    def of_listed(run: TrainingRun) -> list[Checkpoint]:
        served(run.training_run_id)
        try:
            return of_run(transport, run.training_run_id, deadline)
        except NotFound:
            return []  # deleted in the meantime

    end = None if limit is None else offset + limit
    runs = list_runs(transport, deadline, None).items
    found: list[Checkpoint] = []
    asked = 0
    for records in map_ordered(of_listed, runs, workers=_CONCURRENCY, window=_CONCURRENCY):
        found += records
        asked += 1
        if end is not None and len(found) >= end:
            break
    total = len(found) if asked == len(runs) else None
    return Page(found[offset:end], total, offset, note)
