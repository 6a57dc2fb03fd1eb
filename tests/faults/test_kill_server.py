"""``local serve``, killed while clients save and delete: what it had confirmed is there, and whole."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.serve_load import KEY, MODEL, Client, listed

pytestmark = pytest.mark.kills
PROGRAM = Path(sys.executable).parent / "tinkex"
CLIENTS = 3


@contextlib.contextmanager
def serving(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the server on the state in *home*; yield its process and its address."""
    process = subprocess.Popen(
        [PROGRAM, "local", "serve", "--api-key", KEY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TINKEX_LOCAL_HOME": str(home)},
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()


class Saver(threading.Thread):
    """Saves and deletes until the server is gone.

    :ivar kept: paths whose saving was confirmed and that nobody asked to delete.
    :ivar unsure: paths that were asked for, and nobody knows.
    """

    def __init__(self, url: str, number: int) -> None:
        super().__init__(daemon=True)
        self.kept: set[str] = set()
        self.unsure: set[str] = set()
        self.error: BaseException | None = None
        self._client = Client(url, collections.defaultdict(list))
        self._random = random.Random(number)

    def run(self) -> None:
        try:
            self._work()
        except (OSError, http.client.HTTPException):
            return  # it was killed
        except BaseException as error:
            self.error = error
        finally:
            self._client.close()

    def _work(self) -> None:
        call = self._client.call
        session = call(
            *("create_session", "POST", "create_session"),
            {"tags": [], "user_metadata": None, "sdk_version": "0"},
        )["session_id"]
        model = {"session_id": session, "model_seq_id": 0, "base_model": MODEL}
        made = call("create_model", "POST", "create_model", {**model, "lora_config": {"rank": 1}})
        run = self._client.result(made["request_id"])["model_id"]
        for number in range(1, 10**6):
            path = f"tinker://{run}/weights/n{number}"
            self.unsure.add(path)
            body = {"model_id": run, "path": f"n{number}", "seq_id": number}
            made = call("save_weights", "POST", "save_weights", body)
            assert self._client.result(made["request_id"])["path"] == path
            self.kept.add(path)
            self.unsure.clear()
            if self._random.random() < 0.4:
                self.unsure.add(path := self._random.choice(sorted(self.kept)))
                self.kept.discard(path)
                name = path.rpartition("/")[2]
                call("delete", "DELETE", f"training_runs/{run}/checkpoints/weights/{name}")
                self.unsure.clear()


def assert_whole(home: Path) -> None:
    """Check the state file, and that every checkpoint of it has its files, and nothing else is."""
    with contextlib.closing(sqlite3.connect(home / "state.sqlite3")) as state:
        assert state.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        sizes = dict(state.execute("SELECT id, size FROM checkpoints"))
    places = home / "checkpoints"
    assert {place.name for place in places.iterdir() if place.name[0] != "."} == set(sizes)
    for identifier, size in sizes.items():
        files = list((places / identifier).iterdir())
        assert sum(file.stat().st_size for file in files) == size
        json.loads((places / identifier / "adapter_config.json").read_text())


def test_a_kill_of_the_server_loses_nothing_that_it_had_confirmed(
    tmp_path, request, record_property
):
    home = tmp_path / "home"
    chance = random.Random(seed := random.randrange(10**6))
    kills = request.config.getoption("--kills")
    kills = kills if kills > 5 else 2  # a server takes its time to start
    kept: set[str] = set()
    unsure: set[str] = set()
    saved = 0
    for _ in range(kills + 1):  # the last one is looked at only
        with serving(home) as (process, url):
            found = listed(url)
            assert kept <= found <= kept | unsure, seed
            assert_whole(home)
            savers = [Saver(url, chance.randrange(10**6)) for _ in range(CLIENTS)]
            for saver in savers:
                saver.start()
            time.sleep(chance.uniform(0, 0.5))
            process.kill()
            for saver in savers:
                saver.join(30)
        assert [saver.error for saver in savers if saver.error] == [], seed
        kept = found.union(*(saver.kept for saver in savers))
        unsure = set().union(*(saver.unsure for saver in savers))
        saved += sum(len(saver.kept) for saver in savers)
    record_property("kill", ("local serve", "kills", "killed", kills))
    assert saved or kills < 20
