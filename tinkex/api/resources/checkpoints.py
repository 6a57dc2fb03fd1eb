"""The checkpoints of the account: list, describe, publish, copy, delete and download them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tinkex.api.http import pagination, schema
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.pagination import Page, Walk
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import (
    UNKNOWN_FORM,
    TinkerPath,
    as_received,
    run_url,
    segment_from_server,
)
from tinkex.api.resources.checkpoint_info import (
    Checkpoint,
    CheckpointInfo,
    Lineage,
    lineage_of,
    weights_info,
)
from tinkex.api.resources.runs import TrainingRun, call_about_run, request_run, walk_runs
from tinkex.api.resources.selection import time_of
from tinkex.api.resources.sessions import Sessions
from tinkex.config import credentials
from tinkex.exceptions import (
    APIError,
    Forbidden,
    InvalidResponse,
    NotFound,
    NotOffered,
    TinkexError,
    a_few,
)
from tinkex.files import path_of

if TYPE_CHECKING:
    from tinkex.api.resources.changes import Changes
    from tinkex.api.resources.selection import Selection
    from tinkex.api.transfer.download import Download, DownloadResult
    from tinkex.api.transfer.progress import OnProgress, Progress
    from tinkex.api.transfer.remote import RemoteFiles

#: Minimum and maximum seconds until a checkpoint expires: an hour and ten years.
TTL_LIMITS = (3600, 10 * 365 * 86400)
NOT_OFFERED = "This server has no checkpoint list across all runs, so tinkex queried each run."
INCOMPLETE = (
    "This server's list across all runs has no sampler checkpoints, so tinkex queried each run."
)

_ACCOUNT_LIST = "GET checkpoints"
#: Checkpoints per page.
_PAGE_SIZE = 1000
#: Number of runs listed concurrently.
_CONCURRENCY = 8
#: Time limit in seconds for finding a suggestion; the error itself is already known.
_PATIENCE = 5.0
#: Maximum number of names in a suggestion.
_SHOWN = 3
#: Header with the access token of the account that owns the original of a copy.
_TOKEN_HEADER = "X-Tinker-Weights-Access-Token"  # noqa: S105 - a name, not a token


class Checkpoints:
    """The checkpoints of the account."""

    def __init__(self, transport: Transport, sessions: Sessions) -> None:
        self._transport = transport
        self._sessions = sessions
        self._skipped: set[str] = set()

    def list(
        self,
        limit: int | None = 20,
        offset: int = 0,
        run_id: str | None = None,
        *,
        access_scope: str | None = None,
    ) -> Page[Checkpoint]:
        """Return checkpoints, newest first; those of unknown time come last.

        Some servers have no complete list for all runs. For these servers, the checkpoints of each
        run are requested separately, and the ``note`` of the page says so.

        :param limit: maximum number of checkpoints; ``None`` or 0 for all.
        :param run_id: only checkpoints of this training run.
        :param access_scope: ``owned``, or ``accessible`` for all that the key may read; ignored
            with *run_id*.
        :raises tinkex.exceptions.NotFound: there is no such run.
        """
        found = self.walk(limit, offset, run_id, access_scope=access_scope)
        return found if isinstance(found, Page) else found.page()

    def walk(
        self,
        limit: int | None = 20,
        offset: int = 0,
        run_id: str | None = None,
        *,
        access_scope: str | None = None,
    ) -> Walk[Checkpoint] | Page[Checkpoint]:
        """Return an iterator over the checkpoints, page by page if the service has pages.

        The first page is fetched immediately, and each other page when the iteration reaches it.
        Therefore, the iteration may raise. Memory use is constant. See :meth:`list`.
        """
        limit = pagination.positive_limit(limit, offset)
        deadline = self._transport.deadline("the list of checkpoints")
        if run_id is None:
            return walk_account(self._transport, deadline, limit, offset, access_scope)
        return Page.of(list_of_run(self._transport, run_id, deadline), limit, offset)

    def select(
        self,
        wanted: Selection,
        limit: int | None = None,
        offset: int = 0,
        *,
        sort: str | None = None,
        descending: bool = False,
        access_scope: str | None = None,
    ) -> Page[Checkpoint]:
        """Return the checkpoints that match *wanted*; the whole list is fetched and filtered here.

        Limit, offset and scope are those of :meth:`list`.

        :param sort: member of :class:`Checkpoint` to sort by; newest first by default.
        :raises tinkex.exceptions.NotFound: there is no such run.
        """
        limit = pagination.positive_limit(limit, offset)
        everything = self.list(None, run_id=wanted.one_run, access_scope=access_scope)
        found = [checkpoint for checkpoint in everything if wanted.matches(checkpoint)]
        if wanted.before or wanted.after:
            at_any_time = replace(wanted, before=None, after=None)
            self.known(c for c in everything if c.time is None and at_any_time.matches(c))
        if sort is not None:
            from tinkex.api.resources import selection

            found = selection.ordered(found, sort, descending=descending)
        return Page.of(found, limit, offset, everything.note)

    def known(self, found: Iterable[Checkpoint]) -> Sequence[Checkpoint]:
        """Return the items of *found* that bulk commands may change; report the others once.

        Bulk commands skip a checkpoint whose type or creation time is unknown.
        """
        found = [*found]
        skipped = {c.tinker_path for c in found if not c.is_known} - self._skipped
        self._skipped |= skipped
        if skipped:
            names = a_few(sorted(skipped))
            note = f"Skipped checkpoints whose type or creation time is unknown: {names}."
            self._transport.deadline("the checkpoints").report(note=note)
        return [checkpoint for checkpoint in found if checkpoint.is_known]

    def info(self, path: str) -> CheckpointInfo:
        """Return everything that the service reports about the checkpoint *path*.

        This also works for a published checkpoint of another account.

        :raises tinkex.exceptions.NotFound: it does not exist; the hint lists others in its run.
        """
        deadline = self._transport.deadline("information about the checkpoint")
        parsed = TinkerPath.from_string(path)
        missing: APIError
        try:
            listed = list_of_run(self._transport, parsed.run_id, deadline)
        except (NotFound, NotOffered, Forbidden) as error:
            listed, missing = [], error
        else:
            known = [(other, record) for record in listed if (other := record.path)]
            # Servers differ in the scheme that they use.
            found = next((record for other, record in known if other.url == parsed.url), None)
            if found is not None:
                lineage = Lineage()
                with suppress(APIError):
                    lineage = lineage_of(self._transport, parsed, deadline)
                return CheckpointInfo.of(parsed, found, lineage)
            hint = suggestion(parsed, listed)
            missing = NotFound(f"no checkpoint {parsed}", status=404, hint=hint)
            # Some servers describe any name in a run; some list no sampler checkpoints.
            if any(other.kind == parsed.kind for other, _ in known):
                raise missing
        try:
            lineage = weights_info(self._transport, parsed, deadline)
        except (APIError, InvalidResponse):
            raise missing from None
        return CheckpointInfo.of(parsed, None, lineage)

    def changes(
        self, paths: Sequence[str], *, known: Iterable[Checkpoint] = (), force: bool = False
    ) -> Changes:
        """Return an object that changes *paths*, after fetching the lists of their runs.

        :param known: checkpoints in *paths* that were just listed, which may save these requests.
        :param force: see :meth:`delete`.
        """
        from tinkex.api.resources.changes import Changes

        read = partial(list_of_run, self._transport)
        return Changes(self._transport, read, paths, known=known, force=force)

    def publish(self, path: str, *, force: bool = False) -> None:
        """Make the checkpoint *path* public.

        :param force: see :meth:`delete`.
        :raises tinkex.exceptions.Conflict: it is public already.
        """
        path = str(TinkerPath.from_string(path))
        self.changes([path], force=force).publish(path)

    def unpublish(self, path: str, *, force: bool = False) -> None:
        """Make the checkpoint *path* private again.

        :param force: see :meth:`delete`.
        :raises tinkex.exceptions.Conflict: it is not public.
        """
        path = str(TinkerPath.from_string(path))
        self.changes([path], force=force).unpublish(path)

    def delete(self, path: str, *, force: bool = False) -> None:
        """Delete the checkpoint *path*; this cannot be undone.

        :param force: also delete if the run has another checkpoint with this name and the server's
            ids do not distinguish the two. The server may then delete either of them, or both.
        :raises tinkex.exceptions.NotFound: it does not exist.
        :raises tinkex.exceptions.SharedName: the checkpoint can be deleted only with *force*.
        :raises tinkex.exceptions.OperationFailed: the server reports success, but still lists
            the checkpoint.
        """
        path = str(TinkerPath.from_string(path))
        self.changes([path], force=force).delete(path)

    def set_ttl(self, path: str, seconds: int | None, *, force: bool = False) -> None:
        """Set the expiry of the checkpoint *path* to *seconds* from now, or remove it (``None``).

        :param force: see :meth:`delete`.
        :raises tinkex.exceptions.BadRequest: *seconds* is outside of ``TTL_LIMITS``.
        """
        path = str(TinkerPath.from_string(path))
        self.changes([path], force=force).set_ttl(path, seconds)

    def check_name(self, name: str) -> None:
        """Check that the service accepts *name* for a new checkpoint, as far as that is known.

        :raises tinkex.exceptions.UsageError: the service does not accept *name*.
        """
        from tinkex.api.training import client as training

        training.check_name(self._transport, name)

    def copy(
        self,
        path: str,
        *,
        project_id: str | None = None,
        ttl_seconds: int | None = None,
        access_token: str | None = None,
    ) -> str:
        """Copy the checkpoint *path*, keeping its kind and name, and return the copy's path.

        :param project_id: the project that will own the copy; by default, the copy belongs to a
            new run of a new session. That run cannot be trained further.
        :param ttl_seconds: seconds until the copy expires; the original's expiry is not copied.
        :param access_token: key of the account that may read the original, if not this one.
        """
        body: dict[str, object] = {"source_path": str(TinkerPath.from_string(path))}
        deadline = self._transport.deadline("the checkpoint copy")
        if ttl_seconds is not None:
            body["ttl_seconds"] = ttl_seconds
        headers = {_TOKEN_HEADER: credentials.checked(access_token)} if access_token else {}
        if project_id:
            return self._copied(body | {"destination_project_id": project_id}, headers, deadline)
        with self._sessions.begun(deadline) as session:
            body |= {"session_id": session.session_id, "model_seq_id": session.model_seq_id}
            copy = self._copied(body, headers, deadline)
        session.finish()
        return copy

    def suggest(self, path: str, *, to_sample: bool = False) -> str | None:
        """Return a hint that lists other checkpoints in the run of *path*; never raises.

        :param to_sample: only suggest sampler checkpoints; *path* may exist, but cannot be sampled.
        """
        parsed = TinkerPath.from_string(path)
        patience = min(_PATIENCE, self._transport.settings.timeout)
        deadline = self._transport.deadline("the run's other checkpoints", patience)
        try:
            found = list_of_run(self._transport, parsed.run_id, deadline)
        except NotFound:
            return f"There is no training run {parsed.run_id}."
        except TinkexError:
            return None
        if not to_sample:
            return suggestion(parsed, found)
        samplers = [c for c in found if c.checkpoint_type == "sampler" and c.path != parsed]
        return suggestion(parsed, samplers) if samplers else None

    def download(
        self,
        path: str,
        directory: Path | str,
        *,
        force: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Download:
        """Download the files of the checkpoint *path* into *directory*.

        When this returns, all files are complete and in place. If it raises, *directory* has not
        changed, and the next call with the same arguments resumes the download. The timeout limits
        the time in which no byte arrives, not the whole download.

        :param directory: created if necessary; other files in it are kept.
        :param force: replace existing files, once the new ones are complete.
        :param on_progress: called after every block received, by one thread at a time.
        :raises tinkex.exceptions.LocalError: a file exists or cannot be written, or another
            process downloads the same checkpoint to the same directory.
        """
        return self._fetch(TinkerPath.from_string(path), path_of(directory), force, on_progress)

    def download_all(
        self,
        paths: Sequence[str],
        directory: Path | str,
        *,
        force: bool = False,
        with_run: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[DownloadResult]:
        """Download several checkpoints, each into ``<run>/<kind>/<name>`` below *directory*.

        Every checkpoint is tried, and the results are yielded in the given order. Complete
        downloads are skipped, incomplete ones replaced.

        :param force: download complete ones as well, and replace existing files.
        :param with_run: if false, the directories are ``<kind>/<name>``, as for :meth:`sync`.
        :param on_progress: called after every block received, with the total of all checkpoints.
        """
        from tinkex.api.transfer.directory import directory_of
        from tinkex.api.transfer.download import download_many

        root = path_of(directory)
        parsed = list(dict.fromkeys(map(TinkerPath.from_string, paths)))
        places = [(path, directory_of(root, path, with_run=with_run)) for path in parsed]
        return download_many(self._fetch, places, on_progress, force=force)

    def sync(
        self,
        run_id: str,
        directory: Path | str,
        *,
        types: Collection[str] = (),
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[DownloadResult]:
        """Download new checkpoints of the run *run_id* into ``<kind>/<name>`` below *directory*.

        Complete downloads are skipped, incomplete ones replaced.

        :param types: only checkpoints of these types; all when empty.
        :raises tinkex.exceptions.NotFound: there is no such run.
        """
        from tinkex.api.resources import selection

        wanted = {selection.type_called(word) for word in types}
        paths = [
            checkpoint.tinker_path
            for checkpoint in self.known(self.list(None, run_id=run_id))
            if not wanted or checkpoint.checkpoint_type in wanted
        ]
        return self.download_all(paths, directory, with_run=False, on_progress=on_progress)

    @contextmanager
    def open_files(self, path: str) -> Iterator[RemoteFiles]:
        """Open the files of the checkpoint *path* for reading, without downloading all of them.

        >>> with client.checkpoints.open_files(path) as files:          # doctest: +SKIP
        ...     config = json.load(files.open("adapter_config.json"))

        :raises tinkex.exceptions.NotFound: there is no such checkpoint.
        """
        from tinkex.api.transfer import remote

        parsed = TinkerPath.from_string(path)
        with remote.open_files(self._transport, self._sessions, parsed) as files:
            yield files

    def _fetch(
        self, path: TinkerPath, directory: Path, force: bool, on_progress: OnProgress | None
    ) -> Download:
        from tinkex.api.transfer.download import download

        return download(self._transport, self._sessions, path, directory, force, on_progress)

    def _copied(self, body: dict[str, object], headers: dict[str, str], deadline: Deadline) -> str:
        from tinkex.api.http import futures  # which lists do not need

        # Retries have the same idempotency key, so they create no second copy.
        what = "checkpoint copies"
        request = Request("POST", "copy_weights", body, headers=headers, repeatable=True, what=what)
        answer = self._transport.call(request, deadline).object()
        if answer.get("tinker_path") is None:  # some servers respond slowly
            answer = futures.outcome(
                self._transport, answer, "CopyWeights", deadline, wanted="tinker_path"
            )
        path, is_known = as_received(schema.text(answer, "tinker_path"))
        if not is_known:
            deadline.report(note=UNKNOWN_FORM)
        return path


def suggestion(path: TinkerPath, found: Iterable[Checkpoint]) -> str:
    """Return a hint for the unknown *path*: similar checkpoints in *found*, the list of its run."""
    listed = [other for checkpoint in found if (other := checkpoint.path)]
    others = [other for other in listed if other != path]
    if not others:
        return f"The run {path.run_id} has no {'other ' if listed else ''}checkpoints."
    same_name = next((other for other in others if other.name == path.name), None)
    if same_name:
        return f"Did you mean {same_name}?"
    # If a name exists in two kinds, suggest the same kind.
    others.sort(key=lambda other: other.kind != path.kind)
    near = closest(path.name, [other.name for other in others])
    by_name = {other.name: str(other) for other in reversed(others)}
    return f"Checkpoints in this run: {a_few([by_name[name] for name in near], total=len(others))}."


def closest(name: str, names: Iterable[str]) -> list[str]:
    """Return a few of *names*, the most similar to *name* first."""
    different = list(dict.fromkeys(names))
    alike = difflib.get_close_matches(name, different, n=_SHOWN, cutoff=0.5)
    return (alike + [other for other in different if other not in alike])[:_SHOWN]


def list_of_run(transport: Transport, run_id: str, deadline: Deadline) -> list[Checkpoint]:
    """Return all checkpoints of the run *run_id*, newest first.

    :raises NotFound: there is no such run.
    :raises NotOffered: the service has no such endpoint.
    """
    try:
        return _listed(transport, run_id, deadline)
    except NotFound:
        # Some servers respond like this for a run without checkpoints.
        with suppress(TinkexError):
            request_run(transport, run_id, deadline)
            return []
        raise


def _listed(transport: Transport, run_id: str, deadline: Deadline) -> list[Checkpoint]:
    what = "a checkpoint list for a single run"
    request = Request("GET", f"{run_url(run_id)}/checkpoints", what=what)
    data = call_about_run(transport, run_id, request, deadline).object()
    found = (Checkpoint.from_json(record, run_id) for record in schema.rows(data, "checkpoints"))
    different = {checkpoint.tinker_path: checkpoint for checkpoint in found}
    return sorted(different.values(), key=time_of, reverse=True)


def walk_account(
    transport: Transport,
    deadline: Deadline,
    limit: int | None,
    offset: int,
    access_scope: str | None = None,
) -> Walk[Checkpoint] | Page[Checkpoint]:
    """Return *limit* checkpoints (``None``: all) of the account: a page, or an iterator.

    The first page is fetched at once: it shows which kind of list the server has.
    """
    if _ACCOUNT_LIST in transport.missing:
        return _page_of_runs(transport, deadline, limit, offset, NOT_OFFERED)
    scope = {"access_scope": access_scope} if access_scope else {}
    walk = partial(_walk_list, transport, deadline, scope)
    try:
        found = pagination.newest_first(walk, time_of, limit, offset)
        seen = found if isinstance(found, Page) else found.first()
        # A page beyond the end does not show the kind of list.
        seen = seen or (walk(1, 0).first() if offset else [])
    except NotOffered:
        page = _page_of_runs(transport, deadline, limit, offset, NOT_OFFERED)
        transport.missing.add(_ACCOUNT_LIST)
        return page
    transport.missing.discard(_ACCOUNT_LIST)
    # Servers whose list never has sampler checkpoints also omit the kind in checkpoint_id; so a
    # list with full ids is complete, which saves a request.
    if all(c.checkpoint_type == "training" and "/" not in c.checkpoint_id for c in seen):
        runs = walk_runs(transport, deadline, 100)
        if any(run.last_sampler_checkpoint is not None for run in runs):
            return _page_of_runs(transport, deadline, limit, offset, INCOMPLETE)
    return found


def _walk_list(
    transport: Transport,
    deadline: Deadline,
    params: Mapping[str, str],
    limit: int | None,
    offset: int,
) -> Walk[Checkpoint]:
    return pagination.walk(
        transport,
        Request("GET", "checkpoints", params=params, what="a checkpoint list across all runs"),
        Checkpoint.from_json,
        deadline,
        limit=limit,
        offset=offset,
        page_size=_PAGE_SIZE,
        key=lambda checkpoint: checkpoint.tinker_path,
    )


def _page_of_runs(
    transport: Transport, deadline: Deadline, limit: int | None, offset: int, note: str
) -> Page[Checkpoint]:
    """Return the result of :func:`walk_account` by listing each run."""

    def of_listed(run: TrainingRun) -> list[Checkpoint] | NotOffered:
        segment_from_server(run.training_run_id)
        try:
            return _listed(transport, run.training_run_id, deadline)
        except NotFound:
            return []  # it has no checkpoints, or was deleted in the meantime
        except NotOffered as error:
            return error

    runs = [run for run in walk_runs(transport, deadline).distinct() if run.training_run_id]
    found: list[Checkpoint] = []
    for number, listed in enumerate(map_ordered(of_listed, runs, workers=_CONCURRENCY)):
        if not isinstance(listed, NotOffered):
            found += listed
        elif number == 0:
            raise listed
    return Page.of(sorted(found, key=time_of, reverse=True), limit, offset, note)
