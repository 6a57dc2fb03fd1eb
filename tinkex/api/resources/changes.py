"""Changes to checkpoints: delete, publish, unpublish, set an expiry time.

The list of a run is fetched before its checkpoints are changed. A server whose ids have no kind may
change ``weights/x`` on a request to change ``sampler_weights/x``, and report success.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Response, Transport
from tinkex.api.paths import TinkerPath
from tinkex.api.resources.checkpoint_info import Checkpoint, key_of, twins_of
from tinkex.exceptions import (
    BadRequest,
    InvalidResponse,
    NotFound,
    NotOffered,
    OperationFailed,
    ServerError,
    SharedName,
    TinkexError,
    a_few,
    detail_of,
)

#: Function that returns all checkpoints of a run.
ListOfRun = Callable[[str, Deadline], Iterable[Checkpoint]]

#: TuFT's response to every unpublish request: its route reads "publish" as the name.
_MISREAD = "Invalid checkpoint reference"


@dataclass
class _Run:
    """A run and its checkpoints before any change.

    :ivar rows: its checkpoints by :func:`key_of`; ``None`` if they are not known.
    :ivar bare: the checkpoints whose id has no kind, by that id and by their names.
    :ivar is_read: whether its list need not be fetched again.
    :ivar error: the error that reading its list raised.
    :ivar left: the original checkpoints that are still listed.
    :ivar lost: checkpoints that disappeared without a request and have not been reported.
    :ivar looked: when *left* was last updated, by :func:`time.monotonic`.
    """

    rows: Mapping[str, Checkpoint] | None = None
    bare: dict[str, list[Checkpoint]] = field(default_factory=lambda: defaultdict(list))
    is_read: bool = False
    error: TinkexError | None = None
    left: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    looked: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)
    looking: threading.Lock = field(default_factory=threading.Lock)

    def fill(self, found: Iterable[Checkpoint]) -> None:
        """Set the checkpoints of the run to *found*."""
        self.rows = {key_of(row.tinker_path): row for row in found}
        self.left = set(self.rows)
        for key, row in self.rows.items():
            for name in {row.checkpoint_id, key.rpartition("/")[2]} if row.has_bare_id else ():
                self.bare[name].append(row)

    def twins(self, path: TinkerPath) -> list[Checkpoint]:
        """Return the checkpoints that the server may confuse with *path*."""
        own = (self.rows or {}).get(key_of(str(path)))
        names = {path.name, own.checkpoint_id if own else path.name}
        near = {row.tinker_path: row for name in names for row in self.bare.get(name, ())}
        return twins_of(path, near.values())


class Changes:
    """Changes the checkpoints *paths*; its methods may be called from several threads.

    :param list_of_run: fetches the list of a run; called before its first change.
    :param known: checkpoints that were just listed. If their ids have a kind, the lists of their
        runs are not fetched again.
    :param force: whether to change checkpoints that share their name with others, see
        :exc:`~tinkex.exceptions.SharedName`.
    :ivar notes: path of a deleted checkpoint → a note on what happened to others.
    """

    def __init__(
        self,
        transport: Transport,
        list_of_run: ListOfRun,
        paths: Iterable[str],
        *,
        known: Iterable[Checkpoint] = (),
        force: bool = False,
    ) -> None:
        self._transport = transport
        self._list_of_run = list_of_run
        self._paths = {path: TinkerPath.from_string(path) for path in paths}
        self._keys = set(map(key_of, self._paths))
        self._force = force
        self.notes: dict[str, list[str]] = {}
        rows = defaultdict[str, list[Checkpoint]](list)
        for checkpoint in known:
            rows[checkpoint.run_id].append(checkpoint)
        self._runs: dict[str, _Run] = {}
        for path in self._paths.values():
            self._runs[path.run_id] = _Run(is_read=transport.is_dry_run)
        for run_id in self._runs.keys() & rows.keys():
            if not any(row.has_bare_id for row in rows[run_id]):
                self._runs[run_id] = run = _Run(is_read=True)
                run.fill(rows[run_id])

    def found(self) -> dict[str, Checkpoint]:
        """Return the listed checkpoints among *paths*, by path."""
        runs = map_ordered(self._read, self._runs)
        rows = {key: row for run in runs for key, row in (run.rows or {}).items()}
        return {path: rows[key_of(path)] for path in self._paths if key_of(path) in rows}

    def twins(self, path: str) -> list[str]:
        """Return the paths of other checkpoints that the server may change instead of *path*."""
        found = self._read(self._paths[path].run_id).twins(self._paths[path])
        return [row.tinker_path for row in found if key_of(row.tinker_path) not in self._keys]

    def refusal(self, path: str) -> TinkexError | None:
        """Return the error that a change of *path* would raise before any request, if any."""
        run = self._read(self._paths[path].run_id)
        if run.error is not None:
            return run.error
        if run.bare and key_of(path) not in (run.rows or ()):
            return _missing(path)  # the server may change another kind of that name
        if self._force or not (twins := self.twins(path)):
            return None
        why = "this server identifies checkpoints only by name, so it may change"
        return SharedName(f"{why} {a_few(twins)} instead")

    def publish(self, path: str) -> None:
        """See :meth:`tinkex.api.Checkpoints.publish`."""
        deadline = self._transport.deadline("publishing")
        self._change(path, Request("POST", "/publish", what="publishing"), deadline)

    def unpublish(self, path: str) -> None:
        """See :meth:`tinkex.api.Checkpoints.unpublish`."""
        deadline = self._transport.deadline("unpublishing")
        try:
            self._change(path, Request("DELETE", "/publish", what="unpublishing"), deadline)
        except BadRequest as error:
            if error.message != _MISREAD:
                raise
            message = "this server does not offer unpublishing"
            raise NotOffered(message, status=400, request_id=error.request_id) from error

    def set_ttl(self, path: str, seconds: int | None) -> None:
        """See :meth:`tinkex.api.Checkpoints.set_ttl`."""
        deadline = self._transport.deadline("the new expiry time")
        request = Request("PUT", "/ttl", {"ttl_seconds": seconds}, what="checkpoint expiry")
        self._change(path, request, deadline)

    def delete(self, path: str) -> None:
        """See :meth:`tinkex.api.Checkpoints.delete`."""
        run = self._runs[self._paths[path].run_id]
        with run.lock:
            deadline = self._deadline()
            self._read(self._paths[path].run_id, deadline)
        if not run.bare:
            self._delete(path, deadline)
        elif not run.twins(self._paths[path]):
            self._delete_and_check(path, run, deadline)
        else:  # the first request may delete the other one, whether or not it is to be deleted
            with run.lock:
                if key_of(path) in run.left or self.refusal(path):
                    self._delete_and_check(path, run, self._deadline(), tries=2)

    def _deadline(self) -> Deadline:
        return self._transport.deadline("checkpoint deletion")

    def _delete(self, path: str, deadline: Deadline) -> None:
        self._change(path, Request("DELETE", "", what="checkpoint deletion"), deadline)

    def _delete_and_check(self, path: str, run: _Run, deadline: Deadline, tries: int = 1) -> None:
        """Delete *path* in at most *tries* requests, until it is no longer listed."""
        lost: list[str] = []
        for _ in range(tries):
            failure = None
            try:
                self._delete(path, deadline)
            except ServerError as error:  # TuFT reports this after a deletion, too
                failure = error
            lost += self._look_again(path, run, failure, deadline)
            if key_of(path) not in run.left:
                break
        if key_of(path) not in run.left:
            doubtful = "is still listed, but its files may have been deleted, because this server "
            doubtful += "identifies checkpoints only by name"
            twins = [other for other in self.twins(path) if key_of(other) in run.left]
            self.notes[path] = [f"the server also deleted {other}" for other in lost]
            self.notes[path] += [f"{other} {doubtful}" for other in twins]
        elif failure and not lost:
            raise failure
        else:
            claim = "" if lost else " reports success, but"
            message = f"the server{claim} still lists the checkpoint"
            message += f", and deleted {a_few(lost)} instead" if lost else ""
            raise OperationFailed(message, category="user" if lost else "server")

    def _look_again(
        self, path: str, run: _Run, failure: TinkexError | None, deadline: Deadline
    ) -> list[str]:
        """Update :attr:`_Run.left`, and return checkpoints that were deleted without a request.

        Threads that wait for it share one request.
        """
        now = time.monotonic()
        with run.looking:
            begin = time.monotonic()
            if run.looked < now:
                listed = set[str]()
                try:
                    found = self._list_of_run(self._paths[path].run_id, deadline)
                    listed.update(key_of(row.tinker_path) for row in found)
                except NotFound:  # it was the last checkpoint of its run
                    pass
                except TinkexError as error:
                    why = f"cannot list the checkpoints of the run after the deletion: {error}"
                    raise failure or OperationFailed(why) from error
                run.lost += sorted(run.left - listed - self._keys)
                run.left &= listed
                run.looked = begin
            lost, run.lost = run.lost, []
        return [(run.rows or {})[key].tinker_path for key in lost]

    def _read(self, run_id: str, deadline: Deadline | None = None) -> _Run:
        """Return the run *run_id*, fetching its checkpoint list if necessary."""
        run = self._runs[run_id]
        with run.lock:
            if not run.is_read:
                run.is_read = True
                deadline = deadline or self._transport.deadline("the run's checkpoints")
                try:
                    run.fill(self._list_of_run(run_id, deadline))
                except (NotFound, NotOffered):
                    pass  # the response to the change has more information
                except TinkexError as error:
                    run.error = error
        return run

    def _change(self, path: str, request: Request, deadline: Deadline) -> None:
        """Send *request*, whose path is appended to the URL of the checkpoint."""
        parsed = self._paths[path]
        rows = self._read(parsed.run_id, deadline).rows
        if refusal := self.refusal(path):
            raise refusal
        try:
            self._send(parsed.url, request, deadline)
        except NotOffered as error:
            # Only after a missing route: otherwise the shorter id may mean another kind.
            # ``DELETE …/checkpoints/<name>/publish`` might delete a checkpoint.
            unpublishes = request.method == "DELETE" and request.path != ""
            row = (rows or {}).get(key_of(path))
            if error.status != 404 or unpublishes or row is None or not row.has_bare_id:
                raise
            self._send(replace(parsed, name=row.checkpoint_id).bare_url, request, deadline)
        except ServerError as error:
            # TuFT responds like this for a missing checkpoint.
            if error.status != 500 or rows is None or key_of(path) in rows:
                raise
            raise _missing(path) from error

    def _send(self, url: str, request: Request, deadline: Deadline) -> None:
        # A retry may find that the first attempt succeeded: already deleted, or in that state.
        settled = frozenset({404, 409} if request.path else {404})
        path = url + request.path
        request = replace(request, path=path, repeatable=True, settled=settled)
        _check_success(self._transport.call(request, deadline))


def _missing(path: str) -> NotFound:
    return NotFound(f"no checkpoint {path}", status=404)


def _check_success(response: Response) -> None:
    """Check the body of a successful response.

    :raises OperationFailed: it reports that the change failed.
    """
    body: dict[str, Any] = {}
    with suppress(InvalidResponse):  # it may be empty
        body = response.object()
    if body.get("success") is False or body.get("deleted") is False or body.get("error"):
        raise OperationFailed(detail_of(body) or "the server did not report success")
