"""What tinkex finds through entry points: the pool and the tokenizers."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from tinkex.exceptions import LocalError, Unreachable
from tinkex.plugins import HttpRequest, Timeouts
from tinkex.settings import Settings
from tinkex.testing import invoke, local_service
from tinkex_local.pool import BASE_URL, LocalPool
from tinkex_local.state.models import DEFAULT_MODEL, Registry
from tinkex_local.state.store import FILE, Store
from tinkex_local.tokenizers import LocalSource
from tinkex_local.wire.wsgi import WsgiSender

API = f"{BASE_URL}/api/v1"
HEALTH = HttpRequest("GET", f"{API}/healthz", {})
TIMEOUTS = Timeouts(connect=5.0, read=60.0)


@pytest.fixture
def send(app):
    """Return a function that sends a request to the service of this process."""
    sender = WsgiSender(app)

    def send(method, url, body=None, headers=None, timeouts=TIMEOUTS):
        body = None if body is None else json.dumps(body).encode()
        return sender.send(HttpRequest(method, url, headers or {}, body), timeouts)

    return send


def content(response):
    return b"".join(response.chunks(1000))


def test_requests_reach_the_service_and_bodies_stream(send, client):
    assert json.loads(content(send("GET", f"{API}/healthz"))) == {"status": "ok"}
    run = client.model()
    client.saved(run)
    url = f"{API}/training_runs/{run}/checkpoints/sampler_weights/a/archive"
    redirect = send("GET", url)
    assert redirect.status == 302
    archive = send("GET", redirect.headers["location"])
    pieces = list(archive.chunks(1000))
    assert sum(map(len, pieces)) == int(archive.headers["content-length"])
    assert len(pieces) > 10
    assert max(map(len, pieces)) <= 1000
    unread = send("GET", redirect.headers["location"])
    next(unread.chunks(10))
    unread.close()
    unread.close()


def test_paths_and_headers_arrive_as_sent(send):
    response = send("GET", f"{API}/sessions/%C3%BC%2F..?limit=1")
    assert response.status == 404
    assert response.headers["x-request-id"]
    body, kind = {"tags": 1}, {"Content-Type": "application/json"}
    assert send("POST", f"{API}/create_session", body, kind).status == 422
    head = send("HEAD", f"{API}/healthz")
    assert (head.status, content(head)) == (200, b"")


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "https://local.tinkex.invalid/x", f"{BASE_URL}.evil/x"]
)
def test_nothing_leaves_the_process(send, url):
    with pytest.raises(Unreachable, match="not served"):
        send("GET", url)


def test_an_address_that_the_pool_does_not_reach_is_refused(tmp_path):
    with local_service(tmp_path):
        done = invoke(["run", "list", "--base-url", "http://127.0.0.1:9"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "reaches the embedded service only, not http://127.0.0.1:9" in done.stderr
    assert "--http-pool default" in done.stderr


def test_a_short_timeout_shortens_the_poll(send, client, sampling_body, monkeypatch):
    monkeypatch.setattr("tinkex_local.engines.runner.POLL_SECONDS", 10_000.0)
    body = sampling_body(client.sampler(), params={"max_tokens": 900}, num_samples=50)
    request = client.post("asample", body).json["request_id"]
    timeouts = Timeouts(connect=5.0, read=0.5)
    response = send("POST", f"{API}/retrieve_future", {"request_id": request}, timeouts=timeouts)
    assert json.loads(content(response))["type"] == "try_again"


def test_an_unusable_home_is_told_as_an_error_of_tinkex(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "file"))
    with pytest.raises(LocalError, match=r"cannot use .*/file: it is not a directory"):
        LocalPool().build(Settings(base_url=BASE_URL)).send(HEALTH, TIMEOUTS)


def test_a_damaged_state_is_told_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / FILE).write_text("this is no database, by far" * 100)
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "home"))
    with pytest.raises(LocalError) as caught:
        LocalPool().build(Settings(base_url=BASE_URL)).send(HEALTH, TIMEOUTS)
    assert "local reset" in caught.value.hint


def test_a_state_of_a_newer_version_is_left_alone(tmp_path, monkeypatch):
    store = Store(tmp_path / FILE)
    store.write("PRAGMA user_version = 99")
    store.close()
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path))
    with pytest.raises(LocalError, match="newer version"):
        LocalPool().build(Settings(base_url=BASE_URL)).send(HEALTH, TIMEOUTS)


def test_the_entry_points_are_ours():
    def ours(group):
        return {entry.name: entry.load() for entry in entry_points(group=group, name="local")}

    assert ours("tinkex.http_pools") == {"local": LocalPool}
    assert ours("tinkex.tokenizers") == {"local": LocalSource}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("tinkex_local.pool", {"bottle", "numpy", "msgspec", "sqlite3", "waitress", "requests"}),
        (
            "tinkex_local.wire.wsgi",
            {"bottle", "numpy", "msgspec", "sqlite3", "waitress", "requests"},
        ),
        ("tinkex_local.commands", {"bottle", "numpy", "msgspec", "requests", "sqlite3"}),
        ("tinkex_local.app", {"numpy", "onnxruntime_genai", "tokenizers", "safetensors"}),
    ],
)
def test_importing_a_module_loads_only_what_it_needs(module, heavy):
    script = f"import {module}, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert heavy.isdisjoint(json.loads(done.stdout))


def test_listing_checkpoints_does_not_load_the_engine(tmp_path):
    script = (
        "import sys, tinkex; tinkex.run(['--profile', 'local', 'checkpoint', 'list']);"
        "heavy = ('numpy', 'onnxruntime_genai', 'tokenizers', 'requests', 'urllib3');"
        "print([m for m in heavy if m in sys.modules])"
    )
    environ = {"PATH": "", "HOME": str(tmp_path), "TINKEX_LOCAL_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environ, check=True
    )
    assert done.stdout == b"[]\n"


def test_tokenizers_of_our_models_are_found_and_no_others(home, client, monkeypatch):
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(home))
    source = LocalSource()
    directory = source.find(DEFAULT_MODEL, network=False)
    assert (directory / "tokenizer.json").is_file()
    assert source.find("Qwen/Qwen3-8B", network=True) is None
    Registry(client.app.service.store).add("me/copy", directory, 0.0)
    assert source.find("me/copy", network=False) == directory


def test_tokenizers_are_found_without_any_state(tmp_path, monkeypatch):
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "none"))
    assert LocalSource().find(DEFAULT_MODEL, network=False) is not None
    assert LocalSource().find("x", network=False) is None
    assert not (tmp_path / "none").exists()
