"""``local serve``, killed while clients save and delete, loses no confirmed change."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from tests.functional.conftest import KEY, MODEL, Program
from tinkex.api import ServiceClient
from tinkex.exceptions import TinkexError
from tinkex.settings import Settings

pytestmark = pytest.mark.kills
CLIENTS = 3


class Saver(threading.Thread):
    """Saves and deletes until the server is gone.

    :ivar kept: paths whose saving was confirmed and that were not to be deleted.
    :ivar unsure: the path of the request that was not answered.
    """

    def __init__(self, url: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.kept: set[str] = set()
        self.unsure: set[str] = set()
        self._settings = Settings(base_url=url, api_key=KEY, allow_http=True, timeout=2)
        self._random = random.Random(seed)

    def run(self) -> None:
        with contextlib.suppress(TinkexError), ServiceClient(self._settings) as client:
            training = client.create_lora_training_client(MODEL, rank=1)
            for number in itertools.count():
                self.unsure = {f"tinker://{training.model_id}/weights/n{number}"}
                self.kept.add(training.save_state(f"n{number}").path)
                if self._random.random() < 0.4:
                    self.unsure = {path := self._random.choice(sorted(self.kept))}
                    self.kept.discard(path)
                    client.checkpoints.delete(path)
                self.unsure = set()


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
    program = Program({"TINKEX_LOCAL_HOME": str(tmp_path / "home")})
    chance = random.Random(seed := random.randrange(10**6))
    kills = request.config.getoption("--kills")
    kept: set[str] = set()
    unsure: set[str] = set()
    saved = 0
    for _ in range(kills + 1):  # the last one is looked at only
        process = program.start(f"local serve --api-key {KEY}")
        url = process.stdout.readline().strip()
        with ServiceClient(base_url=url, api_key=KEY) as client:
            found = {checkpoint.tinker_path for checkpoint in client.checkpoints.list(limit=None)}
        assert kept <= found <= kept | unsure, seed
        assert_whole(tmp_path / "home")
        savers = [Saver(url, chance.randrange(10**6)) for _ in range(CLIENTS)]
        for saver in savers:
            saver.start()
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.communicate(timeout=60)
        for saver in savers:
            saver.join(60)
        kept = found.union(*(saver.kept for saver in savers))
        unsure = set().union(*(saver.unsure for saver in savers))
        kept -= unsure
        saved += sum(len(saver.kept) for saver in savers)
    record_property("kill", ("local serve", "kills", "killed", kills))
    assert saved or kills < 20
