"""Keys, hosts, sizes: what must not get in, and what must not break the service."""

import json
import logging

import pytest

from tinkex_local.app import create_app
from tinkex_local.serve import is_loopback, own_machine_only
from tinkex_local.wire.bodies import METADATA_LEVELS
from tinkex_local.wire.http import MAX_BODY


@pytest.fixture
def locked(home, client_of):
    app = create_app(home, api_key="tml-right")
    yield client_of(app)
    app.close()


def test_a_key_is_wanted_and_compared(locked):
    assert locked.get("checkpoints").status == 401
    assert locked.get("checkpoints", x_api_key="tml-wrong").status == 401
    assert locked.get("checkpoints", x_api_key="").status == 401
    assert locked.get("checkpoints", x_api_key="tml-\xfc").status == 401
    answer = locked.get("checkpoints", x_api_key="tml-right")
    assert answer.status == 200
    assert locked.get("checkpoints").json == {"detail": "Missing API key"}


def test_unknown_endpoints_need_the_key_too(locked):
    assert locked.get("nope").status == 401
    assert locked.get("signed/../checkpoints").status in (401, 404)


def test_health_and_signed_addresses_need_none(locked):
    assert locked.get("healthz").status == 200
    locked.headers["x_api_key"] = "tml-right"
    run = locked.model()
    locked.saved(run)
    url = f"training_runs/{run}/checkpoints/sampler_weights/a/archive"
    address = locked.get(url).headers["Location"]
    locked.headers.clear()
    assert locked.get(url).status == 401
    assert locked.get(address.removeprefix("http://service.test")).status == 200


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b"1" * 5000],
)
@pytest.mark.parametrize(
    "call",
    [
        "create_session",
        "create_model",
        "save_weights",
        "load_weights",
        "asample",
        "retrieve_future",
        "weights_info",
    ],
)
def test_malformed_bodies_are_refused_with_a_detail(client, call, raw):
    answer = client.request("POST", call, raw=raw)
    assert answer.status in (400, 422)
    assert answer.json["detail"]


def test_odd_text_is_no_failure_of_the_server(client):
    for text in ("\ud800", "\x00", "x" * 10**6, "'; DROP TABLE runs; --", "ü\u202e"):
        body = {"session_id": text, "model_seq_id": 0, "base_model": text}
        answer = client.post("create_model", body)
        assert answer.status in (400, 404, 422), (text[:10], answer.body)
        metadata = {"tags": [text], "sdk_version": text, "user_metadata": {text: text}}
        assert client.post("create_session", metadata).status in (200, 400)
        assert client.post("retrieve_future", {"request_id": text}).status in (400, 404, 422)


def nested(levels):
    return b'{"a": ' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize("call", ["create_session", "create_model", "save_weights"])
def test_metadata_that_nobody_could_read_again_is_refused(client, call):
    needed = {"tags": [], "sdk_version": "0", "session_id": "s", "model_id": "m"}
    needed |= {"base_model": "b", "model_seq_id": 0, "path": "p"}
    start = json.dumps(needed).encode().rstrip(b"}") + b', "user_metadata": '
    for levels in (METADATA_LEVELS + 1, 960, 970, 975, 980, 985):  # near Python's own limit
        answer = client.request("POST", call, raw=start + nested(levels) + b"}")
        assert answer.status in (400, 422), levels
    answer = client.request("POST", call, raw=start + nested(METADATA_LEVELS) + b"}")
    assert answer.status in (200, 404), answer.body
    assert client.post("sessions/search").status == 200


def test_a_body_too_large_is_413_without_being_read(client):
    answer = client.request("POST", "create_session", raw=b" " * (MAX_BODY + 1))
    assert answer.status == 413


def test_an_encoded_body_is_415(client):
    assert client.post("create_session", {}, content_encoding="zstd").status == 415


def test_a_fault_of_ours_is_a_500_without_a_traceback(client, monkeypatch, caplog):
    monkeypatch.setattr("tinkex_local.state.runs.listing", lambda *args: 1 / 0)
    for level in (logging.WARNING, logging.DEBUG):  # what a terminal shows, and with --debug
        caplog.clear()
        caplog.set_level(level, "tinkex")
        answer = client.get("training_runs")
        assert (answer.status, answer.json) == (500, {"detail": "Internal error"})
        assert "ZeroDivisionError" in caplog.text
        assert ("Traceback" in caplog.text) == (level == logging.DEBUG)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3", "a.localhost"]
)
def test_loopback_hosts(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "", "127.0.0.1.x"])
def test_hosts_that_others_reach(host):
    assert not is_loopback(host)


def test_a_web_page_cannot_use_the_service_through_a_browser(client, client_of):
    guarded = client_of(own_machine_only(client.app))
    for host in ("127.0.0.1:8000", "localhost", "[::1]:80", "[::1]"):
        assert guarded.get("healthz", host=host).status == 200
    for host in ("rebound.example:8000", "127.0.0.1.example", "example"):
        assert guarded.get("healthz", host=host).status == 403
    assert guarded.get("healthz", host="localhost", origin="http://page.example").status == 403


def test_a_key_is_described_and_exchanged_for_a_token(locked):
    assert locked.get("auth/apikey/me").status == 401
    described = locked.get("auth/apikey/me", x_api_key="tml-right").json
    assert described["key_id"] == 1
    assert described["details"]["org_details"] == {"name": "tinkex-local"}
    config = locked.post("client/config", x_api_key="tml-right").json
    assert config["pjwt_auth_enabled"] is True
    token = locked.post("auth/token", x_api_key="tml-right").json["jwt"]
    assert token.count(".") == 2
    assert "tml-right" not in token
    assert locked.get("checkpoints", x_api_key=token).status == 200


@pytest.mark.parametrize("spoilt", ["x", "", ".", "..", "eyJ.eyJ.x", "e.\xfc.x"])
def test_a_token_of_somebody_else_is_refused(locked, spoilt):
    token = locked.post("auth/token", x_api_key="tml-right").json["jwt"]
    assert locked.get("checkpoints", x_api_key=spoilt).status == 401
    head, _, signature = token.rpartition(".")
    assert locked.get("checkpoints", x_api_key=f"{head}A.{signature}").status == 401


def test_an_expired_token_is_told_so_that_a_client_gets_another(home, client_of, clock):
    app = create_app(home, api_key="tml-right", clock=clock)
    client = client_of(app)
    token = client.post("auth/token", x_api_key="tml-right").json["jwt"]
    clock.now += 3601
    answer = client.get("checkpoints", x_api_key=token)
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["Www-Authenticate"]
    app.close()


def test_the_only_key_cannot_be_revoked(locked):
    assert locked.request("DELETE", "auth/apikey/me", x_api_key="tml-right").status == 403
    assert locked.get("checkpoints", x_api_key="tml-right").status == 200


def test_without_a_key_there_is_nothing_to_tell_about_keys(client):
    assert client.post("client/config").json["pjwt_auth_enabled"] is False
    assert client.get("auth/apikey/me", x_api_key="tml-any").status == 404
    assert client.post("auth/token", x_api_key="tml-any").status == 404
