"""Training runs of the account: list, filter, describe and unload them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tinkex.api.http import pagination, schema
from tinkex.api.http.auth import HIDDEN
from tinkex.api.http.pagination import Page, Walk
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Response, Transport
from tinkex.api.paths import run_url
from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.api.resources.selection import ordered
from tinkex.exceptions import InvalidResponse, NotFound, NotOffered, ServerError, TinkexError

#: Number of runs per page.
_PAGE_SIZE = 100


@dataclass(frozen=True)
class TrainingRun:
    """A training run.

    :ivar model_owner: its owner, as the service reports it; may be empty.
    :ivar is_lora: whether an adapter is trained instead of the whole model.
    :ivar corrupted: whether it cannot be continued.
    :ivar last_request_time: UTC.
    :ivar last_checkpoint: its newest training checkpoint.
    """

    training_run_id: str
    base_model: str = ""
    model_owner: str = ""
    is_lora: bool = True
    lora_rank: int | None = None
    corrupted: bool = False
    last_request_time: datetime | None = None
    last_checkpoint: Checkpoint | None = None
    last_sampler_checkpoint: Checkpoint | None = None
    user_metadata: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, data: Any) -> TrainingRun:
        """Create a run from its JSON form *data*, as far as this version understands it."""
        run = schema.mapping(data, "training_runs")
        run_id = schema.text(run, "training_run_id")
        last = {
            name: None if run.get(name) is None else Checkpoint.from_json(run[name], run_id)
            for name in ("last_checkpoint", "last_sampler_checkpoint")
        }
        return schema.read(cls, run, "training_runs", lenient=True, **last)

    @property
    def is_known(self) -> bool:
        """Whether it has an id and its last checkpoints could be parsed."""
        last = (self.last_checkpoint, self.last_sampler_checkpoint)
        return bool(self.training_run_id) and all(
            checkpoint is None or checkpoint.is_known for checkpoint in last
        )


class Runs:
    """The training runs of the account."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, limit: int | None = 20, offset: int = 0, *, access_scope: str | None = None
    ) -> Page[TrainingRun]:
        """Return runs, most recently used first; those of unknown time come last.

        :param limit: maximum number of runs; ``None`` or 0 for all.
        :param access_scope: ``owned``, or ``accessible`` for all that the key may read.
        """
        found = self.walk(limit, offset, access_scope=access_scope)
        return found if isinstance(found, Page) else found.page()

    def walk(
        self, limit: int | None = 20, offset: int = 0, *, access_scope: str | None = None
    ) -> Walk[TrainingRun] | Page[TrainingRun]:
        """Return an iterator over the runs, page by page if the service has this order.

        The first page is fetched immediately, and each other page when the iteration reaches it.
        Therefore, the iteration may raise. Memory use is constant. See :meth:`list`.
        """
        limit = pagination.positive_limit(limit, offset)
        deadline = self._transport.deadline("the list of runs")

        def walk(limit: int | None, offset: int) -> Walk[TrainingRun]:
            return walk_runs(self._transport, deadline, limit, offset, access_scope)

        return pagination.newest_first(walk, last_used, limit, offset)

    def select(
        self,
        limit: int | None = None,
        offset: int = 0,
        *,
        model: str | None = None,
        sort: str | None = None,
        descending: bool = False,
        access_scope: str | None = None,
    ) -> Page[TrainingRun]:
        """Return filtered and sorted runs; the whole list is fetched and filtered here.

        :param model: part of the base model's name; case is ignored.
        :param sort: member of :class:`TrainingRun` to sort by; most recently used first by default.
        """
        limit = pagination.positive_limit(limit, offset)
        part = (model or "").casefold()
        found = [
            run
            for run in self.list(None, access_scope=access_scope)
            if part in run.base_model.casefold()
        ]
        if sort is not None:
            found = ordered(found, sort, descending=descending)
        return Page.of(found, limit, offset)

    def unload(self, run_id: str) -> None:
        """Free the server resources of a training run; it cannot be trained further.

        SkyRL then no longer samples from its checkpoints, and TuFT deletes the run.

        :raises tinkex.exceptions.NotOffered: the service does not offer this.
        """
        from tinkex.api.http import futures  # which lists do not need

        deadline = self._transport.deadline("run unloading")
        request = Request("POST", "unload_model", {"model_id": run_id}, what="unloading runs")
        answer = self._transport.call(request, deadline)
        if answer.body.strip():
            accepted = answer.object()
            futures.outcome(self._transport, accepted, "UnloadModel", deadline, wanted="model_id")

    def get(self, run_id: str) -> TrainingRun:
        """Return one run.

        :raises tinkex.exceptions.NotFound: there is no run with this id.
        """
        deadline = self._transport.deadline("information about the run")
        answer = request_run(self._transport, run_id, deadline)
        return _without_key(self._transport, TrainingRun.from_json(answer.object()))


def _row(transport: Transport, data: Any) -> TrainingRun:
    """Create a run from a list item; without an id if the item has none."""
    try:
        return _without_key(transport, TrainingRun.from_json(data))
    except InvalidResponse:
        return TrainingRun("")


def _without_key(transport: Transport, run: TrainingRun) -> TrainingRun:
    """Return *run* without the API key, which some servers report as its owner."""
    return replace(run, model_owner=HIDDEN) if run.model_owner == transport.auth.current else run


def last_used(run: TrainingRun) -> datetime:
    """Return when *run* was last used, for sorting; an unknown time is the oldest."""
    return run.last_request_time or datetime.min.replace(tzinfo=UTC)


def walk_runs(
    transport: Transport,
    deadline: Deadline,
    limit: int | None = None,
    offset: int = 0,
    access_scope: str | None = None,
) -> Walk[TrainingRun]:
    """Return an iterator over *limit* runs (``None``: all), within *deadline*."""
    scope = {"access_scope": access_scope} if access_scope else {}
    return pagination.walk(
        transport,
        Request("GET", "training_runs", params=scope, what="a list of runs"),
        partial(_row, transport),
        deadline,
        limit=limit,
        offset=offset,
        page_size=_PAGE_SIZE,
        key=lambda run: run.training_run_id,
    )


def request_run(transport: Transport, run_id: str, deadline: Deadline) -> Response:
    """Request the run *run_id*; return the response.

    :raises NotFound: there is no such run.
    :raises NotOffered: the service has no such endpoint.
    """
    request = Request("GET", run_url(run_id), what="information about a single run")
    return call_about_run(transport, run_id, request, deadline)


def call_about_run(
    transport: Transport, run_id: str, request: Request, deadline: Deadline
) -> Response:
    """Send *request*, which reads data of the run *run_id*; return the response.

    A 404 without a message may mean that the endpoint or the run is missing. A 500 may mean that
    the server failed or that the run is missing. The list of runs shows which.

    :raises NotFound: there is no such run.
    :raises NotOffered: the service has no such endpoint.
    """
    try:
        return transport.call(request, deadline)
    except (NotOffered, ServerError) as error:
        if error.status not in (404, 500) or _may_exist(transport, run_id, deadline):
            raise
        message = f"no training run named {run_id!r}"
        missing = NotFound(message, status=404, request_id=error.request_id, body=error.body)
        missing.resource = "run"
        raise missing from error


def _may_exist(transport: Transport, run_id: str, deadline: Deadline) -> bool:
    """Return whether the run *run_id* is in the list of runs, or the list cannot be read."""
    try:
        return any(run.training_run_id == run_id for run in walk_runs(transport, deadline))
    except TinkexError:
        return True
