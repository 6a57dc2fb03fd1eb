"""The timeline of a session as a Perfetto trace, built by the service and then fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinkex.api.http import schema
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport, join_url
from tinkex.api.paths import segment
from tinkex.api.transfer.progress import OnProgress, Progress
from tinkex.api.transfer.storage import Storage
from tinkex.exceptions import LocalError, NotFound, OperationFailed
from tinkex.files import replacing

#: Seconds between two looks at whether the trace is ready: at first, and, doubling, at most (what
#: the official SDK always waits). A short session's trace is not worth five seconds.
FIRST_INTERVAL, INTERVAL = 0.5, 5.0
SUFFIX = ".pftrace"


@dataclass(frozen=True)
class Trace:
    """A trace that was fetched.

    :ivar session_id: the session it is of.
    :ivar path: the file.
    :ivar size_bytes: its length.
    """

    session_id: str
    path: Path
    size_bytes: int


def trace_url(transport: Transport, deadline: Deadline, session_id: str) -> str:
    """Wait until the trace of the session is built and return its signed address.

    :raises OperationFailed: the service could not build it.
    :raises tinkex.exceptions.TimedOut: it is not ready in time.
    """
    path = f"sessions/{segment(session_id)}/trace_export"
    request = Request("GET", path, what="traces of sessions, or has no session of this id")
    interval = FIRST_INTERVAL
    while True:
        try:
            data = transport.call(request, deadline).object()
        except NotFound as error:
            error.hint = "See 'tinkex session list'."
            raise
        status = schema.optional_text(data, "status")
        if status == "ready":
            return join_url("", schema.text(data, "url"))
        if status == "failed":
            why = schema.optional_text(data, "error") or "the service does not say why"
            raise OperationFailed(f"the trace could not be built: {why}")
        if status != "pending":
            schema.refuse(f"no status of a trace: {status!r}")
        deadline.pause(interval, "the service builds it")
        interval = min(2 * interval, INTERVAL)


def fetch(
    transport: Transport,
    url: str,
    session_id: str,
    target: Path,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Trace:
    """Fetch *url* into the file *target*; afterwards it has all of it, or what it had before.

    :param force: replace a file that is there.
    :raises LocalError: it is there, or cannot be written.
    """
    refuse_existing(target, force=force)
    try:
        with (
            replacing(target) as stream,
            Storage(transport) as storage,
            storage.open(url) as body,
        ):
            while block := body.read():
                stream.write(block)
                if on_progress is not None:
                    on_progress(Progress(body.received, body.expected, target.name))
            size = stream.tell()
    except OSError as error:
        raise LocalError(f"cannot write {target}: {error.strerror}") from error
    return Trace(session_id, target, size)


def refuse_existing(target: Path, *, force: bool) -> None:
    """Refuse a directory, and a file unless *force* is given.

    :raises LocalError: it is there, or cannot be.
    """
    try:
        is_there, is_directory = target.exists(), target.is_dir()
    except OSError as error:
        raise LocalError(f"cannot write {target}: {error.strerror}") from error
    if is_directory:
        raise LocalError(f"cannot write {target}: it is a directory", hint="Name a file.")
    if is_there and not force:
        raise LocalError(f"{target} exists", hint="Add --force to replace it.")


def default_name(session_id: str) -> str:
    """Return the name of the file for a session's trace."""
    return "".join(c if c.isalnum() or c in "._:-" else "_" for c in session_id) + SUFFIX
