"""Requests on a real socket: what is repeated, what is refused, and how it is reported."""

from __future__ import annotations

import logging
import re
import socket
import threading

import pytest

from tinkex.api.http import transport
from tinkex.api.http.transport import Request
from tinkex.exceptions import (
    APIError,
    Conflict,
    ConnectionFailed,
    InvalidResponse,
    NotOffered,
    RateLimited,
    Redirected,
    ServerError,
    SettingsError,
    TimedOut,
    UsageError,
)

pytestmark = pytest.mark.both_pools
ABOVE = pytest.mark.only_pool("default", "it is decided above the pools")

KEY = "tml-test-key-0123456789"
CAPABILITIES = {"supported_models": [{"model_name": "m"}]}
PATH = "get_server_capabilities"


def test_every_request_carries_key_and_agent_and_nothing_of_netrc_or_cookies(server, client, home):
    (home / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    (home / ".netrc").chmod(0o600)
    server.on("GET", PATH, server.reply(CAPABILITIES, headers={"Set-Cookie": "a=b"}))
    for _ in range(2):
        client.models.list()
    for seen in server.seen:
        assert seen.headers["x-api-key"] == KEY
        assert re.fullmatch(r"tinkex/\S+", seen.headers["user-agent"])  # and no other program
        assert not {"authorization", "cookie", "x-idempotency-key"} & seen.headers.keys()


def test_a_text_that_no_json_can_hold_is_not_sent(server, client):
    server.on("POST", "sampling", {})
    for text in ("\U0001f600", "\\ud83d", "ü"):
        client.request("POST", "sampling", body={"a": [text]})
    with pytest.raises(UsageError, match="not valid Unicode") as caught:
        client.request("POST", "sampling", body={"a": ["x\udcff"]})
    assert "UTF-8" in str(caught.value.hint)
    assert len(server.seen) == 3


CUT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@pytest.mark.parametrize(
    ("failure", "reason", "error", "requests"),
    [
        *(
            ({"body": "oh", "status": status}, f"HTTP {status}", error, requests)
            for status, error, requests in (
                *((408, APIError, 6), (429, RateLimited, 6), (500, ServerError, 3)),
                *((502, ServerError, 6), (503, ServerError, 6), (504, ServerError, 6)),
            )
        ),
        *(
            (failure, "", ConnectionFailed, None)  # an empty 400 is that of a proxy
            for failure in ({"status": 400}, {"reset": True}, {"raw": CUT})
        ),
    ],
)
def test_passing_failures_of_a_get_are_repeated_and_told(
    failure, reason, error, requests, server, connect, waits, naps
):
    client = connect(server.url, timeout=1000)
    server.on("GET", PATH, server.reply(**failure), CAPABILITIES)
    assert client.models.list()[0].model_name == "m"
    assert len(server.seen) == 2
    assert naps == [pytest.approx(0.5 if requests else 0.2)]
    assert (waits[0].operation, waits[0].retry_in) == ("the list of models", naps[0])
    assert reason in waits[0].reason
    server.on("GET", PATH, server.reply(**failure))
    with pytest.raises(error):
        client.models.list()
    assert requests in (None, len(server.seen) - 2)
    assert naps[1:] == sorted(naps[1:])


@ABOVE
@pytest.mark.parametrize("status", [400, 402, 403, 404, 409, 410, 422, 405])
def test_lasting_failures_are_not_repeated(status, server, client):
    server.on("GET", PATH, server.reply({"detail": "no such luck"}, status))
    with pytest.raises(APIError) as caught:
        client.models.list()
    assert (len(server.seen), caught.value.status) == (1, status)


@ABOVE
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, {"detail": "Not Found"}, ""),
        (405, {"error": "Method Not Allowed"}, ""),
        (501, None, ""),
        (405, {"message": "run: modal volume get a b"}, ": run: modal volume get a b"),
        (405, "ask\nthe operator", ": ask the operator"),
        (501, {"detail": "ask the operator"}, ": ask the operator"),
    ],
)
def test_what_is_not_offered_comes_with_the_sentence_of_the_server(
    status, body, words, server, client
):
    path = "training_runs/r/checkpoints/weights/x/publish"
    server.on("POST", path, server.reply(body, status))
    with pytest.raises(NotOffered) as caught:
        client.checkpoints.publish("tinker://r/weights/x")
    assert str(caught.value) == f"this server does not offer publishing{words} (HTTP {status})"
    assert [seen.method for seen in server.seen].count("POST") == 1


@ABOVE
def test_the_sentence_of_a_download_that_is_not_offered_is_shown(server, client, tmp_path):
    reply = server.reply({"error": "unsupported", "message": "run: modal volume get a"}, 405)
    path = "training_runs/r/checkpoints/sampler_weights"
    server.on("GET", f"{path}/x/archive", reply)
    with pytest.raises(NotOffered, match="run: modal volume get a"):
        client.checkpoints.download("tinker://r/sampler_weights/x", tmp_path / "d")


@ABOVE
@pytest.mark.parametrize("body", [{"error": "no engine"}, {"error_message": "no engine"}])
def test_an_error_in_a_successful_response_is_shown(body, server, client):
    server.on("GET", PATH, body)
    with pytest.raises(InvalidResponse, match=r"returned an error: no engine$"):
        client.models.list()
    server.on("POST", "create_session", body)
    with pytest.raises(InvalidResponse, match=r"returned an error: no engine$"):
        client.sessions.create()
    assert client.request("GET", PATH).object() == body  # 'tinkex api' shows it as it is


@ABOVE
def test_a_traceback_of_a_server_is_one_line_and_whole_in_the_log(server, client, caplog):
    traceback = f"Traceback (most recent call last):\n  File\x1b[1m {KEY}\nValueError: too large"
    server.on("GET", PATH, server.reply({"detail": traceback}, 500, {"x-should-retry": "false"}))
    with caplog.at_level(logging.DEBUG, "tinkex.http"), pytest.raises(ServerError) as caught:
        client.models.list()
    assert str(caught.value) == "ValueError: too large (HTTP 500)"
    lines = [r.getMessage() for r in caplog.records if r.name == "tinkex.http"]
    assert lines[1:] == [traceback.splitlines()[0], "  File\ufffd[1m …", "ValueError: too large"]


@ABOVE
def test_the_server_decides_about_repetition(server, client, naps):
    retry = {"x-should-retry": "true"}
    server.on("GET", PATH, server.reply({"detail": "locked"}, 409, retry), CAPABILITIES)
    client.models.list()
    assert len(server.seen) == 2
    refuse = {"x-should-retry": "false"}
    server.on("GET", PATH, server.reply({"detail": "no"}, 503, refuse), CAPABILITIES)
    with pytest.raises(ServerError):
        client.models.list()


@ABOVE
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": "nonsense"}, 0.5),
        ({"retry-after-ms": "nan", "Retry-After": "2"}, 2),
        ({"Retry-After": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0),
    ],
)
def test_the_server_says_when(headers, seconds, server, client, naps):
    server.on("GET", PATH, server.reply(None, 429, headers), CAPABILITIES)
    client.models.list()
    assert naps == [pytest.approx(seconds)]


@ABOVE
def test_a_wait_beyond_the_deadline_is_not_begun(server, client, naps):
    server.on("GET", PATH, server.reply({"detail": "busy"}, 429, {"Retry-After": "30"}))
    with pytest.raises(RateLimited) as caught:
        client.models.list()
    assert (naps, caught.value.retry_after) == ([], 30)


@pytest.mark.parametrize("reply", ["status", "reset"])
def test_a_post_is_not_repeated(reply, server, client):
    bad = server.reply("x", 503) if reply == "status" else server.reply(reset=True)
    server.on("POST", "create_session", bad)
    with pytest.raises((ServerError, ConnectionFailed)):
        client.create_sampling_client(base_model="m")
    assert len(server.seen) == 1
    assert server.seen[0].headers["x-idempotency-key"].startswith("tinkex-")


@ABOVE
@pytest.mark.parametrize("path", ["create_session", "create_sampling_session"])
def test_a_429_without_retry_after_is_a_limit_where_something_is_created(path, server, client):
    server.on("POST", "create_session", {"session_id": "s"})
    server.on("POST", path, server.reply({"detail": "session limit of your tier"}, 429))
    with pytest.raises(RateLimited, match="session limit of your tier") as caught:
        client.create_sampling_client(base_model="m")
    assert "The server limits concurrent sessions" in str(caught.value.hint)
    assert len(server.requests(path)) == 1


@ABOVE
def test_a_429_with_retry_after_is_waited_for_whatever_the_method(server, client, naps):
    busy = server.reply({"detail": "busy"}, 429, {"Retry-After": "3"})
    server.on("POST", "create_session", busy, {"session_id": "s"})
    assert client.sessions.create().session_id == "s"
    assert naps == [3]


@pytest.mark.parametrize(
    ("first", "second"), [(429, 200), (503, 200), ("reset", 200), (503, 409), ("reset", 409)]
)
def test_a_change_of_state_is_repeated(first, second, server, client, naps):
    path = "training_runs/r/checkpoints/weights/x/publish"
    bad = server.reply(reset=True) if first == "reset" else server.reply("x", first)
    server.on("POST", path, bad, server.reply({"detail": "It is public already."}, second))
    client.checkpoints.publish("tinker://r/weights/x")
    keys = [seen.headers["x-idempotency-key"] for seen in server.requests(path)]
    assert (len(keys), len(set(keys))) == (2, 1)
    again = server.reply({"detail": "It is public already."}, 409)
    for replies in ([again], [server.reply("x", 429), again]):  # by another than the first try
        server.on("POST", path, *replies)
        with pytest.raises(Conflict):
            client.checkpoints.publish("tinker://r/weights/x")


def closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_where_no_connection_can_be_made(connect, waits, monkeypatch):
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(ConnectionFailed, match=f"connection refused by {url[7:]}") as caught:
        connect(url, timeout=120).models.list()
    assert KEY not in str(caught.value)
    assert caught.value.category == "server"
    waits.clear()
    with pytest.raises(ConnectionFailed):
        connect(url).sessions.create()
    assert len(waits) == 1  # repeated, although it is a POST: no server has read it
    with pytest.raises(ConnectionFailed, match=r"cannot resolve nowhere.invalid"):
        connect("http://nowhere.invalid", timeout=20).models.list()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/ca.pem")
    with pytest.raises(SettingsError, match=r"REQUESTS_CA_BUNDLE is set to /nonexistent/ca.pem"):
        connect("https://127.0.0.1:1").models.list()


@ABOVE
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"body": b"<html>", "headers": {"Content-Type": "text/html"}}, "a web page instead"),
        ({"body": "hello"}, "plain text instead"),
        ({"body": None}, "nothing instead"),
        ({"body": b"{", "headers": {"Content-Type": "application/json"}}, "malformed data"),
        ({"body": [1]}, "JSON that is not an object"),
        ({"body": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, "JSON"),
        ({"body": {"supported_models": {}}}, "'supported_models' is missing or not an array"),
    ],
)
def test_answers_of_another_shape_are_told(reply, words, server, client):
    server.on("GET", PATH, server.reply(**reply))
    with pytest.raises(InvalidResponse, match=words):
        client.models.list()


def test_an_answer_has_a_limit(server, client, monkeypatch):
    monkeypatch.setattr(transport, "MAX_RESPONSE", 1000)
    server.on("GET", PATH, {"supported_models": [{"model_name": "m" * 2000}]})
    with pytest.raises(InvalidResponse, match="too large"):
        client.models.list()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("origin", [True, False])
def test_a_redirect_to_the_same_origin_is_followed_with_the_key(status, origin, server, client):
    place = f"{server.url if origin else ''}/api/v1/{PATH}/?a=b"
    server.on("GET", PATH, server.reply(None, status, {"Location": place}))
    server.on("GET", f"{PATH}/", CAPABILITIES)
    assert client.models.list()[0].model_name == "m"
    assert server.seen[1].headers["x-api-key"] == KEY
    assert server.seen[1].query == {"a": "b"}


def test_a_post_is_redirected_only_where_it_stays_one(server, client):
    server.on("POST", "x", server.reply(None, 308, {"Location": "/api/v1/x/"}))
    server.on("POST", "x/", {"a": 1})
    assert client.request("POST", "x", body={"b": 2}).object() == {"a": 1}
    assert server.seen[1].body == {"b": 2}
    server.on("POST", "x", server.reply(None, 302, {"Location": "/api/v1/x/"}))
    with pytest.raises(Redirected, match=r"/api/v1/x/, but tinkex follows such redirects only"):
        client.request("POST", "x", body={})
    assert len(server.seen) == 3


@ABOVE
def test_redirects_in_circles_end(server, client):
    server.on("GET", PATH, server.reply(None, 302, {"Location": PATH}))
    with pytest.raises(InvalidResponse, match="too many redirects, the last to"):
        client.models.list()
    server.on("GET", PATH, server.reply(None, 302))
    with pytest.raises(InvalidResponse, match="redirect without a Location header"):
        client.models.list()


@pytest.mark.parametrize(
    ("place", "base"),
    [
        (f"http://localhost:PORT/api/v1/{PATH}?limit=20", "http://localhost:PORT"),
        (f"https://127.0.0.1:PORT/a/api/v1/{PATH}", "https://127.0.0.1:PORT/a"),
        ("https://login.test/access?to=x", ""),
    ],
)
def test_a_redirect_to_another_origin_is_shown_whole_and_not_followed(place, base, server, client):
    port = server.url.rpartition(":")[2]
    location = {"Location": place.replace("PORT", port)}
    server.on("GET", PATH, server.reply(None, 307, location), CAPABILITIES)
    with pytest.raises(Redirected) as caught:
        client.models.list()
    shown = f"redirects to {location['Location']}, but tinkex does not send the API key there"
    assert shown in str(caught.value)
    assert caught.value.location == base.replace("PORT", port)
    assert len(server.seen) == 1


def test_debug_logging_tells_neither_key_nor_query_nor_body(server, client, caplog):
    server.on(
        "GET", "training_runs", server.reply({"training_runs": []}, headers={"x-request-id": "q7"})
    )
    with caplog.at_level(logging.DEBUG, "tinkex.http"):
        client.runs.list()
    lines = [r.getMessage() for r in caplog.records if r.name == "tinkex.http"]
    assert len(lines) == 1
    assert lines[0].startswith("GET training_runs -> 200 in ")
    assert lines[0].endswith("request q7")
    assert KEY not in caplog.text


# Tokens ---------------------------------------------------------------------------------------


def serve_tokens(server, token="eyJ.new"):
    server.on("POST", "client/config", {"pjwt_auth_enabled": True})
    server.on("POST", "auth/token", {"jwt": token})


def by_key(server, good, headers=None):
    refusal = server.reply({"detail": "Invalid API key"}, 401, headers or {})
    return lambda seen: server.reply(CAPABILITIES) if seen.headers["x-api-key"] == good else refusal


@ABOVE
def test_a_key_is_exchanged_once_and_an_expired_token_replaced(server, client):
    serve_tokens(server)
    server.on("GET", PATH, by_key(server, "eyJ.new"))
    client.models.list()
    client.models.list()
    assert len(server.requests("auth/token")) == 1
    serve_tokens(server, "eyJ.newer")
    expired = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    server.on("GET", PATH, by_key(server, "eyJ.newer", expired))
    client.models.list()
    assert server.seen[-1].headers["x-api-key"] == "eyJ.newer"


@ABOVE
def test_waiting_for_the_exchange_of_another_thread_has_an_end(server, client):
    asked, go = threading.Event(), threading.Event()

    def answer(_):
        asked.set()
        go.wait(60)
        return server.reply({"pjwt_auth_enabled": True})

    server.on("GET", PATH, by_key(server, "eyJ.new"))
    server.on("POST", "client/config", answer)
    server.on("POST", "auth/token", {"jwt": "eyJ.new"})
    patient = threading.Thread(target=client.models.list)
    patient.start()
    assert asked.wait(60)
    service = client._transport
    with pytest.raises(TimedOut):
        service.call(Request("GET", PATH), service.deadline("a thing", 0.4))
    go.set()
    patient.join()
    assert client.models.list()


@ABOVE
def test_a_command_is_asked_for_another_key(server, connect, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("first\n")
    server.on("GET", PATH, by_key(server, "second"))
    client = connect(server.url, api_key=None, api_key_command=f"cat {keys}")
    keys.write_text("second\n")
    assert client.models.list()
