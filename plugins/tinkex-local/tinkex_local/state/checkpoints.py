"""Checkpoints: each has a row in the state and a directory of files.

The files are written under a temporary name first. The rename and the row belong to one write
transaction; a killed process leaves only a directory without a row, which a start removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tinkex_local.problems import OperationError, conflict, not_found
from tinkex_local.state.paths import TYPES, TinkerPath
from tinkex_local.state.service import Service
from tinkex_local.state.store import as_json, from_json, iso

_TEMPORARY = ".tmp-"
#: Seconds after which an unfinished directory is considered abandoned.
ABANDONED = 3600


def stage(service: Service, write: Callable[[Path], None]) -> Path:
    """Write the files of a checkpoint to a temporary directory and return it.

    :param write: function that writes the files into a directory.
    :raises OperationError: the disk is full or not writable.
    """
    directory = service.checkpoints / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        directory.mkdir(mode=0o700)
        write(directory)
        for path in directory.iterdir():
            with path.open("r+b") as file:  # Windows flushes only files open for writing
                os.fsync(file.fileno())
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        reason = error.strerror or str(error)
        raise OperationError(f"cannot write the checkpoint: {reason}", "server") from error
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return directory


def make_room(service: Service, path: TinkerPath, *, overwrite: bool = False) -> list[str]:
    """Remove an existing checkpoint *path* if *overwrite*; call this within a transaction.

    :returns: internal ids whose files the caller must :func:`discard` after the commit.
    :raises OperationError: the checkpoint exists and *overwrite* is false.
    """
    row = _row(service, path)
    if row is None:
        return []
    if not overwrite and not _expired(service, row):
        raise OperationError(f"The checkpoint {path} already exists")
    service.store.write("DELETE FROM checkpoints WHERE id = ?", row["id"])
    return [row["id"]]


def adopt(
    service: Service,
    staged: Path,
    path: TinkerPath,
    *,
    ttl: int | None,
    user_metadata: dict[str, Any] | None,
    listed: bool = True,
) -> tuple[str, int]:
    """Add *staged* as the checkpoint *path*; call this within a transaction.

    :param ttl: seconds until it expires, or ``None``.
    :param listed: whether lists show it and its path can be used.
    :returns: the checkpoint's internal id and its size in bytes.
    """
    now = service.clock()
    identifier, size = take(service, staged)
    service.store.insert(
        "checkpoints",
        id=identifier,
        run_id=path.run_id,
        kind=path.kind,
        name=path.name,
        created=now,
        size=size,
        expires=None if ttl is None else now + ttl,
        user_metadata=as_json(user_metadata),
        listed=int(listed),
    )
    return identifier, size


def take(service: Service, staged: Path) -> tuple[str, int]:
    """Move *staged* to its final directory, within the transaction that adds its row.

    :returns: the internal id and the size in bytes.
    """
    identifier = uuid.uuid4().hex
    size = sum(file.stat().st_size for file in staged.iterdir())
    staged.rename(service.checkpoints / identifier)
    return identifier, size


def find(service: Service, path: TinkerPath) -> sqlite3.Row:
    """Return the row of a checkpoint.

    :raises Problem: it does not exist, or it has expired.
    """
    row = _row(service, path)
    if row is None or not row["listed"] or _expired(service, row):
        raise not_found("checkpoint", str(path))
    return row


def listing(
    service: Service,
    *,
    run_id: str | None = None,
    kind: str | None = None,
    limit: int = -1,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """Return listed checkpoints in the protocol's form, the newest first."""
    where, values = _visible(service, run_id, kind)
    rows = service.store.rows(
        f"SELECT * FROM checkpoints WHERE {where} ORDER BY created DESC, rowid DESC "  # noqa: S608
        "LIMIT ? OFFSET ?",
        *values,
        limit,
        offset,
    )
    return [as_dict(row) for row in rows]


def count(service: Service, run_id: str | None = None) -> int:
    """Return the number of listed checkpoints."""
    where, values = _visible(service, run_id)
    return int(service.store.scalar(f"SELECT count(*) FROM checkpoints WHERE {where}", *values))  # noqa: S608


def as_dict(row: sqlite3.Row) -> dict[str, Any]:
    """Return a checkpoint in the protocol's form."""
    path = TinkerPath(row["run_id"], row["kind"], row["name"])
    return {
        "checkpoint_id": path.checkpoint_id,
        "checkpoint_type": TYPES[path.kind],
        "time": iso(row["created"]),
        "tinker_path": str(path),
        "size_bytes": row["size"],
        "public": bool(row["public"]),
        "user_metadata": from_json(row["user_metadata"]),
        "expires_at": iso(row["expires"]),
    }


def delete(service: Service, path: TinkerPath) -> None:
    """Delete a checkpoint permanently.

    :raises Problem: it does not exist.
    """
    with service.store.transaction():
        row = find(service, path)
        service.store.write("DELETE FROM checkpoints WHERE id = ?", row["id"])
    discard(service, [row["id"]])


def set_public(service: Service, path: TinkerPath, public: bool) -> None:
    """Publish or unpublish a checkpoint.

    :raises Problem: it does not exist, or is already in that state.
    """
    with service.store.transaction():
        row = find(service, path)
        if bool(row["public"]) == public:
            raise conflict(f"{path} is already {'public' if public else 'private'}")
        service.store.write(
            "UPDATE checkpoints SET public = ? WHERE id = ?", int(public), row["id"]
        )


def set_ttl(service: Service, path: TinkerPath, seconds: int | None) -> None:
    """Set the expiry of a checkpoint to *seconds* from now, or to never.

    :raises Problem: it does not exist.
    """
    expires = None if seconds is None else service.clock() + seconds
    with service.store.transaction():
        row = find(service, path)
        service.store.write("UPDATE checkpoints SET expires = ? WHERE id = ?", expires, row["id"])


#: Seconds without a heartbeat or a poll after which a session loses its unlisted checkpoints.
SESSION_SECONDS = 86400.0
#: Unlisted checkpoints serve one sampling session, such as those of each step of a training loop.
_UNREACHABLE = """
DELETE FROM checkpoints WHERE listed = 0 AND run_id IN (
    SELECT runs.id FROM runs JOIN sessions ON sessions.id = runs.session_id
    WHERE sessions.finished IS NOT NULL OR sessions.heartbeat < ?)
"""


def sweep(service: Service) -> None:
    """Remove expired and unreachable checkpoints, and the remains of killed processes."""
    store = service.store
    with store.transaction():
        # Here, no other process is between its rename and its row.
        store.write("DELETE FROM checkpoints WHERE expires <= ?", service.clock())
        store.write(_UNREACHABLE, service.clock() - SESSION_SECONDS)
        kept = {row[0] for row in store.rows("SELECT id FROM checkpoints")}
        kept |= {row[0] for row in store.rows("SELECT weights FROM runs WHERE weights NOT NULL")}
        names = set(os.listdir(service.checkpoints))
    discard(service, [name for name in names - kept if not name.startswith(_TEMPORARY)])
    for directory in service.checkpoints.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # its process has just finished
            if time.time() - directory.stat().st_mtime > ABANDONED:
                discard(service, [directory.name])


def discard(service: Service, identifiers: Iterable[str]) -> None:
    """Delete the files of checkpoints whose rows were removed."""
    for identifier in identifiers:
        shutil.rmtree(service.checkpoints / identifier, ignore_errors=True)


def _visible(
    service: Service, run_id: str | None, kind: str | None = None
) -> tuple[str, list[Any]]:
    where = "listed AND (expires IS NULL OR expires > ?)"
    values: list[Any] = [service.clock()]
    for column, value in (("run_id", run_id), ("kind", kind)):
        if value is not None:
            where, values = f"{where} AND {column} = ?", [*values, value]
    return where, values


def _row(service: Service, path: TinkerPath) -> sqlite3.Row | None:
    return service.store.row(
        "SELECT * FROM checkpoints WHERE run_id = ? AND kind = ? AND name = ?",
        path.run_id,
        path.kind,
        path.name,
    )


def _expired(service: Service, row: sqlite3.Row) -> bool:
    return row["expires"] is not None and row["expires"] <= service.clock()
