"""A file in ranges that is gone on with: what is here is not fetched again."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tinkex.api.meter import Meter
from tinkex.api.paths import TinkerPath
from tinkex.api.pieces import Piece
from tinkex.api.stage import Stage
from tinkex.api.storage import Storage
from tinkex.api.stream import Address

CONTENT = random.Random(2).randbytes(1_000_000)
PART = 100_000
TAG = '"1"'


@pytest.fixture
def fetch(server, client, tmp_path):
    """Go on with a file of which *here* is written down and on the disk; return what was asked."""

    def answer(seen):
        first, last = map(int, seen.headers["range"].removeprefix("bytes=").split("-"))
        found = CONTENT[first : last + 1]
        headers = {"ETag": TAG, "Content-Range": f"bytes {first}-{last}/{len(CONTENT)}"}
        return server.reply(found, 206, headers)

    def whole(_):
        return server.reply(CONTENT, headers={"ETag": TAG})

    server.on("GET", "/f", lambda seen: (answer if "range" in seen.headers else whole)(seen))

    def fetch(segments: list[list[int]], on_disk: int) -> list[tuple[int, int]]:
        path = TinkerPath.from_string("tinker://r:train:0/external_weights/e")
        stage = Stage(tmp_path / "stage", path)
        written = bytearray(on_disk)
        for start, at, end in segments:
            at = end if len(segments) == 1 else at  # more was written than was noted
            written[start : min(at, on_disk)] = CONTENT[start : min(at, on_disk)]
        (stage.parts / "f").write_bytes(written)
        stage.journal["files"] = {
            "f": {"size": len(CONTENT), "validator": TAG, "sha256": None, "segments": segments}
        }
        address = Address(lambda: f"{server.url}/f", lambda: f"{server.url}/f")
        with Storage(client._transport) as storage:
            known = Piece(storage, stage, address, Path("f"), Meter(None)).fetch()
        assert (stage.content / "f").read_bytes() == CONTENT
        assert known.sha256 == hashlib.sha256(CONTENT).hexdigest()
        stage.close(keep=False)
        spans = [
            seen.headers.get("range", "bytes=0-").removeprefix("bytes=") for seen in server.seen
        ]
        return sorted(
            (int(first), int(last or -1)) for first, last in (s.split("-") for s in spans)
        )

    return fetch


def parts(*have: int) -> list[list[int]]:
    """Return ten parts of which so many bytes are here."""
    every = [*have, *[0] * (10 - len(have))]
    return [[n * PART, n * PART + here, (n + 1) * PART] for n, here in enumerate(every)]


def test_parts_that_nobody_has_begun_need_not_be_on_the_disk(fetch):
    asked = fetch(parts(PART, 30_000, PART, 7), 300_007)
    assert asked == [(130_000, 199_999), (300_007, 399_999)] + [
        (n * PART, (n + 1) * PART - 1) for n in range(4, 10)
    ]


def test_parts_that_the_disk_has_lost_are_not_believed(fetch):
    assert fetch(parts(PART, 30_000, PART, 50_000), 300_007) == [(0, -1)]


def test_a_single_part_goes_on_from_what_is_on_the_disk(fetch):
    assert fetch([[0, 5, len(CONTENT)]], 123_456) == [(123_456, len(CONTENT) - 1)]
