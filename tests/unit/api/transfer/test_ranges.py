"""A file in ranges that is resumed: what has arrived is not fetched again."""

from __future__ import annotations

import hashlib
import random
import time

import pytest

from tinkex.api.paths import TinkerPath
from tinkex.api.transfer.progress import ProgressTracker
from tinkex.api.transfer.ranges import FileDownload
from tinkex.api.transfer.staging import StagingDirectory
from tinkex.api.transfer.state import PartialFile, Segment
from tinkex.api.transfer.streams import RenewableURL

CONTENT = random.Random(2).randbytes(1_000_000)
PART = 100_000
TAG = '"1"'


@pytest.fixture
def staging(tmp_path):
    path = TinkerPath.from_string("tinker://r:train:0/external_weights/e")
    with StagingDirectory(path, tmp_path / "target") as staging:
        yield staging


@pytest.fixture
def fetch(server, client, staging):
    """Go on with a file of which *here* is written down and on the disk; return what was asked."""

    def answer(seen):
        first, last = map(int, seen.headers["range"].removeprefix("bytes=").split("-"))
        found = CONTENT[first : last + 1]
        headers = {"ETag": TAG, "Content-Range": f"bytes {first}-{last}/{len(CONTENT)}"}
        return server.reply(found, 206, headers)

    def whole(_):
        return server.reply(CONTENT, headers={"ETag": TAG})

    server.on("GET", "/f", lambda seen: (answer if "range" in seen.headers else whole)(seen))

    def fetch(
        segments: list[list[int]], on_disk: int, content: bytes = CONTENT, until: float = 0
    ) -> list[tuple[int, int]]:
        written = bytearray(on_disk)
        for start, at, end in segments:
            at = end if len(segments) == 1 else at  # more was written than was noted
            written[start : min(at, on_disk)] = CONTENT[start : min(at, on_disk)]
        with staging.content.open("f", "wb") as file:
            file.write(written)
        known = [Segment(*segment) for segment in segments]
        staging.files["content/f"] = PartialFile(len(CONTENT), TAG, known)
        url = RenewableURL(lambda renew: f"{server.url}/f")
        tracker = ProgressTracker(None)
        transport = client._transport
        sha256 = FileDownload(transport, staging, url, "content/f", tracker, label="f").fetch()
        assert sha256 == hashlib.sha256(content).hexdigest()
        time.sleep(until)
        with staging.content.open("f", "rb") as file:
            assert file.read() == content
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


@pytest.mark.parametrize(
    ("segments", "on_disk", "asked"),
    [
        (
            parts(PART, 30_000, PART, 7),
            300_007,
            [(130_000, 199_999), (300_007, 399_999)]
            + [(n * PART, (n + 1) * PART - 1) for n in range(4, 10)],
        ),
        (parts(PART, 30_000, PART, 50_000), 300_007, [(0, -1)]),
        ([[0, 5, len(CONTENT)]], 123_456, [(123_456, len(CONTENT) - 1)]),
    ],
    ids=["parts that were not started", "parts that the disk has lost", "one part"],
)
def test_what_is_on_the_disk_is_not_fetched_again(segments, on_disk, asked, fetch):
    assert fetch(segments, on_disk) == asked


def test_connections_that_still_bring_the_old_file_do_not_write_into_the_new_one(server, fetch):
    new = CONTENT[::-1]
    slow = {"ETag": TAG, "Content-Range": f"bytes 0-{PART - 1}/{len(CONTENT)}"}

    def answer(seen):
        if seen.headers.get("range") == f"bytes=0-{PART - 1}":
            return server.reply(CONTENT[:PART], 206, slow, pieces=10, linger=0.1)
        return server.reply(new, headers={"ETag": '"2"'})

    server.on("GET", "/f", answer)
    asked = fetch(parts(0, 30_000), PART + 30_000, new, until=1.2)
    assert asked.count((0, -1)) == 1


def test_nothing_is_noted_of_a_file_that_cannot_be_known_again(server, fetch, staging):
    server.on("GET", "/f", server.reply(CONTENT[::-1]))
    fetch(parts(PART, 30_000), PART + 30_000, CONTENT[::-1])
    assert not staging.files


def test_a_file_of_another_size_is_another_file(server, fetch):
    new = CONTENT[::-1] + b"more"

    def answer(seen):
        found = server.reply(new, headers={"ETag": TAG})
        if "range" in seen.headers:
            place = f"bytes {PART}-{len(CONTENT) - 1}/{len(new)}"
            headers = {"ETag": TAG, "Content-Range": place}
            found = server.reply(new[PART : len(CONTENT)], 206, headers)
        return found

    server.on("GET", "/f", answer)
    assert (0, -1) in fetch([[0, 5, len(CONTENT)]], PART, new)
