"""The signed URL of a checkpoint's archive, which a service may have to create first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tinkex.api.http import schema
from tinkex.api.http.retry import LONGEST_WAIT, Retrying, retry_after
from tinkex.api.http.transport import REDIRECTS, Request, Transport, join_url, name_missing
from tinkex.api.paths import SAMPLER_KIND, TinkerPath, run_url
from tinkex.api.resources.checkpoint_info import Checkpoint, row_of, twins_of
from tinkex.api.transfer import manifest
from tinkex.config.values import is_loopback
from tinkex.exceptions import ConnectionFailed, LocalError, NotFound, NotOffered, TimedOut

if TYPE_CHECKING:
    from tinkex.api.http.transport import Response

#: Initial and maximum seconds between two polls for an archive.
_FIRST_POLL, _LONGEST_POLL = 1.0, 30.0
#: Statuses of an archive that is not ready.
_NOT_READY = frozenset({425, 503})
_FULL_ARCHIVE = "GET training_runs/{run}/checkpoints/{kind}/{name}/archive"
#: Content types of an archive, and its first bytes: of gzip, or of tar at an offset.
_ARCHIVE_TYPES = frozenset(
    f"application/{name}"
    for name in ("gzip", "x-gzip", "tar", "x-tar", "x-compressed-tar", "octet-stream")
)
GZIP, _TAR, _TAR_AT = b"\x1f\x8b", b"ustar", 257


class ArchiveURL:
    """Finds the signed URL of the archive with the checkpoint *path*."""

    def __init__(self, transport: Transport, path: TinkerPath) -> None:
        self._transport, self._path = transport, path

    def get(self) -> str:
        """Return the signed URL of the archive, once it is ready."""
        missing, path = self._transport.missing, self._path
        ways = [lambda: path.url, self._bare_url]
        if _FULL_ARCHIVE in missing:
            ways.reverse()
        refusal: NotOffered | None = None
        for find in ways:
            if refusal is not None and refusal.status != 404:
                break
            way = find()
            if way is None:
                continue
            try:
                found = self._poll_archive(f"{way}/archive")
            except NotOffered as error:
                refusal = refusal or error
                continue
            except NotFound:
                if way == path.url:
                    raise
                continue
            if way == path.url:
                missing.discard(_FULL_ARCHIVE)
            elif refusal is not None:
                missing.add(_FULL_ARCHIVE)
            return found
        assert refusal is not None
        kind = path.checkpoint_type or path.kind
        name_missing(refusal, f"this server does not offer downloads of {kind} checkpoints")
        raise refusal from None

    def _bare_url(self) -> str | None:
        """Return the URL that uses an id without a kind, if the run's list has such an id."""
        path, deadline = self._path, self._transport.deadline("the run's checkpoints")
        request = Request("GET", f"{run_url(path.run_id)}/checkpoints")
        try:
            records = schema.items(self._transport.call(request, deadline).object(), "checkpoints")
        except (NotFound, NotOffered):
            return None
        rows = [Checkpoint.from_json(record, path.run_id) for record in records]
        row, twins = row_of(path, rows), twins_of(path, rows)
        # SkyRL has sampler checkpoints only: for a training checkpoint such an id would mean the
        # sampler's files.
        if row is None or not row.has_bare_id or (twins and path.kind != SAMPLER_KIND):
            return None
        if twins:
            same = f"{twins[0].tinker_path} has the same name as {path}"
            note = f"The server identifies checkpoints only by name, and {same}. The archive may "
            deadline.report(note=f"{note}contain either checkpoint. Check the downloaded files.")
        return replace(path, name=row.checkpoint_id).bare_url

    def _poll_archive(self, path: str) -> str:
        transport = self._transport
        deadline = transport.deadline("the archive")
        interval = _FIRST_POLL
        # Every response is handled here: a redirect is the result, 503 means "not ready".
        request = Request(
            *("GET", path),
            what="checkpoint archives",
            repeatable=False,
            final=REDIRECTS,
            is_enough=_is_archive,
        )
        retrying = Retrying(repeatable=True)
        while True:
            try:
                response = transport.once(request, deadline)
            except (ConnectionFailed, TimedOut) as error:
                retrying.pause_after(error, deadline)
                continue
            if response.status not in _NOT_READY:
                return self._location(response, path)
            asked = retry_after(response.headers)
            wait = asked if asked is not None and asked <= LONGEST_WAIT else interval
            if not deadline.allows(wait):
                raise transport.refusal(response)
            deadline.pause(wait, "the archive is being created")
            interval = min(interval * 2, _LONGEST_POLL)

    def _location(self, response: Response, path: str) -> str:
        base = self._transport.url(path)
        if 300 <= response.status < 400 and response.headers.get("location"):
            return join_url(base, response.headers["location"])
        if not response.ok:
            raise self._transport.refusal(response, "checkpoint archives")
        if _is_archive(response):  # it is fetched from the same URL, as a file
            return base
        return join_url(base, schema.text(response.object(), "url"))


def _is_archive(response: Response) -> bool:
    """Return whether *response* contains an archive; the first 1 KiB of its body is enough."""
    body, may_be = response.body, response.content_type in _ARCHIVE_TYPES
    is_tar = body[_TAR_AT:].startswith(_TAR)
    return response.ok and (body.startswith(GZIP) or is_tar or (may_be and body[:1] != b"{"))


def local_directory(transport: Transport, url: str) -> Path:
    """Return the directory in *url*, a ``file:`` URL, if it is certainly a checkpoint.

    :raises LocalError: it is on another machine, or may not be a checkpoint.
    """
    parts = urlsplit(url)
    source = Path(unquote(parts.path))
    is_here = is_loopback(transport.base_url) and parts.netloc in ("", "localhost")
    is_plain = source.is_absolute() and ".." not in source.parts
    config = source / manifest.ADAPTER_CONFIG
    if is_here and is_plain and config.is_file() and not config.is_symlink():
        return source
    raise LocalError(
        f"the checkpoint is in a directory on the server's own machine: {source}",
        hint=f"If the directory contains {config.name}, run the download on that machine with a "
        "base URL that points to 127.0.0.1.",
    )
