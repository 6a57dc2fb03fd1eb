"""Reading archives as they come: gzip streams of every make, positions, and sums aside."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import time
import zlib
from functools import partial
from io import FileIO

import pytest

from tinkex.api.transfer.digests import Digest, Trailing
from tinkex.api.transfer.unpacking import Forward, Gunzipped
from tinkex.exceptions import InvalidResponse

NOISE = random.Random(0).randbytes(300_000)
CONTENTS = {
    "nothing": b"",
    "little": b"x",
    "noise": NOISE,
    "zeros": bytes(5_000_000),  # much comes out of little
    "both": NOISE + bytes(2_000_000) + NOISE,
}


def pack(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


class Dripping:
    """A source that gives few bytes at a time, whatever it is asked for."""

    def __init__(self, content: bytes, size: int) -> None:
        self._content, self._size = io.BytesIO(content), size

    def readinto(self, room: memoryview, /) -> int:
        return self._content.readinto(room[: self._size])


def whole(source) -> bytes:
    room, found = memoryview(bytearray(100_000)), b""
    while count := source.readinto(room):
        found += room[:count]
    return found


@pytest.mark.parametrize("drip", [1000, 10**9])
@pytest.mark.parametrize("name", CONTENTS)
def test_gzip(name, drip):
    packed = pack(CONTENTS[name])
    assert whole(Gunzipped(Dripping(packed, drip))) == CONTENTS[name]


@pytest.mark.parametrize("drip", [7, 10**9])
@pytest.mark.parametrize(
    ("packed", "content"),
    [
        (pack(b"one") + pack(b"two"), b"onetwo"),
        (pack(b"one") + bytes(100) + pack(b"two") + bytes(600), b"onetwo"),
        (pack(b"") + pack(b"two"), b"two"),
    ],
    ids=["two", "padded", "empty"],
)
def test_gzip_of_several_members(packed, content, drip):
    assert whole(Gunzipped(Dripping(packed, drip))) == content == gzip.decompress(packed)


@pytest.mark.parametrize("drip", [7, 10**9])
@pytest.mark.parametrize(
    "packed",
    [
        pack(NOISE)[:-1],
        pack(NOISE)[:1000],
        pack(b"one")[:5],
        pack(b"one") + b"garbage",
        pack(b"one") + pack(b"two")[:-3],
        pack(b"one")[:-8] + bytes(8),  # another sum and length
    ],
    ids=["last byte", "middle", "header", "garbage", "second member", "sum"],
)
def test_damaged_gzip(packed, drip):
    with pytest.raises((EOFError, zlib.error)):
        whole(Gunzipped(Dripping(packed, drip)))


@pytest.mark.parametrize("drip", [3, 10**9])
def test_positions(drip):
    source = Forward(Dripping(b"abc" + bytes(5) + b"d" + bytes(1000), drip))
    assert source.read(2) == b"ab"
    assert (source.tell(), source.last_data) == (2, 2)
    assert source.seek(4) == 4
    assert source.last_data == 3
    source.allow(10)
    assert source.read(10) == b"\0\0\0\0d" + bytes(5)
    with pytest.raises(InvalidResponse, match="too large"):
        source.read(1)
    source.allow(None)
    while source.some():
        pass
    assert (source.position, source.last_data) == (1009, 9)
    assert source.read(5) == b""
    with pytest.raises(EOFError):
        source.seek(1010)
    with pytest.raises(ValueError, match="backwards"):
        source.seek(3)


@pytest.mark.parametrize("drip", [3, 10**9])
def test_contents_go_by_whatever_was_read_ahead(drip):
    source = Forward(Dripping(b"head" + NOISE + bytes(600), drip))
    assert source.read(4) == b"head"
    room = memoryview(bytearray(len(NOISE)))
    at = 0
    while at < len(NOISE):
        at += source.readinto(room[at:])
    assert bytes(room) == NOISE
    assert source.position == source.last_data == 4 + len(NOISE)
    assert source.read(600) == bytes(600)
    assert source.last_data == 4 + len(NOISE)
    assert source.readinto(room) == 0


@pytest.mark.parametrize("drip", [70_001, 10**9])
@pytest.mark.parametrize("size", [None, 10_000, len(NOISE) * 30])
def test_digests(size, drip):
    content = NOISE * 30
    source, found = Dripping(content, drip), bytearray()
    with Digest(size) as digest:
        while block := digest.take(source, 1_000_000):
            found += block
        assert found == content
        assert digest.hexdigest() == hashlib.sha256(content).hexdigest()


def test_a_block_is_no_longer_than_asked_for():
    with Digest() as digest:
        assert digest.take(Dripping(NOISE, 10**9), 7) == NOISE[:7]
        assert digest.hexdigest() == hashlib.sha256(NOISE[:7]).hexdigest()


@pytest.mark.parametrize("size", [10, None])
def test_a_source_that_fails_takes_no_room_away(size):
    class Failing:
        def readinto(self, room: memoryview, /) -> int:
            raise OSError("gone")

    with Digest(size) as digest:
        for _ in range(20):
            with pytest.raises(OSError, match="gone"):
                digest.take(Failing(), 10)
        assert digest.take(Dripping(b"x", 1), 10) == b"x"
        assert digest.hexdigest() == hashlib.sha256(b"x").hexdigest()


def test_a_digest_that_nobody_wants_leaves_no_thread():
    with Digest() as digest:
        digest.take(Dripping(NOISE, 10**9), len(NOISE))
        thread = digest._thread
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()


def test_a_sum_that_trails_a_growing_file(tmp_path):
    path, reached = tmp_path / "file", [0]
    path.write_bytes(bytes(len(NOISE)))
    begun = hashlib.sha256(b"before")
    with (
        Trailing(partial(FileIO, path), lambda: reached[0], begun) as trailing,
        path.open("r+b", buffering=0) as file,
    ):
        for at in range(0, len(NOISE), 50_000):
            file.write(NOISE[at : at + 50_000])
            reached[0] = file.tell()
            if at == 100_000:
                time.sleep(0.1)
        assert trailing.hexdigest() == hashlib.sha256(b"before" + NOISE).hexdigest()


def test_a_sum_of_a_file_that_is_not_there(tmp_path):
    with (
        Trailing(partial(FileIO, tmp_path / "none"), lambda: 1) as trailing,
        pytest.raises(FileNotFoundError),
    ):
        trailing.hexdigest()


def test_a_sum_of_a_file_that_somebody_cuts(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(NOISE)
    with (
        Trailing(partial(FileIO, path), lambda: len(NOISE) + 1) as trailing,
        pytest.raises(OSError, match="lost what was written"),
    ):
        trailing.hexdigest()
