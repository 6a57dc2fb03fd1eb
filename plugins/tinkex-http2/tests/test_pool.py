"""The pool on its own: versions, shared connections, bodies in parts, and what it refuses.

That it obeys the rules of every pool is shown by tinkex's own tests of its transport.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest
import requests
import trustme

from tinkex.settings import Settings
from tinkex.testing import check_distribution
from tinkex_http2 import bodies
from tinkex_http2.pool import Http2Adapter, Http2Pool

BLOCK = bytes(range(256)) * 256


class Server:
    """Says the version and the port of each request; /big is 4 MiB, /cut ends too early."""

    def __init__(self, directory: Path, versions: list[str]) -> None:
        self.authority = directory / "authority.pem"
        signer = trustme.CA()
        signer.cert_pem.write_to_path(self.authority)
        pair = directory / "server.pem"
        signer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pair)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        config = hypercorn.config.Config()
        config.bind = [f"fd://{listening.detach()}"]
        config.certfile = config.keyfile = str(pair)
        config.alpn_protocols = versions
        config.graceful_timeout, config.shutdown_timeout = 0.1, 0.5
        config.errorlog = None
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(config, started))
        self._thread.start()
        started.wait(10)

    def _run(self, config: hypercorn.config.Config, started: threading.Event) -> None:
        async def serve() -> None:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            self._loop.call_soon(started.set)
            await hypercorn.asyncio.serve(
                self._answer, config, shutdown_trigger=self._end.wait, mode="asgi"
            )

        asyncio.run(serve())

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        path = scope["raw_path"].decode()
        words = f"{scope['http_version']} {scope['client'][1]} {path} {len(body)}".encode()
        length = {"/big": 64 * len(BLOCK), "/cut": 64 * len(BLOCK)}.get(path, len(words))
        headers = [
            (b"content-length", str(length).encode()),
            (b"x-twice", b"a"),
            (b"x-twice", b"b"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if path in ("/big", "/cut"):
            for _ in range(64 if path == "/big" else 3):
                await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
            if path == "/cut":
                raise ConnectionError
            words = b""
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": words})

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, ["h2", "http/1.1"])
    yield server
    server.close()


@pytest.fixture
def session(server: Server) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(server.authority)
        session.mount("https://", Http2Pool().build(Settings(), size=64))
        yield session


def test_the_distribution_keeps_to_the_rules():
    check_distribution("tinkex-http2")


def test_http_2_is_spoken_where_it_is_offered(server, session):
    answer = session.get(server.url + "/a%2Fb?q=%20")
    assert answer.text.split()[0] == "2"
    assert answer.text.split()[2] == "/a%2Fb"
    assert answer.raw.version == 20
    assert answer.raw.headers.getlist("x-twice") == ["a", "b"]


def test_http_1_is_spoken_elsewhere(tmp_path):
    server = Server(tmp_path, ["http/1.1"])
    try:
        with requests.Session() as session:
            session.mount("https://", Http2Adapter())
            answer = session.get(server.url, verify=str(server.authority))
        assert (answer.text.split()[0], answer.raw.version) == ("1.1", 11)
    finally:
        server.close()


def test_a_connection_is_kept_and_carries_one_request_at_a_time(server, session):
    ports = {session.get(server.url).text.split()[1] for _ in range(5)}
    assert len(ports) == 1
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: session.get(f"{server.url}/{n}").text, range(200)))
    assert [answer.split()[2] for answer in answers] == [f"/{n}" for n in range(200)]
    assert 1 < len({answer.split()[1] for answer in answers}) <= 17


@pytest.mark.parametrize(
    ("body", "length"), [(b"x" * 300_000, 300_000), ("é", 2), (None, 0), (iter([b"ab", b"c"]), 3)]
)
def test_bodies_are_sent_whole(body, length, server, session):
    assert session.post(server.url, data=body).text.split()[3] == str(length)


def test_a_large_body_comes_in_parts(server, session):
    with session.get(server.url + "/big", stream=True) as answer:
        first = answer.raw.read1(1000)
        rest = answer.raw.read()
    assert 0 < len(first) <= 1000
    assert first + rest == BLOCK * 64


def test_a_body_left_unread_harms_no_other(server, session):
    with session.get(server.url + "/big", stream=True) as answer:
        answer.raw.read1(10)
    assert session.get(server.url).ok


def test_a_body_that_is_cut_is_not_taken_for_whole(server, session):
    with pytest.raises(requests.RequestException):
        session.get(server.url + "/cut")


def test_a_certificate_of_nobody_is_refused(server, session):
    with pytest.raises(requests.exceptions.SSLError):
        session.get(server.url, verify=True)
    assert session.get(server.url, verify=False).ok


@pytest.mark.parametrize("place", ["verify", "cert"])
def test_files_that_are_not_there_are_named(place, server, session):
    with pytest.raises(OSError, match=r"invalid path: /nonexistent/it.pem"):
        session.get(server.url, **{place: "/nonexistent/it.pem"})


def test_socks_is_refused_as_requests_does(server, session):
    with pytest.raises(requests.exceptions.InvalidSchema, match="SOCKS"):
        session.get(server.url, proxies={"https": "socks5://127.0.0.1:1"})


def test_other_addresses_are_refused(session):
    session.mount("ftp://", Http2Adapter())
    with pytest.raises(requests.exceptions.InvalidSchema):
        session.get("ftp://127.0.0.1/x")


@pytest.mark.parametrize("end", [[], [b""], [b"", b""], [b"more"]])
def test_a_stream_may_end_with_frames_that_hold_nothing(end):
    class Response:
        headers = ((b"Content-Length", b"3"),)

        def iter_stream(self) -> Iterator[bytes]:
            return iter([b"abc", *end])

        def close(self) -> None:
            pass

    told: list[bool] = []
    body = bodies._Body(Response(), 5.0, told.append)
    assert body.read(3) == b"abc"
    body.close()
    assert told == [end != [b"more"]]
