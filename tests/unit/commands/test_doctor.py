"""doctor: each fault is found, reported with what to type, and hides no other."""

from __future__ import annotations

import json
import os
import time
from email.utils import formatdate

import pytest

from tests.unit.api.conftest import NEVER, Server
from tinkex.api.http.probe import CheckResult
from tinkex.commands import doctor
from tinkex.exceptions import SettingsError
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
    return {finding.check: finding for finding in doctor.run_checks(settings, 5)}


def test_a_healthy_service(server):
    server.on("GET", "billing/usage/checkpoints/current", server.reply({"detail": "no"}, 403))
    server.on("GET", "audit", server.reply("oops", 500))
    found = examined(server)
    assert {f.check for f in found.values() if f.status == "fail"} == set()
    assert found["access"].detail == "the key is accepted"
    assert found["clock"].status == "ok"
    assert found["GET training_runs"].status == "ok"
    assert found["GET sessions"].status == "absent"
    assert "not for this key" in found["GET billing/usage/checkpoints/current"].detail
    assert found["GET audit"].status == "warning"


def test_nothing_is_created_or_changed(server):
    examined(server)
    changing = {(s.method, s.path) for s in server.seen if s.method != "GET"}
    assert changing == {("POST", "client/config"), ("POST", "sessions/search")}


def test_the_sign_of_life_is_asked_for_without_the_key(server):
    examined(server)
    assert all("x-api-key" not in seen.headers for seen in server.requests("healthz")[:3]) or any(
        "x-api-key" not in seen.headers for seen in server.requests("healthz")
    )


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (({"detail": "Invalid API key"}, 401), "fail", "Invalid API key"),
        (({"detail": "Billing"}, 402), "fail", "Billing"),
        (("<html>", 200), "fail", "JSON"),
        ((None, 500), "fail", "HTTP 500"),
    ],
)
def test_a_key_that_is_not_accepted(server, reply, status, words):
    server.on("GET", "training_runs", server.reply(*reply))
    found = examined(server)["access"]
    assert (found.status, words in found.detail) == (status, True)


@pytest.mark.parametrize(("seconds", "status"), [(0, "ok"), (100, "warning"), (-4000, "fail")])
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
            "raw": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
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


def test_nobody_answers_offline_and_without_a_key():
    done = invoke(["doctor", "-f", "json", "--base-url", "http://127.0.0.1:9", "--timeout", "3s"])
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert rows["key"]["status"] == "fail"
    assert "TINKER_API_KEY" in rows["key"]["hint"]
    assert "127.0.0.1:9" in rows["service"]["detail"]
    assert rows["endpoints"]["status"] == "skipped"
    assert rows["tokenizer"]["status"] == "ok"
    assert set(rows["key"]) == {"check", "status", "detail", "hint"}


def test_a_check_that_does_not_end_costs_only_itself(server):
    server.on("GET", "training_runs", server.reply({}, delay=NEVER))
    settings = Settings(base_url=server.url, api_key=CANARY)
    found = {finding.check: finding for finding in doctor.run_checks(settings, 1)}
    assert found["access"].status == "fail"
    assert found["service"].status == "ok"


def test_a_check_that_is_broken_costs_only_itself(monkeypatch, server):
    def broken():
        raise ZeroDivisionError("x")

    monkeypatch.setattr(doctor, "_disk", broken)
    found = examined(server)
    assert found["disk"].status == "fail"
    assert found["service"].status == "ok"


def test_settings_that_cannot_be_read():
    found = doctor.run_checks(SettingsError("bad file", hint="Mend it."), 2)
    by_name = {finding.check: finding for finding in found}
    assert by_name["settings"] == CheckResult("settings", "fail", "bad file", "Mend it.")
    assert {by_name[name].status for name in NETWORK} == {"skipped"}
    assert by_name["tokenizer"].status == "ok"


def test_the_command_tells_of_settings_that_cannot_be_read(config):
    config("profiles: [")
    done = invoke(["doctor", "--timeout", "2s"])
    assert done.exit_code == 1
    assert done.stdout.startswith("settings\tfail\t")


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
    settings = Settings(api_key=key, origins={"api_key": "unknown"})
    found = doctor._key(settings)
    assert (found.status, words in found.detail) == (status, True)
    assert key not in found.detail


def test_proxies(monkeypatch, server):
    from tinkex.api.http.probe import Prober

    settings = Settings(base_url="https://service.test", api_key=CANARY)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.test:8080")
    (found,) = Prober(settings, 1).proxy()
    assert (found.status, "proxy.test:8080" in found.detail) == ("ok", True)
    assert "secret" not in found.detail
    assert Prober(settings, 1).dns()[0].status == "skipped"
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:nonsense")
    assert Prober(settings, 1).proxy()[0].status == "fail"


def test_tls_with_a_certificate_that_nobody_signed(server):
    from tinkex.api.http.probe import Prober

    settings = Settings(base_url=server.url.replace("http:", "https:"), api_key=CANARY)
    (found,) = Prober(settings, 2).tls()  # the server speaks no TLS at all
    assert found.status == "fail"
    assert "Traceback" not in found.detail


def test_a_directory_that_nobody_may_write_to(tmp_path):
    tmp_path.chmod(0o555)
    found = doctor._space("disk", tmp_path / "x")
    tmp_path.chmod(0o755)
    assert found.status == ("ok" if os.geteuid() == 0 else "warning")
