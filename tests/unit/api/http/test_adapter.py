"""What every HTTP pool keeps to: the default one over a socket, the local one in this process."""

from __future__ import annotations

import errno
import gzip
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from tests.unit.api.conftest import Server
from tinkex.api.http import adapter, retry
from tinkex.api.http.adapter import translated
from tinkex.api.http.errors import from_system
from tinkex.api.transfer.streams import BodyReader
from tinkex.exceptions import ConnectionFailed, InvalidResponse, LimitReached, Unreachable
from tinkex.plugins import (
    HTTP_POOLS,
    HttpRequest,
    HttpResponse,
    PoolOptions,
    Sender,
    Timeouts,
    load_driver,
)
from tinkex.settings import Settings

TIMEOUTS = Timeouts(connect=5.0, read=30.0)
LARGE = bytes(range(256)) * 2000
Send = Callable[..., HttpResponse]


def application(environ, start):
    """Answer by the path: what arrived, a large body, or nothing."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = [("X-Method", environ["REQUEST_METHOD"]), ("X-Two", "a"), ("X-Two", "b")]
    pieces = [body]
    if environ["PATH_INFO"] == "/large":
        pieces = [LARGE[:100_000], b"", LARGE[100_000:]]
    elif environ["PATH_INFO"] == "/agent":
        pieces = [environ.get("HTTP_USER_AGENT", "").encode()]
    headers.append(("Content-Length", str(sum(map(len, pieces)))))
    start("418 I'm a teapot" if environ["PATH_INFO"] == "/odd" else "200 OK", headers)
    return iter(pieces) if environ["REQUEST_METHOD"] != "HEAD" else iter([])


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def sender_of(pool: str, **options: Any) -> Sender:
    """Return a sender of the HTTP pool *pool*."""
    if pool == "http2":
        pytest.importorskip("tinkex_http2")
    return load_driver(HTTP_POOLS, pool).build(Settings(pool_options=PoolOptions(**options)))


@pytest.fixture(params=["default", "http2", "local"])
def send(request: pytest.FixtureRequest) -> Iterator[Send]:
    """Return a function that sends a request to a path of the application."""
    if request.param == "local":
        pool = pytest.importorskip("tinkex_local.pool")
        from tinkex_local.wire.wsgi import WsgiSender

        sender, base, stop = WsgiSender(application), pool.BASE_URL, lambda: None
    else:
        server = make_server("127.0.0.1", 0, application, handler_class=Quiet)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        sender, base = sender_of(request.param), f"http://127.0.0.1:{server.server_port}"

        def stop() -> None:
            server.shutdown()
            server.server_close()

    def send(method: str, path: str, headers=None, body=None) -> HttpResponse:
        return sender.send(HttpRequest(method, base + path, headers or {}, body), TIMEOUTS)

    yield send
    if request.param != "local":
        sender.close()
    stop()


def content(response: HttpResponse, size: int = 1000) -> bytes:
    with closing(response):
        return b"".join(response.chunks(size))


def test_a_response_has_status_headers_in_lower_case_and_a_body(send: Send):
    response = send("POST", "/odd", {"X-A": "b"}, b"hello")
    assert response.status == 418
    assert response.headers["x-method"] == "POST"
    assert response.headers["x-two"] == "a, b"
    assert content(response) == b"hello"


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_a_request_may_be_without_a_body(send: Send, method: str):
    response = send(method, "/")
    assert (response.headers["x-method"], content(response)) == (method, b"")
    assert content(send(method, "/agent", {"User-Agent": "me/1"})) == b"me/1"
    response = send("HEAD", "/large")
    assert (response.headers["content-length"], content(response)) == (str(len(LARGE)), b"")


@pytest.mark.parametrize("size", [7, 1000, 1 << 20])
def test_a_body_comes_in_chunks_of_at_most_the_size(send: Send, size: int):
    chunks = list(send("GET", "/large").chunks(size))
    assert b"".join(chunks) == LARGE
    assert 0 < min(map(len, chunks)) <= max(map(len, chunks)) <= size


def test_a_response_may_be_closed_before_its_end_and_twice(send: Send):
    response = send("GET", "/large")
    assert len(next(response.chunks(10))) <= 10
    response.close()
    response.close()
    assert content(send("GET", "/large")) == LARGE


def test_threads_share_a_sender(send: Send):
    bodies = [f"{number}".encode() * 1000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda body: content(send("POST", "/", {}, body)), bodies))
    assert found == bodies


# Pools over sockets ---------------------------------------------------------------------------------


@pytest.fixture(params=["default", "http2"])
def sender(request: pytest.FixtureRequest) -> Iterator[Sender]:
    sender = sender_of(request.param)
    yield sender
    sender.close()


def get(url: str, **headers: str) -> HttpRequest:
    return HttpRequest("GET", url, headers)


def test_a_connection_is_kept_once_a_body_was_read(sender: Sender, server: Server):
    server.on("GET", "x", {"a": 1})
    server.on("GET", "large", {"a": "b" * 10_000_000})
    for _ in range(3):
        content(sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS))
    assert len({seen.port for seen in server.seen}) == 1
    sender.send(get(f"{server.url}/api/v1/large"), TIMEOUTS).close()
    content(sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS))
    assert len({seen.port for seen in server.seen}) == 2


@pytest.mark.parametrize("pool", ["default"])
def test_a_closed_sender_opens_again(pool: str, server: Server):
    sender = sender_of(pool)
    sender.close()
    server.on("GET", "x", {"a": 1})
    assert content(sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS)) == b'{"a": 1}'


def test_a_coding_is_removed_unless_the_caller_asks_for_none(sender: Sender, server: Server):
    packed = gzip.compress(LARGE)
    server.on("GET", "x", server.reply(packed, headers={"Content-Encoding": "gzip"}))
    assert content(sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS)) == LARGE
    assert "gzip" in server.seen[0].headers["accept-encoding"]
    identity = {"Accept-Encoding": "identity"}
    content(sender.send(get(f"{server.url}/api/v1/x", **identity), TIMEOUTS))
    assert server.seen[1].headers["accept-encoding"] == "identity"


def test_a_bomb_comes_in_small_chunks(sender: Sender, server: Server):
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    server.on("GET", "x", server.reply(bomb, headers={"Content-Encoding": "gzip"}))
    response = sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS)
    chunks = response.chunks(1000)
    assert max(len(next(chunks)) for _ in range(20)) <= 1000
    response.close()


OK, HELLO = b"HTTP/1.1 200 OK\r\n", b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize("code", [b"102 Processing", b"103 Early Hints", b"199 Odd"])
def test_interim_answers_before_the_real_one_are_skipped(code, sender, server: Server):
    interim = b"HTTP/1.1 %s\r\nLink: </a>\r\nContent-Length: 9\r\n\r\n" % code
    raw = interim * 2 + b"HTTP/1.1 100 Continue\r\n\r\n" + interim + OK + b"X-A: b\r\n"
    server.on("GET", "x", server.reply(raw=raw + b"Content-Length: 5\r\n\r\nhello"))
    response = sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS)
    assert (response.status, response.headers.get("link")) == (200, None)
    assert (response.headers["x-a"], content(response)) == ("b", b"hello")


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked "])
@pytest.mark.parametrize("length", [b"3", b"300"])
def test_transfer_encoding_wins_over_content_length(coding, length, sender, server: Server):
    head = b"Content-Length: %s\r\nTransfer-Encoding: %s\r\n\r\n" % (length, coding)
    server.on("GET", "x", server.reply(raw=OK + head + HELLO))
    response = sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS)
    assert "content-length" not in response.headers
    body = BodyReader(response, server.url)
    assert (body.read(), body.read(), body.expected) == (b"hello", b"", None)


@pytest.mark.parametrize(
    "head",
    [b"Transfer-Encoding: gzip, chunked", b"Content-Length: 5\r\nContent-Length: 9"],
)
def test_a_length_that_cannot_be_known_is_an_invalid_response(head, sender, server: Server):
    server.on("GET", "x", server.reply(raw=OK + head + b"\r\n\r\n" + HELLO))
    with pytest.raises(InvalidResponse):
        sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", ConnectionFailed),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nabc", InvalidResponse),
        (b"SSH-2.0\r\n", ConnectionFailed),
        (b"", ConnectionFailed),
    ],
)
def test_a_damaged_response_has_been_sent_for(raw, error, sender: Sender, server: Server):
    server.on("GET", "x", server.reply(raw=raw))
    with pytest.raises(error) as caught:
        content(sender.send(get(f"{server.url}/api/v1/x"), TIMEOUTS))
    assert not isinstance(caught.value, Unreachable)
    assert "127.0.0.1" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Error", "("))


def test_what_was_never_sent_is_marked(sender: Sender):
    for url in ("http://127.0.0.1:1/x", "http://nowhere.invalid/x"):
        with pytest.raises(Unreachable):
            sender.send(get(url), TIMEOUTS)


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), socket.gaierror(-2, "not known")]
)
def test_a_connection_for_which_no_more_files_may_be_open_says_so(error, monkeypatch):
    """The resolver reports an unknown name then."""

    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", full)
    for found in (translated(error, "http://h"), from_system(error, "http://h")):
        assert isinstance(found, LimitReached)
        assert str(found) == "too many open files"


def test_time_for_which_the_program_was_stopped_does_not_count(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds + 100  # Ctrl-Z

    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    monkeypatch.setattr(adapter, "time", clock)
    deadline = retry.Deadline("the download", 10)
    deadline.sleep(1)
    assert deadline.remaining() == 9
    with pytest.raises(adapter.Stopped) as caught, adapter.deadline_scope(5):  # noqa: PT012
        clock.now += 100
        raise TimeoutError
    error = translated(caught.value, "http://h")
    assert str(error) == "the connection to h was lost while the program was suspended"
    assert isinstance(error, ConnectionFailed)
    retry.Retrying(repeatable=True).pause_after(error, deadline)
    assert deadline.remaining() > 0
