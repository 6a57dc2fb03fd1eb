"""What tinkex finds through entry points: the pool and the tokenizers."""

import json
import subprocess
import sys

import pytest

from tinkex.exceptions import Unreachable
from tinkex.plugins import HttpRequest, Timeouts
from tinkex.testing import invoke, local_service
from tinkex_local.state.models import DEFAULT_MODEL, Registry
from tinkex_local.tokenizers import LocalSource
from tinkex_local.wire.wsgi import BASE_URL, WsgiSender

API = f"{BASE_URL}/api/v1"


@pytest.fixture
def send(app):
    """Return a function that sends a request to the service of this process."""

    def send(method, url, body=None, read=60.0):
        body = None if body is None else json.dumps(body).encode()
        request = HttpRequest(method, url, {}, body)
        return WsgiSender(app).send(request, Timeouts(connect=5.0, read=read))

    return send


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "https://local.tinkex.invalid/x", f"{BASE_URL}.evil/x"]
)
def test_nothing_leaves_the_process(send, url):
    with pytest.raises(Unreachable, match="not served"):
        send("GET", url)


def test_an_address_that_the_pool_does_not_reach_is_refused(tmp_path):
    with local_service(tmp_path):
        done = invoke(["run", "list", "--base-url", "http://127.0.0.1:9"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "only supports the local service, not http://127.0.0.1:9" in done.stderr
    assert "--http-pool default" in done.stderr


def test_a_short_timeout_shortens_the_poll(send, client, sampling_body, monkeypatch):
    monkeypatch.setattr("tinkex_local.engines.runner.POLL_SECONDS", 10_000.0)
    body = sampling_body(client.sampler(), params={"max_tokens": 900}, num_samples=50)
    request = client.post("asample", body).json["request_id"]
    response = send("POST", f"{API}/retrieve_future", {"request_id": request}, read=0.5)
    assert json.loads(b"".join(response.chunks(1000)))["type"] == "try_again"


@pytest.mark.parametrize(
    ("load", "heavy"),
    [
        ("import tinkex_local.pool, tinkex_local.commands", "bottle msgspec sqlite3 waitress"),
        ("import tinkex; tinkex.run(['--profile', 'local', 'checkpoint', 'list'])", "urllib3"),
    ],
)
def test_only_what_is_needed_is_loaded(tmp_path, load, heavy):
    heavy = {*heavy.split(), "numpy", "onnxruntime_genai", "tokenizers", "safetensors", "requests"}
    environ = {"PATH": "", "HOME": str(tmp_path), "TINKEX_LOCAL_HOME": str(tmp_path / "home")}
    script = f"{load}; import sys; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environ, check=True
    )
    assert done.stdout == b"set()\n"


def test_tokenizers_of_our_models_are_found_and_no_others(home, opened, monkeypatch):
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(home))
    source = LocalSource()
    directory = source.find(DEFAULT_MODEL, network=False)
    assert (directory / "tokenizer.json").is_file()
    assert source.find("Qwen/Qwen3-8B", network=True) is None
    assert not home.exists()
    Registry(opened().app.service.store).add("me/copy", directory, 0.0, lambda model: None)
    assert source.find("me/copy", network=False) == directory
    assert source.find("Qwen/Qwen3-8B", network=True) is None
