"""Large files of an archive, each fetched as a range of it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.unit.api import download_killed as driver
from tests.unit.api.test_download import SAMPLER, arrived, leftovers, offer, tar
from tinkex.api import verify
from tinkex.exceptions import Unauthorized

ROOT = Path(__file__).parents[3]
SIZE = driver.SIZE
FILES = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": random.Random(3).randbytes(SIZE),
    "more/model": random.Random(4).randbytes(SIZE),
}
AT = "/files/a.tar"


@pytest.fixture(autouse=True)
def large(monkeypatch):
    for module, values in driver.LOWERED.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


def ranged(server, body: bytes, tag: str = '"1"'):
    """Return the script of a storage that sends ranges of *body*."""

    def answer(seen):
        headers = {"ETag": tag, "Accept-Ranges": "bytes"}
        if "range" not in seen.headers:
            return server.reply(body, headers=headers)
        first, last = seen.headers["range"].removeprefix("bytes=").split("-")
        start, end = int(first), int(last) + 1 if last else len(body)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        return server.reply(body[start:end], 206, headers)

    return answer


def asked(server) -> list[str]:
    return [seen.headers.get("range", "all") for seen in server.requests(AT)]


def covered(spans: list[str], size: int) -> int:
    """Return how many bytes *spans* ask for; nobody takes all of what has no end."""
    marks = bytearray(size)
    for span in spans:
        first, _, last = span.removeprefix("bytes=").partition("-")
        if last:
            marks[int(first) : int(last) + 1] = b"\1" * (int(last) + 1 - int(first))
    return sum(marks)


def check(target: Path) -> None:
    assert arrived(target) == FILES
    assert all(file.good for file in verify(target))
    assert not leftovers(target.parent)


def test_a_large_file_comes_in_ranges_over_several_connections(server, client, target):
    offer(server, None, at=AT)
    server.on("GET", AT, ranged(server, tar(FILES)))
    client.checkpoints.download(SAMPLER, target)
    check(target)
    assert len(asked(server)) > 5
    assert covered(asked(server), 3 * SIZE) == 2 * SIZE


@pytest.mark.parametrize("lie", ["no ranges", "other tags"])
def test_an_archive_whose_parts_do_not_hold_together_is_fetched_whole(lie, server, client, target):
    body, tags = tar(FILES), iter(range(100))
    offer(server, None, at=AT)

    def answer(seen):
        if lie == "other tags":
            return ranged(server, body, f'"{next(tags)}"')(seen)
        return server.reply(body, headers={"ETag": '"1"', "Accept-Ranges": "bytes"})

    server.on("GET", AT, answer)
    client.checkpoints.download(SAMPLER, target)
    check(target)
    assert [words for words in asked(server) if words == "all"] == ["all", "all"]


def test_a_large_file_that_was_not_to_be_had_loses_nothing_of_those_before(server, client, target):
    body = tar(FILES)
    offer(server, None, at=AT)
    whole, second = ranged(server, body), body.index(FILES["more/model"])

    def answer(seen):
        if f"bytes={second}-" in seen.headers.get("range", ""):
            return server.reply(None, 401)
        return whole(seen)

    server.on("GET", AT, answer)
    with pytest.raises(Unauthorized):
        client.checkpoints.download(SAMPLER, target)
    server.on("GET", AT, whole)
    server.seen.clear()
    client.checkpoints.download(SAMPLER, target)
    check(target)
    spans = asked(server)
    assert covered(spans, len(body)) == SIZE
    assert spans[0] == f"bytes={second}-{second + SIZE - 1}"
    assert spans[-1] == f"bytes={second + SIZE + -SIZE % tarfile.BLOCKSIZE}-"


def test_a_download_killed_at_any_step_is_gone_on_with(server, tmp_path):
    body = tar(FILES)
    offer(server, None, at=AT)
    server.on("GET", AT, ranged(server, body))
    target = tmp_path / "work" / "target"
    command = [sys.executable, "-m", driver.__name__, server.url, str(tmp_path)]
    steps = 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            here = json.loads(line)["known"]
            was_there = target.exists()
            server.seen.clear()
            print(file=process.stdin, flush=True)
            left = json.loads(process.stdout.readline())["left"]
            assert arrived(target) == FILES
            assert all(file.good for file in verify(target))
            if not was_there:
                assert left == ["target"]
                assert covered(asked(server), len(body)) <= 2 * SIZE - here
            print(file=process.stdin, flush=True)
            steps += 1
    assert process.returncode == 0
    assert steps > 50
