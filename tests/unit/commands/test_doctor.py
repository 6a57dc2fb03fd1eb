"""doctor: each fault is found, reported with what to type, and hides no other."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate

import pytest

from tests.unit.api.conftest import Server
from tinkex.api.http.probe import CheckResult, Prober
from tinkex.commands import doctor
from tinkex.settings import Settings
from tinkex.testing import invoke

CANARY = "tml-canary-0123456789abcdef"
NETWORK = {"proxy", "dns", "tls", "service", "access", "endpoints"}


@pytest.fixture
def server():
    server = Server()
    server.on("GET", "healthz", {"status": "ok"})
    server.on("GET", "training_runs", {"training_runs": []})
    yield server
    server.close()


def examined(server, **more) -> dict[str, CheckResult]:
    settings = Settings(base_url=server.url, api_key=CANARY, **more)
    return {finding.check: finding for finding in doctor.run_checks(settings, 60)}


def test_a_healthy_service(server):
    server.on("GET", "billing/usage/checkpoints/current", server.reply({"detail": "no"}, 403))
    server.on("GET", "audit", server.reply("oops", 500))
    found = examined(server)
    assert {f.check for f in found.values() if f.status == "fail"} == set()
    assert found["access"].detail == "the key is accepted"
    assert found["clock"].status == "ok"
    assert found["GET training_runs"].status == "ok"
    assert found["GET sessions"].status == "absent"
    assert "not allowed for this key" in found["GET billing/usage/checkpoints/current"].detail
    assert found["GET audit"].status == "warning"
    changing = {(s.method, s.path) for s in server.seen if s.method != "GET"}
    assert changing == {("POST", "client/config"), ("POST", "sessions/search")}
    assert any("x-api-key" not in seen.headers for seen in server.requests("healthz"))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (({"detail": "Invalid API key"}, 401), "Invalid API key"),
        (({"detail": "Billing"}, 402), "Billing"),
        (("<html>", 200), "JSON"),
        ((None, 500), "HTTP 500"),
    ],
)
def test_a_key_that_is_not_accepted(server, reply, words):
    server.on("GET", "training_runs", server.reply(*reply))
    found = examined(server)["access"]
    assert found.status == "fail"
    assert words in found.detail


@pytest.mark.parametrize(
    ("keyless", "status", "detail"),
    [
        (401, "ok", "the key is accepted"),
        (200, "skipped", "unknown: this server has no endpoint for checking a key"),
    ],
)
def test_a_missing_list_is_no_refused_key(server, keyless, status, detail):
    def capabilities(seen):
        return server.reply({}, 200 if "x-api-key" in seen.headers else keyless)

    server.on("GET", "training_runs", server.reply({"detail": "Not Found"}, 404))
    server.on("GET", "get_server_capabilities", capabilities)
    found = examined(server)["access"]
    assert (found.status, found.detail.startswith(detail)) == (status, True)


@pytest.mark.parametrize(("seconds", "status"), [(0, "ok"), (100, "ok"), (-4000, "fail")])
def test_clocks_that_differ(server, seconds, status):
    date = formatdate(time.time() + seconds, usegmt=True)
    ok = b'{"status": "ok"}'
    raw = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\nDate: %s\r\n\r\n%s"
    server.on("GET", "healthz", server.reply(raw=raw % (len(ok), date.encode(), ok)))
    found = examined(server)["clock"]
    assert found.status == status
    assert (found.hint is not None) == (status != "ok")


@pytest.mark.parametrize(
    "reply",
    [
        {
            "raw": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        },
        {"body": {"detail": "Not Found"}, "status": 404},
        {"status": 503},
        {"reset": True},
        {"raw": b"nonsense\r\n\r\n"},
        {"status": 302, "headers": {"Location": "https://elsewhere.test/"}},
    ],
)
def test_something_else_answers(server, reply):
    server.on("GET", "healthz", server.reply(**reply))
    found = examined(server)
    assert found["service"].status == "fail"
    assert found["service"].hint
    assert found["access"].status == "ok"  # one fault hides no other


def test_an_unreachable_server_without_a_key():
    done = invoke(["doctor", "-f", "json", "--base-url", "http://127.0.0.1:9", "--timeout", "60s"])
    rows = {row["check"]: row for row in done.rows}
    assert done.exit_code == 1
    assert rows["key"]["status"] == "fail"
    assert "TINKER_API_KEY" in rows["key"]["hint"]
    assert "127.0.0.1:9" in rows["service"]["detail"]
    assert rows["endpoints"]["status"] == "skipped"
    assert rows["tokenizer"]["status"] == "ok"


def test_a_check_that_does_not_end_or_is_broken_costs_only_itself(monkeypatch, server):
    (late,) = doctor._run("x", threading.Event().wait, 0.01)  # type: ignore[arg-type]
    assert (late.status, late.detail) == ("fail", "no result within 0.01 s")
    monkeypatch.setattr(doctor, "_disk", lambda: 1 / 0)
    found = examined(server)
    assert found["disk"].status == "fail"
    assert found["service"].status == "ok"


def test_settings_that_cannot_be_read(config, monkeypatch):
    monkeypatch.setattr(doctor, "_TIMEOUT", 60)
    config("profiles: [")
    done = invoke(["doctor", "-f", "json"])
    rows = {row["check"]: row for row in done.rows}
    assert done.exit_code == 1
    assert rows["settings"]["status"] == "fail"
    assert "is not valid YAML" in rows["settings"]["detail"]
    assert {rows[name]["status"] for name in NETWORK} == {"skipped"}
    assert rows["tokenizer"]["status"] == "ok"


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        (CANARY, "ok", "from unknown"),
        ("sk-0123456789abcdef0", "warning", "characters"),
        ("eyJhIjoxfQ.eyJleHAiOjF9.x", "fail", "expired"),
        ("eyJhIjoxfQ.nonsense.x", "ok", "characters"),
        ("a b", "fail", "space"),
    ],
)
def test_the_form_of_a_key(key, status, words):
    found = doctor._key(Settings(api_key=key, origins={"api_key": "unknown"}))
    assert found.status == status
    assert words in found.detail
    assert key not in found.detail


def test_proxies(monkeypatch):
    prober = Prober(Settings(base_url="https://service.test", api_key=CANARY), 60)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.test:8080")
    (found,) = prober.proxy()
    assert found.status == "ok"
    assert "proxy.test:8080" in found.detail
    assert "secret" not in found.detail
    assert prober.dns()[0].status == "skipped"
