"""The state of the service in one SQLite file, safe for several threads and processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Name of the file in the home directory.
FILE = "state.sqlite3"
#: Seconds to wait for another process's transaction.
BUSY_TIMEOUT = 30.0
#: Maximum number of idle connections.
IDLE = 16

_VERSION = 3
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE models (name TEXT PRIMARY KEY, directory TEXT NOT NULL, added REAL NOT NULL);
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, created REAL NOT NULL, tags TEXT NOT NULL, user_metadata TEXT,
    display_name TEXT, heartbeat REAL NOT NULL, finished REAL, reason TEXT);
CREATE TABLE runs (
    id TEXT PRIMARY KEY, session_id TEXT NOT NULL, base_model TEXT NOT NULL,
    rank INTEGER NOT NULL, seed INTEGER NOT NULL, train_attn INTEGER NOT NULL,
    train_mlp INTEGER NOT NULL, train_unembed INTEGER NOT NULL, user_metadata TEXT,
    created REAL NOT NULL, last_request REAL NOT NULL, weights TEXT, unloaded REAL, holder TEXT);
CREATE INDEX runs_created ON runs (created);
CREATE TABLE checkpoints (
    id TEXT PRIMARY KEY, run_id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    created REAL NOT NULL, size INTEGER NOT NULL, public INTEGER NOT NULL DEFAULT 0,
    expires REAL, user_metadata TEXT, listed INTEGER NOT NULL DEFAULT 1,
    UNIQUE (run_id, kind, name));
CREATE INDEX checkpoints_created ON checkpoints (created);
CREATE TABLE samplers (
    id TEXT PRIMARY KEY, session_id TEXT NOT NULL, base_model TEXT NOT NULL,
    checkpoint_id TEXT, model_path TEXT, digest TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE operations (
    request_id TEXT PRIMARY KEY, kind TEXT NOT NULL, scope TEXT NOT NULL, seq INTEGER,
    digest TEXT NOT NULL, state TEXT NOT NULL, payload TEXT, result TEXT,
    created REAL NOT NULL, began REAL, finished REAL, data BLOB, UNIQUE (scope, seq));
CREATE INDEX operations_state ON operations (state, created);
"""
#: Version → what makes its state one of the next version.
_UPGRADES = {
    1: """
ALTER TABLE operations ADD COLUMN began REAL;
ALTER TABLE operations ADD COLUMN finished REAL;
""",
    2: """
ALTER TABLE operations ADD COLUMN data BLOB;
ALTER TABLE runs ADD COLUMN holder TEXT;
""",
}


def as_json(value: Any) -> str | None:
    """Return *value* as JSON for a column, with ``NULL`` for ``None``."""
    return None if value is None else json.dumps(value)


def from_json(text: str | None) -> Any:
    """Parse the value of a JSON column."""
    return None if text is None else json.loads(text)


def iso(seconds: float | None) -> str | None:
    """Return *seconds* since the epoch as ``2026-01-31T12:00:00.000000Z``."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class StateError(Exception):
    """The state file cannot be used; the message is a clause for users."""


def is_damaged(error: BaseException | None) -> bool:
    """Return whether *error* means that the file is no longer a database.

    A full disk or a lock is temporary, and no reason to remove the file.
    """
    if isinstance(error, StateError):
        error = error.__cause__
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def reason(error: sqlite3.Error, directory: Path) -> str:
    """Return why SQLite cannot use a file in *directory*.

    SQLite's message may be less specific: ``disk I/O error`` on a full disk.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    failed_to_write = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)
    failed_to_open = code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
    with contextlib.suppress(OSError):
        if failed_to_write and shutil.disk_usage(directory).free == 0:
            return os.strerror(errno.ENOSPC)
        if failed_to_open and directory.is_dir() and not os.access(directory, os.W_OK):
            return "the directory is not writable"
    return str(error)


class Store:
    """Connections to the state file; only one thread uses each at a time.

    SQLite crashes if a connection is closed while another thread uses it, so only idle connections
    are closed at once, and the others when they are returned.

    :param path: the SQLite file, created if missing.
    :raises StateError: it is not a database, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._guard = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        #: Number of times the state was closed; connections from before are not reused.
        self._closings = 0
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            raise StateError(f"cannot use {path}: {reason(error, path.parent)}") from error

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        with self._connection() as connection:
            return connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """Return the first row of a query, if any."""
        with self._connection() as connection:
            row: sqlite3.Row | None = connection.execute(sql, values).fetchone()
        return row

    def scalar(self, sql: str, *values: Any) -> Any:
        """Return the first value of the first row of a query, or ``None``."""
        row = self.row(sql, *values)
        return row[0] if row is not None else None

    def write(self, sql: str, *values: Any) -> int:
        """Execute a statement, in the current transaction if there is one.

        :returns: the number of changed rows.
        """
        with self._connection() as connection:
            return connection.execute(sql, values).rowcount

    def insert(self, table: str, **columns: Any) -> None:
        """Add a row; *table* and the column names come from this package, never from requests."""
        marks = ", ".join("?" * len(columns))
        names = ", ".join(columns)
        self.write(f"INSERT INTO {table} ({names}) VALUES ({marks})", *columns.values())  # noqa: S608

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one write transaction, which excludes other writers."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._local.connection = connection
            try:
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # some failures have already ended it
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._local.connection = None

    def close(self) -> None:
        """Close all connections; those in use are closed when they are returned."""
        with self._guard:
            idle, self._idle = self._idle, []
            self._closings += 1
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for this thread: that of its transaction, or an idle one."""
        own: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if own is not None:
            yield own
            return
        with self._guard:
            connection = self._idle.pop() if self._idle else None
            closings = self._closings
        if connection is None:
            connection = self._new_connection()
        try:
            yield connection
        finally:
            with self._guard:
                keep = closings == self._closings and len(self._idle) < IDLE
                keep = keep and not connection.in_transaction  # even ROLLBACK may fail
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _new_connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _prepare(self) -> None:
        if self._version() == _VERSION:
            return
        self._use_wal()
        with self.transaction():
            version = self._version()  # another process may have been faster
            if version > _VERSION:
                raise StateError(f"{self.path} requires a newer version of tinkex-local")
            if version == 0:
                self._run(_SCHEMA)
                self.insert("meta", key="secret", value=secrets.token_hex(32))
            else:
                for older in range(version, _VERSION):
                    self._run(_UPGRADES[older])
            self.write(f"PRAGMA user_version = {_VERSION}")

    def _run(self, script: str) -> None:
        for statement in script.split(";\n"):
            if statement.strip():
                self.write(statement)

    def _use_wal(self) -> None:
        # Changing the journal mode does not wait for other connections by itself.
        deadline = time.monotonic() + BUSY_TIMEOUT
        while True:
            try:
                self.write("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _version(self) -> int:
        return int(self.scalar("PRAGMA user_version"))
