"""Reset of the service's state."""

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
    """Delete all sessions, runs, results and checkpoints in *home*; added models are kept.

    Safe while other processes use the same state. A state file that is no longer a database is
    removed, including added models; nothing is removed after a temporary failure.

    :raises OSError: a file cannot be removed.
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
                service.store.write(f"DELETE FROM {table}")  # noqa: S608 - constants
            # A concurrent save belongs to a deleted run and will fail.
            names = os.listdir(service.checkpoints)
        checkpoints.discard(service, names)
