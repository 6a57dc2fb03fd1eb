"""Begins anew."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tinkex_local import checkpoints
from tinkex_local import home as homes
from tinkex_local.service import Service
from tinkex_local.store import FILE, StateError


def reset(home: Path) -> None:
    """Delete all sessions, runs, results and checkpoints in *home*; added models stay.

    Safe while other processes use the same state. A state file that is no database any more is
    removed whole, added models included.

    :raises OSError: something cannot be removed.
    """
    homes.prepare(home)
    try:
        service = Service(home)
    except (StateError, sqlite3.DatabaseError):
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
            (home / name).unlink(missing_ok=True)
        service = Service(home)
    with contextlib.closing(service):
        with service.store.transaction():
            for table in ("sessions", "runs", "checkpoints", "samplers", "operations"):
                service.store.write(f"DELETE FROM {table}")  # noqa: S608 - from the line above
        checkpoints.sweep(service)
