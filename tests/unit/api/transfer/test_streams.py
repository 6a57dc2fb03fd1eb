"""Bodies of a storage's responses in every framing, and readers that resume them."""

from __future__ import annotations

import gzip
import random

import pytest

from tests.unit.api.conftest import KEY, NEVER
from tinkex.api.transfer.streams import (
    BodyReader,
    RenewableURL,
    ResumingReader,
    Span,
    open_signed,
)
from tinkex.exceptions import ConnectionFailed, TimedOut

CONTENT = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def storage(server, client):
    """Return a function that asks for the file."""
    return lambda span=Span(): open_signed(client._transport, f"{server.url}/file", span)  # noqa: B008


def whole(body: BodyReader | ResumingReader) -> bytes:
    return b"".join(iter(body.read, b""))


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["nothing", "little", "much"])
def test_a_body_that_was_read_gives_its_connection_back(server, storage, content):
    server.on("GET", "/file", server.reply(content, headers={"ETag": '"1"'}))
    for _ in range(3):
        with storage() as body:
            assert whole(body) == content
            assert body.received == body.expected == body.total == len(content)
    assert len({seen.port for seen in server.seen}) == 1


def test_a_part_of_a_file(server, storage):
    headers = {"Content-Range": f"bytes 5-104/{len(CONTENT)}", "ETag": '"1"'}
    server.on("GET", "/file", server.reply(CONTENT[5:105], 206, headers))
    with storage(Span(5, 105)) as body:
        assert whole(body) == CONTENT[5:105]
        assert (body.start, body.total, body.received) == (5, len(CONTENT), 100)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKS = b"".join(
    b"%x\r\n%s\r\n" % (len(chunk), chunk)
    for chunk in (CONTENT[at : at + 77_777] for at in range(0, len(CONTENT), 77_777))
)


@pytest.mark.parametrize(
    ("framed", "content"),
    [
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"0\r\n\r\n", CONTENT),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(CONTENT, mtime=0), CONTENT),
        (OK + b"\r\n" + CONTENT, CONTENT),
        (OK + b"Content-Length: 5\r\n\r\nhelloworld", b"hello"),
    ],
    ids=["chunks", "content coding", "until the connection ends", "more than announced"],
)
def test_bodies_in_every_framing(framed, content, server, storage):
    server.on("GET", "/file", server.reply(raw=framed))
    with storage() as body:
        assert whole(body) == content
        assert (body.total, body.tag) == (5 if content == b"hello" else None, None)


@pytest.mark.parametrize("linger", [0.0, NEVER])
def test_a_cut_is_noticed(server, connect, linger):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"
    server.on("GET", "/file", server.reply(raw=head + CONTENT[:1000], linger=linger))
    client = connect(server.url, timeout=1.0 if linger else 30.0)
    with (
        open_signed(client._transport, f"{server.url}/file") as body,
        pytest.raises(TimedOut if linger else ConnectionFailed) as caught,
    ):
        whole(body)
    if linger:
        assert str(caught.value) == "Timed out while awaiting the rest of the download"
    else:
        assert str(caught.value).endswith("was cut off after 1000 of 3000000 bytes")
    assert KEY not in str(caught.value)


@pytest.fixture
def reader(server, client):
    """Return a function that reads a span of the file, and makes connections where they break."""
    url = f"{server.url}/file"

    def read(span: Span = Span()) -> ResumingReader:  # noqa: B008
        return ResumingReader(client._transport, RenewableURL(lambda renew: url), span)

    return read


def test_a_reader_that_was_closed_makes_no_other_connection(server, reader):
    server.on("GET", "/file", server.reply(CONTENT, headers={"ETag": '"1"'}))
    with reader() as opened:
        opened.read()
    with pytest.raises(ConnectionFailed):
        whole(opened)
    assert len(server.seen) == 1


@pytest.mark.parametrize("end", [None, 2_900_000])
def test_a_reader_stops_at_the_end_of_its_span(server, reader, end):
    part = CONTENT[10:end]
    place = f"bytes 10-{len(part) + 9}/{len(CONTENT)}"
    server.on("GET", "/file", server.reply(part, 206, {"ETag": '"1"', "Content-Range": place}))
    with reader(Span(10, end)) as opened:
        assert whole(opened) == part
