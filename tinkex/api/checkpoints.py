"""Checkpoints: listing, describing, sharing, deleting and downloading them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex.api import listing, paging
from tinkex.api.lineage import Lineage, lineage_of, weights_info
from tinkex.api.paging import Page
from tinkex.api.paths import TinkerPath
from tinkex.api.records import Checkpoint
from tinkex.api.sessions import Sessions
from tinkex.api.transport import Request, Transport
from tinkex.api.waiting import Deadline
from tinkex.exceptions import APIError, Forbidden, InvalidAnswer, NotFound

if TYPE_CHECKING:
    from tinkex.api.download import Download
    from tinkex.api.meter import OnProgress, Progress
    from tinkex.api.moving import Moved

__all__ = ["Checkpoint", "CheckpointInfo", "Checkpoints"]

_KINDS = {"weights": "sampler_weights", "sampler_weights": "weights"}


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint and what it was trained from; ``None`` where the service does not tell.

    Members are those of :class:`Checkpoint` and of the run's adapter.
    """

    tinker_path: str
    run_id: str
    checkpoint_id: str
    checkpoint_type: str
    time: datetime | None = None
    size_bytes: int | None = None
    public: bool | None = None
    expires_at: datetime | None = None
    user_metadata: Mapping[str, Any] | None = None
    base_model: str | None = None
    is_lora: bool | None = None
    lora_rank: int | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    train_unembed: bool | None = None


class Checkpoints:
    """The checkpoints of the account."""

    def __init__(self, transport: Transport, sessions: Sessions) -> None:
        self._transport = transport
        self._sessions = sessions

    def list(
        self, limit: int | None = 20, offset: int = 0, run_id: str | None = None
    ) -> Page[Checkpoint]:
        """Return checkpoints in the service's order.

        Some servers have no list over all runs, or one that leaves sampler checkpoints out;
        then the runs are asked one by one, and the page's ``note`` says so.

        :param limit: how many at most; ``None`` and 0 mean all.
        :param offset: how many to skip.
        :param run_id: only those of one training run.
        :raises tinkex.exceptions.NotFound: there is no such run.
        """
        limit = paging.checked(limit, offset)
        deadline = self._transport.deadline("the list of checkpoints")
        if run_id is None:
            return listing.of_account(self._transport, deadline, limit, offset)
        found = listing.of_run(self._transport, run_id, deadline)
        end = None if limit is None else offset + limit
        return Page(found[offset:end], len(found), offset)

    def find(self, path: str) -> Checkpoint:
        """Return the checkpoint *path*.

        :raises tinkex.exceptions.NotFound: there is none; the hint names one of the same name
            and another kind, if there is one.
        """
        deadline = self._transport.deadline("the checkpoint")
        return self._find(TinkerPath.from_string(path), deadline)

    def info(self, path: str) -> CheckpointInfo:
        """Return all that the service knows about the checkpoint *path*.

        Also works for a checkpoint of somebody else, who has published it.

        :raises tinkex.exceptions.NotFound: there is none.
        """
        deadline = self._transport.deadline("the checkpoint")
        parsed = TinkerPath.from_string(path)
        try:
            found = self._find(parsed, deadline)
        except (NotFound, Forbidden) as missing:
            return self._info_of_unlisted(parsed, missing, deadline)
        try:
            lineage = lineage_of(self._transport, parsed, deadline)
        except APIError:
            lineage = Lineage()
        return _described(parsed, found, lineage)

    def publish(self, path: str) -> None:
        """Let everybody use the checkpoint *path*.

        :raises tinkex.exceptions.Conflict: it is public already.
        """
        self._change("POST", path, "/publish", "publishing", "the checkpoint to be published")

    def unpublish(self, path: str) -> None:
        """Take the checkpoint *path* back from the public.

        :raises tinkex.exceptions.Conflict: it is not public.
        """
        self._change("DELETE", path, "/publish", "unpublishing", "the checkpoint to be unpublished")

    def delete(self, path: str) -> None:
        """Delete the checkpoint *path* for good.

        :raises tinkex.exceptions.NotFound: there is none.
        """
        self._change("DELETE", path, "", "deleting checkpoints", "the checkpoint to be deleted")

    def set_ttl(self, path: str, seconds: int | None) -> None:
        """Let the checkpoint *path* be deleted after *seconds*, or never (``None``).

        :raises tinkex.exceptions.BadRequest: the time is outside of what the service allows.
        """
        body = {"ttl_seconds": seconds}
        self._change("PUT", path, "/ttl", "expiry of checkpoints", "the expiry to be set", body)

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
        return self._fetch(TinkerPath.from_string(path), Path(directory), force, on_progress)

    def download_all(
        self,
        paths: Sequence[str],
        directory: Path | str,
        *,
        force: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Moved]:
        """Download several checkpoints, each into ``<run>/<kind>/<name>`` below *directory*.

        All are tried; what came of each is yielded in their order.

        :param force: replace files of the same names.
        :param on_progress: is called after every block received, with the bytes of all.
        :raises UsageError: one of *paths* is no path.
        """
        from tinkex.api import moving

        root = Path(directory)
        parsed = list(dict.fromkeys(map(TinkerPath.from_string, paths)))
        places = [(path, moving.directory_of(root, path)) for path in parsed]
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
        """
        from tinkex.api import moving

        root = Path(directory)
        listed = self.list(None, run_id=run_id)
        parsed = [
            TinkerPath.from_string(checkpoint.tinker_path)
            for checkpoint in listed
            if not types or checkpoint.checkpoint_type in types
        ]
        places = [(path, moving.directory_of(root, path, with_run=False)) for path in parsed]
        return moving.move(self._fetch, places, on_progress, skip=True)

    def _fetch(
        self, path: TinkerPath, directory: Path, force: bool, on_progress: OnProgress | None
    ) -> Download:
        from tinkex.api.download import download

        return download(self._transport, self._sessions, path, directory, force, on_progress)

    def _find(self, path: TinkerPath, deadline: Deadline) -> Checkpoint:
        found = {c.tinker_path: c for c in listing.of_run(self._transport, path.run_id, deadline)}
        if str(path) in found:
            return found[str(path)]
        sibling = TinkerPath(path.run_id, _KINDS.get(path.kind, path.kind), path.name)
        hint = f"Did you mean {sibling}?" if str(sibling) in found else None
        raise NotFound(
            f"no checkpoint {path}",
            status=404,
            hint=hint or f"See 'tinkex checkpoint list --run-id {path.run_id}'.",
        )

    def _info_of_unlisted(
        self, path: TinkerPath, missing: APIError, deadline: Deadline
    ) -> CheckpointInfo:
        try:
            lineage = weights_info(self._transport, path, deadline)
        except (APIError, InvalidAnswer):
            raise missing from None
        return _described(path, None, lineage)

    def _change(
        self, method: str, path: str, suffix: str, what: str, operation: str, body: Any = None
    ) -> None:
        parsed = TinkerPath.from_string(path)
        # A repeated request may find its work done by the first: gone, or in that state already.
        settled = frozenset({404, 409} if suffix else {404})
        request = Request(method, parsed.url + suffix, body, settled=settled, what=what)
        self._transport.call(request, self._transport.deadline(operation))


def _described(path: TinkerPath, found: Checkpoint | None, lineage: Lineage) -> CheckpointInfo:
    known = {} if found is None else vars(found)
    default = {
        "tinker_path": str(path),
        "run_id": path.run_id,
        "checkpoint_id": path.checkpoint_id,
        "checkpoint_type": path.checkpoint_type,
    }
    return CheckpointInfo(**{**default, **known, **vars(lineage)})
