"""What a server may say in frames: streams that are reset, connections that are to end."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import hyperframe.frame
import pytest
import trustme
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tinkex.api import ServiceClient
from tinkex.exceptions import ConnectionFailed, TimedOut
from tinkex.settings import PoolOptions, Settings

BODY = json.dumps({"training_runs": [], "cursor": {"total_count": 0}}).encode()

#: What becomes of a request: connection, socket, stream; true if the connection ends by it.
Act = Callable[["Talk", int], bool]


class Talk:
    """One connection, as its acts see it."""

    def __init__(self, connection: h2.connection.H2Connection, wire: ssl.SSLSocket) -> None:
        self.h2, self.wire = connection, wire

    def flush(self) -> None:
        self.wire.sendall(self.h2.data_to_send())

    def answer(self, stream: int, body: bytes = BODY, *, length: bool = True, end: bool = True):
        headers = [(b":status", b"200"), (b"content-type", b"application/json")]
        if length:
            headers.append((b"content-length", b"%d" % len(BODY)))
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, body, end_stream=end)
        self.flush()


def fine(talk: Talk, stream: int) -> bool:
    talk.answer(stream)
    return False


def reset(code: ErrorCodes) -> Act:
    def act(talk: Talk, stream: int) -> bool:
        talk.h2.reset_stream(stream, code)
        talk.flush()
        return False

    return act


def reset_in_the_body(*, length: bool) -> Act:
    def act(talk: Talk, stream: int) -> bool:
        talk.answer(stream, BODY[:5] if length else b"{}", length=length, end=False)
        time.sleep(0.05)
        return reset(ErrorCodes.CANCEL)(talk, stream)

    return act


def goodbye_unprocessed(talk: Talk, stream: int) -> bool:
    talk.h2.close_connection(last_stream_id=0)
    talk.flush()
    return True


def goodbye_in_the_body(talk: Talk, stream: int) -> bool:
    talk.answer(stream, BODY[:5], end=False)
    talk.h2.close_connection(ErrorCodes.INTERNAL_ERROR)
    talk.flush()
    return True


def goodbye_before_the_answer(talk: Talk, stream: int) -> bool:
    frame = hyperframe.frame.GoAwayFrame(0)
    frame.last_stream_id = stream
    talk.wire.sendall(frame.serialize())
    time.sleep(0.05)
    talk.answer(stream)
    return True


def goodbye_after_the_answer(talk: Talk, stream: int) -> bool:
    talk.answer(stream)
    talk.h2.close_connection()
    talk.flush()
    return True


def other_protocol(talk: Talk, stream: int) -> bool:
    talk.wire.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    return True


def nothing_but_pings(talk: Talk, stream: int) -> bool:
    with contextlib.suppress(OSError):
        for _ in range(60):
            talk.h2.ping(b"12345678")
            talk.flush()
            time.sleep(0.05)
    return True


def gone(talk: Talk, stream: int) -> bool:
    return True


class FrameServer:
    """Does to one request after the other what it is told, and then answers.

    :ivar connections: how many were made.
    :ivar requests: how many came.
    """

    def __init__(self, directory: Path, *acts: Act, settings: dict[int, int] | None = None) -> None:
        self._acts, self._settings = list(acts), settings or {}
        self.connections = self.requests = 0
        self._lock = threading.Lock()
        signer = trustme.CA()
        self.authority = directory / "authority.pem"
        signer.cert_pem.write_to_path(self.authority)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        signer.issue_cert("127.0.0.1").configure_cert(self._context)
        self._context.set_alpn_protocols(["h2"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def client(self, timeout: float = 5.0) -> ServiceClient:
        return ServiceClient(
            Settings(
                base_url=self.url,
                api_key="tml-frames",
                http_pool="http2",
                timeout=timeout,
                pool_options=PoolOptions("http2", ca_bundle=str(self.authority)),
            )
        )

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as wire,
        ):
            self.connections += 1
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            talk = Talk(connection, wire)
            connection.initiate_connection()
            connection.update_settings(self._settings)
            talk.flush()
            while data := wire.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.StreamEnded) and self._act(
                        talk, event.stream_id
                    ):
                        time.sleep(0.1)  # it is read before the end
                        return
                talk.flush()

    def _act(self, talk: Talk, stream: int) -> bool:
        with self._lock:
            self.requests += 1
            act = self._acts.pop(0) if self._acts else fine
        return act(talk, stream)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FrameServer]]:
    servers: list[FrameServer] = []

    def start(*acts: Act, **options: object) -> FrameServer:
        servers.append(FrameServer(tmp_path, *acts, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for server in servers:
        server.close()


LOSSES = {
    "refused stream": reset(ErrorCodes.REFUSED_STREAM),
    "failed stream": reset(ErrorCodes.INTERNAL_ERROR),
    "reset in the body": reset_in_the_body(length=True),
    "reset in a body of unknown length": reset_in_the_body(length=False),
    "goodbye, unprocessed": goodbye_unprocessed,
    "goodbye in the body": goodbye_in_the_body,
    "another protocol": other_protocol,
    "gone": gone,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_that_is_repeated(name, serve):
    server = serve(LOSSES[name])
    with server.client() as client:
        assert list(client.runs.list()) == []
    assert (server.connections, server.requests) == (2, 2)


@pytest.mark.parametrize("act", [goodbye_before_the_answer, goodbye_after_the_answer])
def test_an_answer_with_a_goodbye_is_an_answer(act, serve):
    server = serve(act, act)
    with server.client() as client:
        for _ in range(3):
            assert list(client.runs.list()) == []
    assert server.connections == 3


@pytest.mark.parametrize("act", [reset(ErrorCodes.INTERNAL_ERROR), goodbye_unprocessed, gone])
def test_what_stays_so_is_told(act, serve):
    server = serve(*[act] * 20)
    with server.client(6.0) as client, pytest.raises(ConnectionFailed, match="without an answer"):
        client.runs.list()
    assert server.requests > 1


def test_frames_without_an_answer_do_not_extend_the_time(serve):
    began = time.monotonic()
    with serve(nothing_but_pings).client(1.0) as client, pytest.raises(TimedOut):
        client.runs.list()
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(
    "settings",
    [
        {SettingCodes.MAX_CONCURRENT_STREAMS: 1},
        {SettingCodes.INITIAL_WINDOW_SIZE: 1},
        {SettingCodes.MAX_FRAME_SIZE: 16384, SettingCodes.HEADER_TABLE_SIZE: 0},
    ],
)
def test_a_server_with_little_room_is_waited_for(settings, serve):
    server = serve(settings=settings)
    with server.client(20.0) as client, ThreadPoolExecutor(8) as threads:
        lists = list(threads.map(lambda _: list(client.runs.list()), range(40)))
    assert (lists, server.requests) == ([[]] * 40, 40)
    assert server.connections <= 8
