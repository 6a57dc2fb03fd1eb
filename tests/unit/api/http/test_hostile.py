"""Servers that mean harm, or are badly broken: what they send is bounded, hidden and reported."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.unit.api.conftest import NEVER
from tinkex.api.http.transport import Response
from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.api.sampling.types import SampleResponse
from tinkex.exceptions import (
    APIError,
    InvalidResponse,
    LocalError,
    OperationFailed,
    TimedOut,
    TinkexError,
)

pytestmark = pytest.mark.both_pools
ABOVE = pytest.mark.only_pool("default", "it is decided above the pools")

KEY = "tml-test-key-0123456789"
ESCAPED = "".join(f"\\u{ord(c):04X}" for c in KEY)
PATH = "get_server_capabilities"
SAMPLER = "tinker://r/sampler_weights/final"
ARCHIVE = "training_runs/r/checkpoints/sampler_weights/final/archive"


# The key ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [f'{{"detail": "bad {KEY}!"}}', f'{{"detail": "bad {ESCAPED}!"}}'])
def test_an_error_that_repeats_the_key_is_reported_without(body, server, client):
    server.on("GET", PATH, server.reply(body.encode(), 400, {"x-request-id": f"q-{KEY}"}))
    with pytest.raises(APIError) as caught:
        client.models.list()
    assert str(caught.value) == "bad …! (HTTP 400, request q-…)"
    assert caught.value.body == {"detail": "bad …!"}


def test_tokens_and_short_keys_are_hidden_as_well(server, client, connect):
    server.on("POST", "client/config", {"pjwt_auth_enabled": True})
    server.on("POST", "auth/token", {"jwt": "eyJ.secret-token"})
    refusal = server.reply({"detail": f"not eyJ.secret-token, once {KEY}"}, 403)
    server.on("GET", PATH, server.reply({"detail": "who?"}, 401), refusal)
    with pytest.raises(APIError, match=r"^not …, once … "):
        client.models.list()
    client = connect(server.url, api_key="tml-dummy")
    server.on("GET", PATH, server.reply({"detail": "bad tml-dummy"}, 400))
    with pytest.raises(APIError, match=r"^bad … "):
        client.models.list()
    server.on("GET", PATH, {"supported_models": ["a/tml-dummy"]})
    assert client.models.list()[0].model_name == "a/tml-dummy"  # no failure: a name may have it


def sampling(server, result):
    server.on("POST", "create_session", {"session_id": "s", "info_message": f"hello {KEY}"})
    server.on("POST", "create_sampling_session", {"sampling_session_id": "ss"})
    server.on("POST", "asample", {"request_id": "q"})
    server.on("POST", "sessions/s/finish", {})
    server.on("POST", "retrieve_future", *result)


@ABOVE
def test_notes_queue_reasons_and_failed_operations_hide_it(server, client, waits):
    again = {"type": "try_again", "queue_state_reason": f"busy with {KEY}"}
    sampling(server, [again, {"error": f"boom {KEY}", "category": "server"}])
    with pytest.raises(OperationFailed, match=r"^boom …$"):
        client.create_sampling_client(base_model="m").sample([1])
    assert "server: hello …" in [wait.note for wait in waits]
    assert "busy with …" in [wait.reason for wait in waits]
    assert KEY not in repr(waits)


# Time ------------------------------------------------------------------------------------------


@pytest.fixture
def dripping() -> Iterator[Callable[[bytes, bytes], str]]:
    """Return a function that starts a server: it sends the first bytes, then the second slowly."""
    listening: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(begin: bytes, drip: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listening.append(listener)

        def run() -> None:
            with suppress(OSError), listener.accept()[0] as peer:
                peer.recv(65536)
                peer.sendall(begin)
                while True:
                    peer.sendall(drip)
                    time.sleep(0.05)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for thread in threads:
        thread.join()
    for listener in listening:
        listener.close()


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = OK + b"Content-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n\x1f\x8b\x08\x10" + bytes(6)


@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (OK, b"X-A: b\r\n"),
        (OK[:-2], b"k"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CHUNKED, b"0"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"A: b\r\n"),
        (GZIP, b"c"),
        (OK + b"Content-Length: 1000000\r\n\r\n", b" "),
    ],
    ids=["headers", "status", "continue", "chunk size", "trailers", "gzip header", "body"],
)
def test_no_trickle_outlives_the_timeout(begin, drip, dripping, connect):
    with pytest.raises(TimedOut):
        connect(dripping(begin, drip), timeout=0.6).models.list()


def test_a_trickle_of_headers_ends_a_download(dripping, server, connect, tmp_path):
    location = {"Location": dripping(OK, b"X-A: b\r\n") + "/x"}
    server.on("GET", ARCHIVE, server.reply(None, 302, location))
    with pytest.raises(TimedOut):
        connect(server.url, timeout=0.6).checkpoints.download(SAMPLER, tmp_path / "d")


@ABOVE
def test_the_end_of_a_session_waits_for_no_answer(server, client):
    sampling(server, [{}])
    server.on("POST", "sessions/s/finish", server.reply({}, delay=NEVER))
    with client.create_sampling_client(base_model="m"):
        pass
    with suppress(SystemExit), client.create_sampling_client(base_model="m"):
        raise SystemExit(143)
    reasons = [seen.body["reason"]["type"] for seen in server.requests("sessions/s/finish")]
    assert reasons == ["success", "interrupted"]


# Values ----------------------------------------------------------------------------------------


BAD_ADDRESSES = ["http://[::1", "http://h:99999/", "http://*\xff\xfe.x/", "http://\x1b[31m/"]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_malformed_addresses_are_invalid_answers(
    address, server, client, tmp_path, http_pool, naps
):
    # The engine of http2 passes on no header that is not text.
    is_passed_on = http_pool == "default" or (address.isascii() and address.isprintable())
    refused = "malformed URL" if is_passed_on else "not HTTP|HTTP 302"
    raw = f"HTTP/1.1 302 Found\r\nLocation: {address}\r\nContent-Length: 0\r\n\r\n"
    reply = server.reply(raw=raw.encode("latin-1"))
    server.on("GET", PATH, reply)
    with pytest.raises(TinkexError, match=refused):
        client.models.list()
    server.on("GET", ARCHIVE, reply)
    with pytest.raises(TinkexError, match=refused):
        client.checkpoints.download(SAMPLER, tmp_path / "d")
    server.on("GET", ARCHIVE, server.reply(None, 302, {"Location": "/blob"}))
    server.on("GET", "/blob", reply)
    with pytest.raises(TinkexError, match=refused):
        client.checkpoints.download(SAMPLER, tmp_path / "d")
    files = "training_runs/r/checkpoints/external_weights/x/external_weights_urls"
    server.on("GET", files, {"urls": {"a": address}})
    with pytest.raises(InvalidResponse, match="malformed URL"):
        client.checkpoints.download("tinker://r/external_weights/x", tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


@ABOVE
@pytest.mark.parametrize("bad", ["..", "\ud800", "a\nb"])
def test_ids_of_a_server_that_cannot_be_are_its_fault(bad, server, client):
    server.on("POST", "create_session", {"session_id": bad})
    with pytest.raises(InvalidResponse, match="not an id"):
        client.create_sampling_client(base_model="m")
    run = {"training_run_id": bad, "base_model": "m/m", "is_lora": True}
    server.on("GET", "training_runs", {"training_runs": [run]})
    with pytest.raises(InvalidResponse, match="not an id"):
        client.checkpoints.list()
    sampling(server, [{"model_id": "r"}, {"path": "tinker://r/\x1b/x\ud800"}])
    server.on("POST", "create_model", {"request_id": "q"})
    server.on("POST", "save_weights_for_sampler", {"request_id": "q"})
    with pytest.raises(InvalidResponse, match="not a path"):
        client.create_lora_training_client("m").save_weights_for_sampler("x")


@ABOVE
def test_values_out_of_range():
    odd = {"tinker_path": SAMPLER, "time": 10**400, "size_bytes": 10**400}
    found = Checkpoint.from_json(odd)
    assert (found.size_bytes, found.time) == (None, None)
    sequence = {"tokens": [1], "logprobs": [10**400]}
    with pytest.raises(InvalidResponse, match="'logprobs' contains a number out of range"):
        SampleResponse.from_json({"sequences": [sequence]})
    assert Response(200, {}, b"\xef\xbb\xbf{}").json() == {}
    with pytest.raises(InvalidResponse):  # JSON is UTF-8
        Response(200, {}, "{}".encode("utf-16")).json()


# Files -----------------------------------------------------------------------------------------


@ABOVE
@pytest.mark.parametrize(
    ("location", "limit", "error"),
    [
        *((f"file://{host}{{}}/s", 3, None) for host in ("", "localhost")),
        *(
            (place, 2, "own machine")
            for place in ("file://{}/bare", "file://other{}/s", "file://{}/bare/../s")
        ),
        ("file://{}/s", 1, "more than 1 files"),
        ("file://{}/deep", 3, "name that is too long"),
    ],
)
def test_a_checkpoint_of_this_machine_is_copied_and_no_other_directory(
    location, limit, error, server, client, tmp_path, monkeypatch
):
    monkeypatch.setattr("tinkex.api.transfer.archive.MAX_FILES", limit)
    for name in ("s", "bare"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "other").write_text("x")
    (tmp_path / "s" / "deep").mkdir()
    (tmp_path / "deep" / "/".join("d" * 300)).mkdir(parents=True)
    (tmp_path / "deep" / "adapter_config.json").write_text("{}")
    (tmp_path / "s" / "deep" / "other").write_text("y")
    (tmp_path / "s" / "link").symlink_to("/etc/passwd")  # is left out
    (tmp_path / "s" / "adapter_config.json").write_text("{}")
    (tmp_path / "bare" / "adapter_config.json").symlink_to(tmp_path / "s/adapter_config.json")
    server.on("GET", ARCHIVE, server.reply(None, 302, {"Location": location.format(tmp_path)}))
    if error is None:
        found = client.checkpoints.download(SAMPLER, tmp_path / "d")
        assert {name for name, _ in found.files} == {"adapter_config.json", "other", "deep/other"}
        assert (tmp_path / "d" / "deep" / "other").read_text() == "y"
        return
    with pytest.raises((LocalError, InvalidResponse), match=error):
        client.checkpoints.download(SAMPLER, tmp_path / "d")
    assert not (tmp_path / "d").exists()
