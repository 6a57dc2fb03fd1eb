"""Resets the state."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from tinkex_local import home as homes
from tinkex_local.state import checkpoints
from tinkex_local.state.service import Service
from tinkex_local.state.store import FILE, StateError, is_damaged


def reset(home: Path) -> None:
    """Delete all sessions, runs, results and checkpoints in *home*; added models stay.

    Safe while other processes use the same state. A state file that is no database any more is
    removed whole, added models included; nothing is removed because of a failure that passes.

    :raises OSError: something cannot be removed.
    :raises StateError: the state file cannot be used, though it is not damaged.
    :raises sqlite3.Error: it cannot be written: the disk is full, another process has locked it.
    """
    homes.prepare(home)
    try:
        _empty(home)
    except (StateError, sqlite3.Error) as error:
        if not is_damaged(error):
            raise
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
            (home / name).unlink(missing_ok=True)
        _empty(home)


def _empty(home: Path) -> None:
    with contextlib.closing(Service(home)) as service:
        with service.store.transaction():
            for table in ("sessions", "runs", "checkpoints", "samplers", "operations"):
                service.store.write(f"DELETE FROM {table}")  # noqa: S608 - from the line above
            # A save in progress is for a run that no longer exists, and will fail.
            names = os.listdir(service.checkpoints)
        checkpoints.discard(service, names)
