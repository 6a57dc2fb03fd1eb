"""The pool on its own: versions, shared connections, certificates, and what it leaves to others.

That it keeps to the rules of every HTTP pool is shown by tinkex's own tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest
import trustme

from tinkex.exceptions import ConnectionFailed, LimitReached, SettingsError, TLSError
from tinkex.plugins import HttpRequest, PoolOptions, Sender, Timeouts
from tinkex.settings import Settings
from tinkex.testing import check_distribution, invoke
from tinkex_http2.pool import Http2Pool

TIMEOUTS = Timeouts(connect=5.0, read=60.0)
BLOCK = bytes(range(256)) * 256


class Server:
    """Answers with the version, the client's port and the path of each request.

    ``/big`` is 4 MiB, ``/cut`` ends too early, ``/together`` waits for seven others.
    """

    def __init__(self, directory: Path, versions: list[str]) -> None:
        self.authority = str(directory / "authority.pem")
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
        assert started.wait(60)

    def _run(self, config: hypercorn.config.Config, started: threading.Event) -> None:
        async def serve() -> None:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            self._together = asyncio.Barrier(8)
            self._loop.call_soon(started.set)
            await hypercorn.asyncio.serve(
                self._answer, config, shutdown_trigger=self._end.wait, mode="asgi"
            )

        # A client may still send while the server closes its side of TLS.
        with contextlib.suppress(ssl.SSLError):
            asyncio.run(serve())

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body", False):
            pass
        path = scope["raw_path"].decode()
        if path == "/together":
            await self._together.wait()
        words = f"{scope['http_version']} {scope['client'][1]} {path}".encode()
        is_large = path in ("/big", "/cut")
        length = str(64 * len(BLOCK) if is_large else len(words)).encode()
        headers = [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(64 if path == "/big" else 3 if path == "/cut" else 0):
            await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
        if path == "/cut":
            raise ConnectionError
        await send({"type": "http.response.body", "body": b"" if is_large else words})

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@pytest.fixture(params=[["h2", "http/1.1"]], ids=str)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with closing(Server(tmp_path, request.param)) as server:
        yield server


@pytest.fixture
def sender(server: Server) -> Iterator[Sender]:
    with closing(Http2Pool().build(settings(ca_bundle=server.authority))) as sender:
        yield sender


def settings(**options: Any) -> Settings:
    return Settings(pool_options=PoolOptions(**options))


def get(sender: Sender, url: str) -> bytes:
    with closing(sender.send(HttpRequest("GET", url, {}), TIMEOUTS)) as response:
        return b"".join(response.chunks(1 << 20))


def test_the_distribution_keeps_to_the_rules():
    check_distribution("tinkex-http2")


@pytest.mark.parametrize("server", [["h2", "http/1.1"], ["http/1.1"]], indirect=True, ids=str)
def test_http_2_is_used_where_it_is_offered(server: Server, sender: Sender, request):
    version = "2" if "h2" in request.node.callspec.params["server"] else "1.1"
    found, _, path = get(sender, server.url + "/a%2Fb?q=%20").decode().split()
    assert (found, path) == (version, "/a%2Fb")


def test_threads_share_one_connection(server: Server, sender: Sender):
    get(sender, server.url)
    with ThreadPoolExecutor(8) as threads:
        # None is answered before all have arrived.
        found = threads.map(lambda _: get(sender, server.url + "/together"), range(8))
        assert len({answer.split()[1] for answer in found}) == 1


def test_a_stream_that_ends_too_early_is_a_lost_connection(server: Server, sender: Sender):
    assert get(sender, server.url + "/big") == BLOCK * 64
    with pytest.raises(ConnectionFailed):
        get(sender, server.url + "/cut")


def test_a_stranger_is_not_trusted(server: Server):
    with closing(Http2Pool().build(settings())) as sender, pytest.raises(TLSError) as caught:
        get(sender, server.url)
    assert "could not be verified" in str(caught.value)


def test_a_hashed_directory_of_authorities_is_read(server: Server, tmp_path: Path):
    (tmp_path / "0123abcd.0").write_bytes(Path(server.authority).read_bytes())
    with closing(Http2Pool().build(settings(ca_bundle=str(tmp_path)))) as sender:
        assert get(sender, server.url).startswith(b"2 ")


# Automatic choice ---------------------------------------------------------------------------------


def test_it_is_chosen_unless_the_engine_lacks_something(monkeypatch: pytest.MonkeyPatch):
    assert Settings().pool_driver == "http2"
    assert settings(insecure=True).pool_driver == "default"
    assert Settings(http_pool="default").pool_driver == "default"
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert Settings().pool_driver == "default"
    monkeypatch.setenv("no_proxy", "thinkingmachines.dev")
    assert Settings().pool_driver == "http2"


def test_config_show_says_which_pool_was_chosen_and_why():
    shown = invoke(["config", "show", "-f", "plain"]).stdout
    assert "http_pool.driver\thttp2\tauto: preferred by tinkex-http2\n" in shown
    shown = invoke(["--insecure", "config", "show", "-f", "plain"]).stdout
    assert "http_pool.driver\tdefault\tauto: no other pool is preferred\n" in shown


def test_certificates_cannot_be_ignored():
    with pytest.raises(SettingsError) as caught:
        Http2Pool().build(settings(insecure=True))
    assert str(caught.value) == "the HTTP pool http2 cannot disable certificate checks"


def test_neither_requests_nor_urllib3_is_imported(server: Server):
    script = """
import sys
from tinkex.testing import invoke
done = invoke(["api", "x", "--base-url", sys.argv[1], "--api-key", "tml-x"])
print(done.stderr, {"requests", "urllib3"} & sys.modules.keys())
"""
    done = run(script, server.url, SSL_CERT_FILE=server.authority)
    assert done.endswith("set()")


def test_a_forked_child_uses_the_default_pool(server: Server):
    script = """
import os, sys
from tinkex.plugins import HttpRequest, Timeouts
from tinkex.settings import Settings
from tinkex_http2.pool import Http2Pool
sender = Http2Pool().build(Settings())
def get():
    response = sender.send(HttpRequest("GET", sys.argv[1], {}), Timeouts(5.0, 60.0))
    return b"".join(response.chunks(1000))
assert get().startswith(b"2 ")
child = os.fork()
if not child:
    os._exit(0 if get().startswith(b"1.1 ") else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run(script, server.url, SSL_CERT_FILE=server.authority) == "0"


# What the system does -------------------------------------------------------------------------------


def test_without_open_files_the_engine_does_not_panic():
    script = """
import os, resource
from tinkex.plugins import HttpRequest, Timeouts
from tinkex.settings import Settings
from tinkex_http2.pool import Http2Pool
sender = Http2Pool().build(Settings())
send = lambda: sender.send(HttpRequest("GET", "http://127.0.0.1:9", {}), Timeouts(5.0, 60.0))
free = os.open(os.devnull, os.O_RDONLY)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
try:
    send()
except Exception as error:
    print(type(error).__name__, error)
"""
    assert run(script) == "LimitReached too many open files"


def test_without_threads_the_error_is_that_of_every_limit(monkeypatch: pytest.MonkeyPatch):
    class PanicException(BaseException):
        pass

    def panic(*_: object) -> None:
        raise PanicException("OS can't spawn worker thread: Resource temporarily unavailable")

    sender = Http2Pool().build(settings())
    monkeypatch.setattr(sender, "_client", panic)
    with pytest.raises(LimitReached, match="too many threads"):
        get(sender, "http://127.0.0.1:9")


@pytest.mark.parametrize("fails", [1, 2], ids=["headers", "body"])
def test_time_for_which_the_program_was_suspended_does_not_count(
    server: Server, sender: Sender, monkeypatch: pytest.MonkeyPatch, fails: int
):
    calls: list[object] = []

    def stopped(do: Callable[[], object]) -> object:
        calls.append(do)
        if len(calls) < fails:
            return do()
        raise TimeoutError

    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 100)  # Ctrl-Z, then fg
    monkeypatch.setattr("tinkex.httppools.time", later)
    monkeypatch.setattr("tinkex_http2.sender._interruptible", stopped)
    with pytest.raises(ConnectionFailed, match="while the program was suspended") as caught:
        get(sender, server.url)
    assert caught.value.suspended >= 40  # 100 s less the read timeout of 60 s


def test_no_connection_is_left_when_the_sender_is_closed():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = Http2Pool().build(settings())
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with ThreadPoolExecutor(1) as threads:
            got = threads.submit(get, sender, url)
            connection, _ = listening.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
            assert got.result(60) == b"x"
        sender.close()
        connection.settimeout(60)
        assert connection.recv(4096) == b""
        connection.close()


def run(script: str, *arguments: str, **environ: str) -> str:
    """Return what a Python process prints."""
    cleared = {name: value for name, value in os.environ.items() if name not in CA_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=cleared | environ,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR")
