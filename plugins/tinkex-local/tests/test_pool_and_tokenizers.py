"""What tinkex finds through entry points: the pool and the tokenizers."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import requests

from tinkex.exceptions import LocalError
from tinkex.settings import Settings
from tinkex.testing import invoke, local_service
from tinkex_local.pool import BASE_URL, LocalPool
from tinkex_local.state.models import DEFAULT_MODEL, Registry
from tinkex_local.state.store import FILE, Store
from tinkex_local.tokenizers import LocalSource
from tinkex_local.wire.wsgi import WsgiAdapter


@pytest.fixture
def session(app):
    with requests.Session() as session:
        session.mount("http://", WsgiAdapter(app))
        session.mount("https://", WsgiAdapter(app))
        yield session


def test_requests_reach_the_service_and_bodies_stream(session, client):
    assert session.get(f"{BASE_URL}/api/v1/healthz").json() == {"status": "ok"}
    run = client.model()
    client.saved(run)
    url = f"{BASE_URL}/api/v1/training_runs/{run}/checkpoints/sampler_weights/a/archive"
    answer = session.get(url, stream=True)
    assert [item.status_code for item in answer.history] == [302]
    pieces = list(answer.iter_content(1000))
    assert sum(map(len, pieces)) == int(answer.headers["Content-Length"])
    assert len(pieces) > 10
    with session.get(url, stream=True) as unread:
        next(unread.iter_content(10))


def test_paths_and_headers_arrive_as_sent(session):
    answer = session.get(f"{BASE_URL}/api/v1/sessions/%C3%BC%2F..?limit=1")
    assert answer.status_code == 404
    assert answer.headers["x-request-id"]
    answer = session.post(f"{BASE_URL}/api/v1/create_session", json={"tags": 1})
    assert answer.status_code == 422
    head = session.head(f"{BASE_URL}/api/v1/healthz")
    assert (head.status_code, head.content) == (200, b"")


def test_nothing_leaves_the_process(session):
    for url in ("http://example.org/x", "https://local.tinkex.invalid/x", f"{BASE_URL}.evil/x"):
        with pytest.raises(requests.ConnectionError, match="not served"):
            session.get(url)


def test_an_address_that_the_pool_does_not_reach_is_refused(tmp_path):
    with local_service(tmp_path):
        done = invoke(["run", "list", "--base-url", "http://127.0.0.1:9"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "reaches the embedded service only, not http://127.0.0.1:9" in done.stderr
    assert "--http-pool default" in done.stderr


def test_a_short_timeout_shortens_the_poll(session, client, sampling_body, monkeypatch):
    monkeypatch.setattr("tinkex_local.engines.runner.POLL_SECONDS", 10_000.0)
    body = sampling_body(client.sampler(), params={"max_tokens": 900}, num_samples=50)
    request = client.post("asample", body).json["request_id"]
    url = f"{BASE_URL}/api/v1/retrieve_future"
    told = session.post(url, json={"request_id": request}, timeout=(5, 0.5)).json()
    assert told["type"] == "try_again"


def test_an_unusable_home_is_told_as_an_error_of_tinkex(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "file"))
    adapter = LocalPool().build(Settings(base_url=BASE_URL), size=4)
    request = requests.Request("GET", f"{BASE_URL}/api/v1/healthz").prepare()
    with pytest.raises(LocalError, match=r"cannot use .*/file: it is not a directory"):
        adapter.send(request)


def test_a_damaged_state_is_told_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / FILE).write_text("this is no database, by far" * 100)
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "home"))
    request = requests.Request("GET", f"{BASE_URL}/api/v1/healthz").prepare()
    with pytest.raises(LocalError) as caught:
        LocalPool().build(Settings(base_url=BASE_URL), size=4).send(request)
    assert "local reset" in caught.value.hint


def test_a_state_of_a_newer_version_is_left_alone(tmp_path, monkeypatch):
    store = Store(tmp_path / FILE)
    store.write("PRAGMA user_version = 99")
    store.close()
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path))
    request = requests.Request("GET", f"{BASE_URL}/api/v1/healthz").prepare()
    with pytest.raises(LocalError, match="newer version"):
        LocalPool().build(Settings(base_url=BASE_URL), size=4).send(request)


def test_the_entry_points_are_ours():
    def ours(group):
        return {entry.name: entry.load() for entry in entry_points(group=group, name="local")}

    assert ours("tinkex.http_pools") == {"local": LocalPool}
    assert ours("tinkex.tokenizers") == {"local": LocalSource}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("tinkex_local.pool", {"bottle", "numpy", "msgspec", "sqlite3", "waitress", "requests"}),
        ("tinkex_local.wire.wsgi", {"bottle", "numpy", "msgspec", "sqlite3", "waitress"}),
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
        "print([m for m in ('numpy', 'onnxruntime_genai', 'tokenizers') if m in sys.modules])"
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
