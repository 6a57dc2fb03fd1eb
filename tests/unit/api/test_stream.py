"""A file from storage in pieces that the storage chooses."""

from __future__ import annotations

import random

import pytest

from tinkex.api.transfer.storage import Span, Storage
from tinkex.api.transfer.streams import Address, Changed, Stream
from tinkex.exceptions import ConnectionFailed

CONTENT = random.Random(3).randbytes(100_000)


@pytest.fixture
def read(server, client, naps):
    """Read *span* of a file of whose bytes no more than *most* come at a time; return them."""

    def read(span: Span, most: int) -> bytes:
        def part(seen):
            first, _, last = seen.headers["range"].removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(CONTENT)
            end = min(end, start + most)
            place = f"bytes {start}-{max(start, end - 1)}/{len(CONTENT)}"
            return server.reply(CONTENT[start:end], 206, {"ETag": '"1"', "Content-Range": place})

        server.on("GET", "/f", part)
        address = Address(lambda: f"{server.url}/f", lambda: f"{server.url}/f")
        room, found = memoryview(bytearray(70_000)), bytearray()
        with Storage(client._transport) as storage, Stream(storage, address, span) as stream:
            while count := stream.readinto(room):
                found += room[:count]
        return bytes(found)

    return read


@pytest.mark.parametrize("end", [None, 99_000])
@pytest.mark.parametrize("most", [30_000, 10**9])
def test_parts_may_be_shorter_than_what_was_asked_for(read, server, naps, end, most):
    assert read(Span(10, end), most) == CONTENT[10:end]
    assert naps == []
    assert len(server.seen) == (4 if most == 30_000 else 1)


def test_a_storage_that_sends_nothing_of_a_part_is_given_up(read):
    with pytest.raises(ConnectionFailed, match="less than it was asked for"):
        read(Span(10), 0)


def test_a_file_that_has_changed_is_told_with_what_helps():
    assert "begins anew" in Changed().hint
