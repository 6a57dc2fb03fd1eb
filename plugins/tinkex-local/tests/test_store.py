"""Connections to the state file: lent to one thread at a time."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tinkex_local.store import Store

#: The state is closed while threads read, as at the end of a program that was interrupted.
_CLOSE = """
import sys, threading, time
from pathlib import Path
from tinkex_local.store import Store

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
    store = Store(tmp_path / "state.sqlite3")
    yield store
    store.close()


def in_a_thread(work) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)


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
    done = subprocess.run([sys.executable, "-c", _CLOSE, tmp_path / "state.sqlite3"], timeout=60)
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_threads_that_have_ended_leave_no_open_files(store, tmp_path):
    for _ in range(40):
        in_a_thread(lambda: names(store))

    assert open_files(tmp_path) <= 4
    store.close()
    assert open_files(tmp_path) == 0


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
    assert names(store) == ["a"]
    with store.transaction():
        add(store, "c")
    assert names(store) == ["a", "c"]


def test_a_transaction_in_another_is_refused_and_the_outer_one_goes_on(store):
    with store.transaction():
        add(store, "a")
        with pytest.raises(sqlite3.OperationalError), store.transaction():
            pass
        add(store, "b")

    assert names(store) == ["a", "b"]


def test_what_was_begun_before_the_end_is_finished(store, tmp_path):
    with store.transaction():
        add(store, "a")
        in_a_thread(store.close)
        add(store, "b")

    assert open_files(tmp_path) == 0
    assert names(store) == ["a", "b"]
