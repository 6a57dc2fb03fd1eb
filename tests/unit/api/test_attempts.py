"""Attempts that were given up: what they have brought, and threads they have left behind."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests.unit.api.test_staging import interrupted
from tinkex.api.paths import TinkerPath
from tinkex.api.transfer.staging import StagingDirectory

PATH = TinkerPath.from_string("tinker://r:train:0/external_weights/files")
URLS = f"{PATH.url}/external_weights_urls"
SMALL, LARGE = "adapter_config.json", "adapter_model.safetensors"
CONTENT = random.Random(0).randbytes(1_000_000)
TAG = '"one"'


class EnoughError(Exception):
    """Ends an attempt in its middle."""


def offer(server, storage, *names: str) -> None:
    server.on("GET", URLS, {"urls": {name: f"{storage.url}/{name}" for name in names}})


def in_ranges(storage):
    """Return what answers requests for ranges of the content."""

    def serve(seen):
        first, _, last = seen.headers["range"].removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1
        place = {"ETag": TAG, "Content-Range": f"bytes {start}-{end - 1}/{len(CONTENT)}"}
        return storage.reply(CONTENT[start:end], 206, place)

    return serve


def test_ranges_that_had_not_begun_cost_nothing_of_the_others(server, storage, client, target):
    offer(server, storage, LARGE)
    storage.on("GET", f"/{LARGE}", in_ranges(storage))
    edges = range(0, len(CONTENT) + 1, 200_000)
    # Killed when the first of five ranges was here, and half of the second.
    segments = [[start, start, end] for start, end in pairwise(edges)]
    segments[0][1], segments[1][1] = 200_000, 300_000
    entry = {"size": len(CONTENT), "validator": TAG, "sha256": None, "segments": segments}
    with interrupted(StagingDirectory(PATH, target)) as staging:
        staging.open()
        with staging.parts.open(LARGE, "xb") as file:
            file.write(CONTENT[:300_000])
        staging.state["files"] = {LARGE: entry}
    client.checkpoints.download(str(PATH), target)
    asked = sorted(seen.headers["range"] for seen in storage.seen)
    assert asked == [
        "bytes=300000-399999",
        "bytes=400000-599999",
        "bytes=600000-799999",
        "bytes=800000-999999",
    ]
    assert (target / LARGE).read_bytes() == CONTENT


def test_what_an_attempt_left_behind_spoils_nothing_of_the_next(server, storage, client, target):
    offer(server, storage, SMALL, LARGE)
    storage.on("GET", f"/{SMALL}", storage.reply(b"{}"))
    late = storage.reply(CONTENT, delay=0.6)
    storage.on("GET", f"/{LARGE}", late, storage.reply(CONTENT, pieces=10, linger=0.1))

    def give_up(progress):
        raise EnoughError

    with pytest.raises(EnoughError):
        client.checkpoints.download(str(PATH), target, on_progress=give_up)
    client.checkpoints.download(str(PATH), target)  # while the answer to the first is on its way
    assert (target / LARGE).read_bytes() == CONTENT
