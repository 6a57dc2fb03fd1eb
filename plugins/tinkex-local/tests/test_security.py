"""Limits on keys, hosts and sizes: requests that must be refused without harm."""

import json
import logging

import pytest

from tinkex_local.serve import is_loopback, own_machine_only
from tinkex_local.wire.bodies import METADATA_LEVELS
from tinkex_local.wire.http import MAX_BODY

KEY = {"x-api-key": "tml-right"}


@pytest.fixture
def locked(opened):
    return opened(KEY["x-api-key"])


@pytest.mark.parametrize("given", ["tml-wrong", "", "tml-\xfc", "x", ".", "..", "eyJ.eyJ.x"])
def test_other_keys_and_tokens_are_refused(locked, given):
    assert locked.get("checkpoints", **{"x-api-key": given}).status == 401


def test_a_key_is_needed_for_all_but_health_and_signed_addresses(locked):
    assert locked.get("checkpoints").json == {"detail": "Missing API key"}
    assert locked.get("nope").status == 401
    assert locked.get("signed/../checkpoints").status in (401, 404)
    assert locked.get("healthz").status == 200
    locked.headers |= KEY
    run = locked.model()
    locked.saved(run)
    url = f"training_runs/{run}/checkpoints/sampler_weights/a/archive"
    address = locked.get(url).headers["location"]
    locked.headers.clear()
    assert locked.get(url).status == 401
    assert locked.get(address).status == 200


def test_a_key_is_described_and_exchanged_for_a_token(locked):
    described = locked.get("auth/apikey/me", **KEY).json
    assert described["key_id"] == 1
    assert described["details"]["org_details"] == {"name": "tinkex-local"}
    assert locked.request("DELETE", "auth/apikey/me", **KEY).status == 403  # the only key
    assert locked.post("client/config", **KEY).json["pjwt_auth_enabled"] is True
    token = locked.post("auth/token", **KEY).json["jwt"]
    assert token.count(".") == 2
    assert "tml-right" not in token
    assert locked.get("checkpoints", **{"x-api-key": token}).status == 200
    head, _, signature = token.rpartition(".")
    assert locked.get("checkpoints", **{"x-api-key": f"{head}A.{signature}"}).status == 401


def test_an_expired_token_is_reported_so_that_a_client_gets_another(locked, clock):
    token = locked.post("auth/token", **KEY).json["jwt"]
    clock.now += 3601
    answer = locked.get("checkpoints", **{"x-api-key": token})
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_a_service_without_a_key_has_no_endpoints_for_keys(client):
    assert client.post("client/config").json["pjwt_auth_enabled"] is False
    assert client.get("auth/apikey/me", **KEY).status == 404
    assert client.post("auth/token", **KEY).status == 404


def nested(levels):
    return b'{"a": ' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize("call", ["create_session", "create_model", "save_weights"])
def test_metadata_too_deep_to_be_read_again_is_refused(client, call):
    needed = {"tags": [], "sdk_version": "0", "session_id": "s", "model_id": "m"}
    needed |= {"base_model": "b", "model_seq_id": 0, "path": "p"}
    start = json.dumps(needed).encode().rstrip(b"}") + b', "user_metadata": '
    for levels in (METADATA_LEVELS + 1, 960, 970, 975, 980, 985):  # near Python's own limit
        answer = client.request("POST", call, raw=start + nested(levels) + b"}")
        assert answer.status in (400, 422), levels
    answer = client.request("POST", call, raw=start + nested(METADATA_LEVELS) + b"}")
    assert answer.status in (200, 404), answer.body
    assert client.post("sessions/search").status == 200


def test_a_body_too_large_or_encoded_is_refused(client):
    assert client.request("POST", "create_session", raw=b" " * (MAX_BODY + 1)).status == 413
    assert client.post("create_session", **{"content-encoding": "zstd"}).status == 415


def test_a_fault_of_the_service_is_a_500_without_a_traceback(client, monkeypatch, caplog):
    monkeypatch.setattr("tinkex_local.state.runs.listing", lambda *args: 1 / 0)
    for level in (logging.WARNING, logging.DEBUG):  # what a terminal shows, and with --debug
        caplog.clear()
        caplog.set_level(level, "tinkex")
        answer = client.get("training_runs")
        assert (answer.status, answer.json) == (500, {"detail": "Internal error"})
        assert "ZeroDivisionError" in caplog.text
        assert ("Traceback" in caplog.text) == (level == logging.DEBUG)


def test_loopback_hosts():
    own = ("127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3", "a.localhost")
    open_to_others = ("0.0.0.0", "::", "192.168.1.1", "example.org", "", "127.0.0.1.x")
    assert [is_loopback(host) for host in own + open_to_others] == [True] * 6 + [False] * 6


def test_a_web_page_cannot_use_the_service_through_a_browser(client):
    guarded = type(client)(own_machine_only(client.app))
    for host in ("127.0.0.1:8000", "localhost", "[::1]:80", "[::1]"):
        assert guarded.get("healthz", host=host).status == 200
    for host in ("rebound.example:8000", "127.0.0.1.example", "example"):
        assert guarded.get("healthz", host=host).status == 403
    assert guarded.get("healthz", host="localhost", origin="http://page.example").status == 403
