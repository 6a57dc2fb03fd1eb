"""The copy in separate files that the service makes of a training checkpoint for a download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tinkex.api.http.requesting import Request
from tinkex.api.http.transport import Transport
from tinkex.api.http.waiting import Deadline
from tinkex.api.paths import TinkerPath
from tinkex.api.resources import training
from tinkex.api.resources.sessions import Sessions, outcome_of
from tinkex.api.transfer.signing import COPY_TTL, SignedFiles
from tinkex.api.transfer.staging import StagingDirectory
from tinkex.exceptions import (
    BadRequest,
    Forbidden,
    InvalidResponse,
    NotFound,
    NotOffered,
    TinkexError,
    UsageError,
)

#: Name of the copy.
_NAME = "download"
#: What a service answers that does not make copies of training checkpoints for download.
_REFUSED = training.NO_DIRECT_LOAD
#: What it answers when a copy of an earlier attempt has gone.
_GONE = (NotFound, NotOffered, Forbidden, BadRequest, InvalidResponse, UsageError)


class NoCopies(Exception):
    """The service does not make copies of training checkpoints for download."""


@contextmanager
def copy_of(
    transport: Transport, sessions: Sessions, path: TinkerPath, staging: StagingDirectory
) -> Iterator[SignedFiles]:
    """Yield the files of a copy of *path*: that of an earlier attempt, or a new one.

    It is removed in the end, unless another attempt can go on with it; then it vanishes by
    itself after an hour.

    :raises NoCopies: there is no such thing.
    """
    kept = _kept_copy(transport, staging)
    if kept is not None:
        with _removed(transport, kept[0], staging):
            yield kept[1]
        return
    deadline = transport.deadline("the checkpoint to be prepared")
    session = sessions.create(deadline=deadline)
    kind: type[BaseException] | None = None
    try:
        copy = _make(transport, session, path, deadline)
        staging.open()
        with staging.changing(at_once=True) as state:
            state["copy"] = str(copy)
        with _removed(transport, copy, staging):
            yield SignedFiles(transport, copy, keep=False)
    except BaseException as error:
        kind = None if isinstance(error, NoCopies) else type(error)
        raise
    finally:
        session.finish(outcome_of(kind))


def _kept_copy(
    transport: Transport, staging: StagingDirectory
) -> tuple[TinkerPath, SignedFiles] | None:
    text = staging.state.get("copy")
    if not text:
        return None
    try:
        copy = TinkerPath.from_string(text)
        if (copy.kind, copy.name) != ("external_weights", _NAME):
            return None  # only what a download has made may be deleted after it
        signed = SignedFiles(transport, copy, keep=False)
        signed.urls()
    except _GONE:
        return None
    return copy, signed


@contextmanager
def _removed(transport: Transport, copy: TinkerPath, staging: StagingDirectory) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not staging.keeps(error):
            _remove(transport, copy, hastily=not isinstance(error, Exception))
        raise
    _remove(transport, copy, hastily=False)


def _remove(transport: Transport, copy: TinkerPath, *, hastily: bool) -> None:
    # It would vanish by itself after its time; a failure here must not hide the result.
    with suppress(TinkexError):
        deadline = transport.deadline("the copy to be deleted", 0.5 if hastily else 10.0)
        transport.call(Request("DELETE", copy.url), deadline)


def _make(transport: Transport, session: Any, path: TinkerPath, deadline: Deadline) -> TinkerPath:
    metadata = {"created_by": "tinkex checkpoint download"}
    try:
        client = training.create_by_loading(
            transport, session, path, deadline, user_metadata=metadata
        )
    except _REFUSED as error:
        raise NoCopies from error
    try:
        return client.save_external(_NAME, COPY_TTL, deadline)
    except NotOffered as error:
        raise NoCopies from error
