"""Checkpoints: listing, describing, sharing, deleting and downloading them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex.api.http import pagination
from tinkex.api.http.pagination import Page, Walk
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import TinkerPath
from tinkex.api.resources import listing
from tinkex.api.resources.records import Checkpoint
from tinkex.api.resources.sessions import Sessions
from tinkex.exceptions import BadRequest, Forbidden, NotFound, NotOffered
from tinkex.files import path_of

if TYPE_CHECKING:
    from tinkex.api.resources.lineage import CheckpointInfo
    from tinkex.api.resources.selection import Selection
    from tinkex.api.transfer.download import Download
    from tinkex.api.transfer.moving import Moved
    from tinkex.api.transfer.progress import OnProgress, Progress

__all__ = ["Checkpoint", "Checkpoints"]

#: What TuFT says of every path that is to be unpublished: its route takes "publish" for the name.
_MISREAD = "Invalid checkpoint reference"
#: Seconds that a checkpoint may be given to live: an hour to ten years.
TTL_LIMITS = (3600, 10 * 365 * 86400)


class Checkpoints:
    """The checkpoints of the account."""

    def __init__(self, transport: Transport, sessions: Sessions) -> None:
        self._transport = transport
        self._sessions = sessions

    def list(
        self,
        limit: int | None = 20,
        offset: int = 0,
        run_id: str | None = None,
        *,
        access_scope: str | None = None,
    ) -> Page[Checkpoint]:
        """Return checkpoints in the service's order.

        Some servers have no list over all runs, or one that leaves sampler checkpoints out;
        then the runs are asked one by one, and the page's ``note`` says so.

        :param limit: how many at most; ``None`` and 0 mean all.
        :param offset: how many to skip.
        :param run_id: only those of one training run.
        :param access_scope: ``owned``, or ``accessible`` for all that the key may read; a list of
            one run knows no difference.
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
        """Return what :meth:`list` does, page by page where the service has pages.

        The first page has been fetched, the others are while they are walked through: an error
        may come in the middle, and memory stays flat.
        """
        limit = pagination.positive_limit(limit, offset)
        deadline = self._transport.deadline("the list of checkpoints")
        if run_id is None:
            return listing.of_account(self._transport, deadline, limit, offset, access_scope)
        found = listing.of_run(self._transport, run_id, deadline)
        end = None if limit is None else offset + limit
        return Page(found[offset:end], len(found), offset)

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
        """Return the checkpoints that are *wanted*, chosen here out of the whole list.

        :param limit: how many at most; ``None`` and 0 mean all.
        :param offset: how many of those wanted to skip.
        :param sort: member of :class:`Checkpoint` to sort by; the service's order by default.
        :param access_scope: see :meth:`list`.
        :raises tinkex.exceptions.NotFound: there is no such run.
        """
        limit = pagination.positive_limit(limit, offset)
        everything = self.list(None, run_id=wanted.one_run, access_scope=access_scope)
        found = [checkpoint for checkpoint in everything if wanted.matches(checkpoint)]
        if sort is not None:
            from tinkex.api.resources import selection

            found = selection.ordered(found, sort, descending=descending)
        end = None if limit is None else offset + limit
        return Page(found[offset:end], len(found), offset, everything.note)

    def find(self, path: str) -> Checkpoint:
        """Return the checkpoint *path*.

        :raises tinkex.exceptions.NotFound: there is none; the hint names what its run has.
        """
        deadline = self._transport.deadline("the checkpoint")
        return self._find(TinkerPath.from_string(path), deadline)

    def info(self, path: str) -> CheckpointInfo:
        """Return all that the service knows about the checkpoint *path*.

        Also works for a checkpoint of somebody else, who has published it.

        :raises tinkex.exceptions.NotFound: there is none.
        """
        from tinkex.api.resources import lineage

        deadline = self._transport.deadline("the checkpoint")
        parsed = TinkerPath.from_string(path)
        try:
            found = self._find(parsed, deadline)
        except (NotFound, Forbidden) as missing:
            return lineage.info_of_unlisted(self._transport, parsed, missing, deadline)
        return lineage.info_of(self._transport, parsed, found, deadline)

    def publish(self, path: str, *, explain: bool = True) -> None:
        """Let everybody use the checkpoint *path*.

        :param explain: if there is none, ask what its run has instead, for the hint.
        :raises tinkex.exceptions.Conflict: it is public already.
        """
        what = ("publishing", "the checkpoint to be published")
        self._change("POST", path, "/publish", what, explain=explain)

    def unpublish(self, path: str, *, explain: bool = True) -> None:
        """Take the checkpoint *path* back from the public.

        :param explain: see :meth:`publish`.
        :raises tinkex.exceptions.Conflict: it is not public.
        """
        what = ("unpublishing", "the checkpoint to be unpublished")
        try:
            self._change("DELETE", path, "/publish", what, explain=explain)
        except BadRequest as error:
            if error.message != _MISREAD:
                raise
            raise NotOffered(
                "this server does not offer unpublishing",
                status=error.status or 400,
                request_id=error.request_id,
                body=error.body,
            ) from error

    def delete(self, path: str, *, explain: bool = True) -> None:
        """Delete the checkpoint *path* for good.

        :param explain: see :meth:`publish`.
        :raises tinkex.exceptions.NotFound: there is none.
        """
        what = ("deleting checkpoints", "the checkpoint to be deleted")
        self._change("DELETE", path, "", what, explain=explain)

    def set_ttl(self, path: str, seconds: int | None, *, explain: bool = True) -> None:
        """Let the checkpoint *path* be deleted after *seconds*, or never (``None``).

        :param explain: see :meth:`publish`.
        :raises tinkex.exceptions.BadRequest: the time is outside of what the service allows,
            which is an hour to ten years.
        """
        what = ("expiry of checkpoints", "the expiry to be set")
        self._change("PUT", path, "/ttl", what, {"ttl_seconds": seconds}, explain=explain)

    def copy(
        self,
        path: str,
        *,
        project_id: str | None = None,
        ttl_seconds: int | None = None,
        access_token: str | None = None,
    ) -> str:
        """Copy the checkpoint *path*, which keeps its kind and name, and return the copy's path.

        :param project_id: the project that will own it; without one it goes into a new run of a
            new session, which cannot be trained on.
        :param ttl_seconds: how long the copy lives; the expiry of the original does not matter.
        :param access_token: key of the account that may read the original, if it is another.
        """
        from tinkex.api.resources import copying

        return copying.copy(
            self._transport,
            self._sessions,
            TinkerPath.from_string(path),
            project_id=project_id,
            ttl_seconds=ttl_seconds,
            access_token=access_token,
        )

    def storage_rate(self) -> float | None:
        """Return what a gigabyte of storage costs for a month in US dollars, if the service tells.

        Never raises: only some services bill, and only some keys may see bills.
        """
        from tinkex.api.resources import prices

        return prices.storage_rate(self._transport)

    def nearest(self, path: str) -> str | None:
        """Return a hint about *path*, which is not there: what its run has; never raises."""
        deadline = self._transport.deadline("what else the run has")
        from tinkex.api.resources import siblings

        return siblings.hint_about(self._transport, TinkerPath.from_string(path), deadline)

    def download(
        self,
        path: str,
        directory: Path | str,
        *,
        force: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Download:
        """Download the files of the checkpoint *path* into *directory*.

        All files are complete and in place when this returns, or nothing has changed. What an
        interrupted download has brought is kept in a hidden directory, from which the next
        call with the same arguments goes on. The timeout bounds the time without a single byte,
        not the whole download.

        :param directory: is created if need be; its other files stay.
        :param force: replace files of the same names, once the new ones are complete.
        :param on_progress: is called after every block received, by one thread at a time.
        :raises tinkex.exceptions.LocalError: a file is in the way, or cannot be written, or
            another process downloads the same to the same place.
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
    ) -> Iterator[Moved]:
        """Download several checkpoints, each into ``<run>/<kind>/<name>`` below *directory*.

        All are tried; what came of each is yielded in their order. What is there in its full size
        is left alone; what is there in part is replaced.

        :param force: fetch them all, and replace files of the same names.
        :param with_run: without, the directories are ``<kind>/<name>``, as for :meth:`sync`.
        :param on_progress: is called after every block received, with the bytes of all.
        :raises UsageError: one of *paths* is no path.
        """
        from tinkex.api.transfer import moving

        root = path_of(directory)
        parsed = list(dict.fromkeys(map(TinkerPath.from_string, paths)))
        places = [(path, moving.directory_of(root, path, with_run=with_run)) for path in parsed]
        return moving.move(self._fetch, places, on_progress, force=force)

    def sync(
        self,
        run_id: str,
        directory: Path | str,
        *,
        types: Collection[str] = (),
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Moved]:
        """Download what is new of the run *run_id*, each into ``<kind>/<name>`` below *directory*.

        What is there in its full size is left alone; what is there in part is replaced.

        :param types: only checkpoints of these types (``training``, ``sampler``); all when empty.
        :param on_progress: see :meth:`download_all`.
        :raises tinkex.exceptions.NotFound: there is no such run.
        :raises tinkex.exceptions.UsageError: there is no such type.
        """
        from tinkex.api.resources import selection
        from tinkex.api.transfer import moving

        root = path_of(directory)
        wanted = {selection.type_called(word) for word in types}
        listed = self.list(None, run_id=run_id)
        parsed = [
            TinkerPath.from_string(checkpoint.tinker_path)
            for checkpoint in listed
            if not wanted or selection.type_of(checkpoint) in wanted
        ]
        places = [(path, moving.directory_of(root, path, with_run=False)) for path in parsed]
        return moving.move(self._fetch, places, on_progress)

    def _fetch(
        self, path: TinkerPath, directory: Path, force: bool, on_progress: OnProgress | None
    ) -> Download:
        from tinkex.api.transfer.download import download

        return download(self._transport, self._sessions, path, directory, force, on_progress)

    def _find(self, path: TinkerPath, deadline: Deadline) -> Checkpoint:
        found = {c.tinker_path: c for c in listing.of_run(self._transport, path.run_id, deadline)}
        if str(path) in found:
            return found[str(path)]
        from tinkex.api.resources import siblings

        hint = siblings.hint_from(path, found.values())
        raise NotFound(f"no checkpoint {path}", status=404, hint=hint)

    def _change(
        self,
        method: str,
        path: str,
        suffix: str,
        what: tuple[str, str],
        body: Any = None,
        *,
        explain: bool,
    ) -> None:
        """Ask for a change; *what* names the ability and what is waited for."""
        parsed = TinkerPath.from_string(path)
        deadline = self._transport.deadline(what[1])
        # A repeated request may find its work done by the first: gone, or in that state already.
        settled = frozenset({404, 409} if suffix else {404})
        request = Request(
            method, parsed.url + suffix, body, repeatable=True, settled=settled, what=what[0]
        )
        try:
            self._transport.call(request, deadline)
        except NotFound as missing:
            if explain:
                from tinkex.api.resources import siblings

                hint = siblings.hint_about(self._transport, parsed, deadline)
                missing.hint = hint or missing.hint
            raise
