"""Connections to the state file, their use by threads, and errors of the file."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tinkex_local.state.store import FILE, Store, reason

#: The state is closed while threads read, as at the end of a program that was interrupted.
_CLOSE = """
import sys, threading, time
from pathlib import Path
from tinkex_local.state.store import Store

for pause in range(20):
    store = Store(Path(sys.argv[1]))
    over = threading.Event()

    def read():
        while not over.is_set():
            store.rows("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c"
                       " WHERE x < 300) SELECT x, printf('%d', x) FROM c")

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    time.sleep(pause / 1000)
    store.close()
    over.set()
    for reader in readers:
        reader.join()
    store.close()
"""


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / FILE)
    yield store
    store.close()


def in_a_thread(work) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)


def open_files(directory: Path) -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(directory))
        except OSError:
            continue
    return found


def names(store: Store) -> list[str]:
    return [row["name"] for row in store.rows("SELECT name FROM models ORDER BY name")]


def add(store: Store, name: str) -> None:
    store.insert("models", name=name, directory="/", added=0.0)


def test_closing_the_state_harms_no_thread_that_reads(tmp_path):
    done = subprocess.run([sys.executable, "-c", _CLOSE, tmp_path / FILE], timeout=60)
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_no_files_stay_open(store, tmp_path):
    for _ in range(40):
        in_a_thread(lambda: names(store))
    assert open_files(tmp_path) <= 4
    with store.transaction():  # one in progress is finished
        add(store, "a")
        in_a_thread(store.close)
        add(store, "b")
    assert open_files(tmp_path) == 0
    assert names(store) == ["a", "b"]


def test_a_transaction_is_one_and_of_its_thread(store):
    def fail() -> None:
        with store.transaction():
            add(store, "b")
            assert names(store) == ["a", "b"]
            in_a_thread(lambda: seen.append(names(store)))
            raise KeyError

    seen: list[list[str]] = []
    add(store, "a")
    with pytest.raises(KeyError):
        fail()
    assert seen == [["a"]]
    with store.transaction():
        add(store, "c")
        with pytest.raises(sqlite3.OperationalError), store.transaction():
            pass  # one inside another is refused, and the outer one continues
        add(store, "d")
    assert names(store) == ["a", "c", "d"]


def failure(words, code):
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("words", "code", "detail"),
    [
        ("disk I/O error", sqlite3.SQLITE_IOERR | 19 << 8, "No space left on device"),
        ("unable to open", sqlite3.SQLITE_CANTOPEN, "the directory is not writable"),
        ("no such table: x", sqlite3.SQLITE_ERROR, "no such table: x"),
    ],
)
def test_a_failure_is_reported_once_with_its_cause(
    client, home, monkeypatch, caplog, words, code, detail
):
    def insert(*args, **columns):
        raise error

    error = failure(words, code)
    assert reason(error, home) == words  # nothing more can be seen
    full = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(client.app.service.store, "insert", insert)
    answer = client.post("create_session", {"tags": [], "sdk_version": "0"})
    expected = {"detail": f"The service state is currently unavailable: {detail}"}
    assert (answer.status, answer.json, caplog.text) == (503, expected, "")


def test_damage_found_later_is_reported_without_a_traceback(home, opened, caplog):
    client = opened()
    client.model()
    store = client.app.service.store
    page = store.scalar("SELECT rootpage FROM sqlite_master WHERE name = 'runs_created'")
    store.write("PRAGMA wal_checkpoint(TRUNCATE)")
    client.app.close()
    with (home / FILE).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    caplog.set_level(logging.DEBUG)
    answer = opened().get("training_runs")
    assert answer.status == 500
    assert "malformed" in answer.json["detail"]
    assert "tinkex local reset" in answer.json["detail"]
    assert "Traceback" not in caplog.text
