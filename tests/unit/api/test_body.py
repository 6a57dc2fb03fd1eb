"""Bodies of a storage's answers in every framing: whole, counted, their connection used again."""

from __future__ import annotations

import gzip
import random

import pytest

from tests.unit.api.conftest import KEY, NEVER
from tinkex.api.transfer import body
from tinkex.api.transfer.storage import Span, Storage
from tinkex.api.transfer.streams import Address, Stream
from tinkex.exceptions import ConnectionFailed, TimedOut

CONTENT = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def storage(client):
    with Storage(client._transport) as storage:
        yield storage


def whole(opened: body.Body, size: int = 100_000) -> bytes:
    room, found = memoryview(bytearray(size)), bytearray()
    while count := opened.readinto(room):
        found += room[:count]
    return bytes(found)


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["nothing", "little", "much"])
def test_a_body_that_was_read_gives_its_connection_back(server, storage, content):
    server.on("GET", "/file", server.reply(content, headers={"ETag": '"1"'}))
    for _ in range(3):
        with storage.open(f"{server.url}/file") as opened:
            assert whole(opened) == content
            assert opened.received == opened.expected == opened.total == len(content)
    assert len({seen.port for seen in server.seen}) == 1


def test_a_body_that_was_not_read_takes_its_connection_along(server, storage):
    server.on("GET", "/file", server.reply(CONTENT))
    for _ in range(2):
        with storage.open(f"{server.url}/file") as opened:
            assert opened.read(10) == CONTENT[:10]
    with storage.open(f"{server.url}/file") as opened:
        assert whole(opened) == CONTENT


def test_a_part_of_a_file(server, storage):
    headers = {"Content-Range": f"bytes 5-104/{len(CONTENT)}", "ETag": '"1"'}
    server.on("GET", "/file", server.reply(CONTENT[5:105], 206, headers))
    with storage.open(f"{server.url}/file", Span(5, 105)) as opened:
        assert whole(opened, 7) == CONTENT[5:105]
        assert (opened.start, opened.total, opened.received) == (5, len(CONTENT), 100)


def test_a_body_with_a_coding_is_decoded(server, storage):
    packed = gzip.compress(CONTENT)
    server.on("GET", "/file", server.reply(packed, headers={"Content-Encoding": "gzip"}))
    with storage.open(f"{server.url}/file") as opened:
        assert whole(opened) == CONTENT
        assert opened.expected is opened.total is opened.validator is None


def test_chunks(server, storage):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = (CONTENT[at : at + 77_777] for at in range(0, len(CONTENT), 77_777))
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    server.on("GET", "/file", server.reply(raw=head + framed + b"0\r\n\r\n"))
    with storage.open(f"{server.url}/file") as opened:
        assert whole(opened) == CONTENT
        assert opened.expected is None


def test_a_body_that_ends_with_its_connection(server, storage):
    server.on("GET", "/file", server.reply(raw=b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT))
    with storage.open(f"{server.url}/file") as opened:
        assert whole(opened) == CONTENT


def test_what_comes_after_the_announced_length_is_not_content(server, storage):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    server.on("GET", "/file", server.reply(raw=head + b"helloworld"))
    with storage.open(f"{server.url}/file") as opened:
        assert whole(opened) == b"hello"


@pytest.mark.parametrize("linger", [0.0, NEVER])
def test_a_cut_is_noticed(server, connect, linger):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"
    server.on("GET", "/file", server.reply(raw=head + CONTENT[:1000], linger=linger))
    client = connect(server.url, timeout=1.0 if linger else 30.0)
    with (
        Storage(client._transport) as storage,
        storage.open(f"{server.url}/file") as opened,
        pytest.raises(TimedOut if linger else ConnectionFailed) as caught,
    ):
        whole(opened)
    if linger:
        assert str(caught.value) == "Timed out while awaiting more of the download"
    else:
        assert str(caught.value).endswith("was cut off after 1000 of 3000000 bytes")
    assert KEY not in str(caught.value)


def test_a_stream_that_was_closed_makes_no_other_connection(server, storage):
    server.on("GET", "/file", server.reply(CONTENT, headers={"ETag": '"1"'}))
    url = f"{server.url}/file"
    with Stream(storage, Address(lambda: url, lambda: url), Span()) as stream:
        room = memoryview(bytearray(10))
        assert stream.readinto(room) == 10
    with pytest.raises(ConnectionFailed):
        stream.readinto(room)
    assert len(server.seen) == 1
