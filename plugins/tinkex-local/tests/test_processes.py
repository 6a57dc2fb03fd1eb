"""Several processes on one state, and processes that are killed."""

import contextlib
import json
import os
import random
import resource
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from safetensors import safe_open

from tinkex_local.app import create_app
from tinkex_local.serve import CONNECTIONS, _connections

SAVE_FOR_EVER = """
import sys
from pathlib import Path
from tinkex_local.app import create_app
from tinkex_local.serve import CONNECTIONS, _connections
from tinkex_local.state import runs, sessions, weights
from tinkex_local.wire import bodies
service = create_app(Path(sys.argv[1])).service
session = sessions.create(service, bodies.CreateSession(tags=[], sdk_version="0"))["session_id"]
lora = bodies.LoraConfig(rank=64)
body = bodies.CreateModel(
    session_id=session, model_seq_id=0, base_model="tinkex/baker-street-2M", lora_config=lora
)
run = runs.create(service, body)["model_id"]
weights.save(service, bodies.SaveWeights(model_id=run, path="n0", overwrite=True))
print("ready", flush=True)
for number in range(10**6):
    name = f"n{number % 3}"
    weights.save(service, bodies.SaveWeights(model_id=run, path=name, overwrite=True))
"""

SAVE_SOME = """
import sys
from pathlib import Path
from tinkex_local.app import create_app
from tinkex_local.serve import CONNECTIONS, _connections
from tinkex_local.state import runs, sessions, weights
from tinkex_local.wire import bodies
app = create_app(Path(sys.argv[1]))
service = app.service
session = sessions.create(service, bodies.CreateSession(tags=[], sdk_version="0"))["session_id"]
for number in range(15):
    body = bodies.CreateModel(
        session_id=session, model_seq_id=number, base_model="tinkex/baker-street-2M",
        lora_config=bodies.LoraConfig(rank=2),
    )
    run = runs.create(service, body)["model_id"]
    weights.save(service, bodies.SaveWeights(model_id=run, path="a", seq_id=1))
app.close()
"""


def start(script, *args):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)], stdout=subprocess.PIPE, text=True
    )


def assert_whole(home, client):
    """Every listed checkpoint has its files, whole; nothing else is there."""
    listed = client.get("checkpoints").json["checkpoints"]
    with sqlite3.connect(home / "state.sqlite3") as state:
        assert state.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = dict(state.execute("SELECT id, size FROM checkpoints"))
    state.close()
    assert len(listed) == len(rows)
    found = {p.name for p in (home / "checkpoints").iterdir() if not p.name.startswith(".")}
    assert found == set(rows)
    for identifier, size in rows.items():
        directory = home / "checkpoints" / identifier
        assert sum(path.stat().st_size for path in directory.iterdir()) == size
        json.loads((directory / "adapter_config.json").read_text())
        with safe_open(directory / "adapter_model.safetensors", framework="numpy") as file:
            assert len(list(file.keys())) == 58


@pytest.mark.kills
def test_a_kill_at_any_moment_leaves_whole_checkpoints_only(tmp_path, client_of):
    home = tmp_path / "home"
    saved = 0
    for attempt in range(20):
        process = start(SAVE_FOR_EVER, home)
        assert process.stdout.readline() == "ready\n"
        time.sleep(random.Random(attempt).uniform(0, 0.15))
        process.kill()
        process.communicate(timeout=60)
        app = create_app(home)
        assert_whole(home, client_of(app))
        saved = client_of(app).get("checkpoints").json["cursor"]["total_count"]
        app.close()
    assert saved >= 20  # each process saves one before it is killed; a slow machine, no more


def test_two_processes_may_begin_and_save_at_once(tmp_path, client_of):
    home = tmp_path / "home"
    processes = [start(SAVE_SOME, home) for _ in range(3)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    app = create_app(home)
    client = client_of(app)
    assert client.get("checkpoints").json["cursor"]["total_count"] == 45
    assert client.get("training_runs").json["cursor"]["total_count"] == 45
    assert_whole(home, client)
    app.close()


# The server


@pytest.fixture
def serve(tmp_path):
    """Start ``tinkex local serve``; return the process and its URL."""
    running = []

    def run(*args):
        environ = {
            **{name: value for name, value in os.environ.items() if "TINK" not in name},
            "TINKEX_LOCAL_HOME": str(tmp_path / "home"),
            "HOME": str(tmp_path),
            "PYTHONUNBUFFERED": "",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tinkex", "local", "serve", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def call(url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_the_server_prints_its_url_and_ends_cleanly_on_sigterm(serve):
    process = serve()
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    assert call(f"{url}/api/v1/healthz") == (200, {"status": "ok"})
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "GET /api/v1/healthz 200" in err
    assert "Traceback" not in err


def test_a_signal_at_any_moment_from_the_url_on_ends_it_cleanly(serve):
    for pause in (0, 0, 0, 0.001, 0.002, 0.005):
        process = serve()
        assert process.stdout.readline().startswith("http://")
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in err) == (0, False), err


def test_ctrl_c_ends_the_server_with_130_even_during_a_long_poll(serve):
    process = serve()
    address = process.stdout.readline().strip()
    url, port = f"{address}/api/v1", int(address.rpartition(":")[2])
    session = call(f"{url}/create_session", {"tags": [], "sdk_version": "0"})[1]["session_id"]
    body = {
        "base_model": "tinkex/baker-street-2M",
        "num_samples": 500,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [500]}]},
        "sampling_params": {"max_tokens": 1000},
    }
    request = call(f"{url}/asample", body)[1]["request_id"]
    text = json.dumps({"request_id": request})
    with socket.create_connection(("127.0.0.1", port), timeout=60) as polling:
        polling.sendall(
            b"POST /api/v1/retrieve_future HTTP/1.0\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(text), text.encode())
        )
        # A long computation does not keep others waiting.
        assert call(f"{url}/session_heartbeat", {"session_id": session})[0] == 200
        assert not select.select([polling], [], [], 0)[0]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        answer = polling.makefile("rb").read()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "try_again"


def test_clients_that_never_finish_their_requests_keep_nobody_out(serve):
    url = serve().stdout.readline().strip()
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            slow = stack.enter_context(socket.create_connection(address))
            slow.sendall(b"GET /api/v1/healthz HTTP/1.1\r\nX-Slow: ")
        assert call(f"{url}/api/v1/healthz") == (200, {"status": "ok"})


def test_connections_leave_files_for_the_state(monkeypatch):
    limits = {"now": (256, 10_000)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.update(now=new))
    assert _connections() == CONNECTIONS  # the system gives more when asked
    assert limits["now"] == (2 * CONNECTIONS, 10_000)
    limits["now"] = (64, 200)
    assert _connections() == 100
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert _connections() == CONNECTIONS


def test_the_server_wants_the_key_it_was_given(serve):
    process = serve("--api-key", "tml-right")
    url = process.stdout.readline().strip() + "/api/v1/checkpoints"
    assert call(url)[0] == 401
    assert call(url, **{"X-API-Key": "tml-right"})[0] == 200


def test_other_machines_are_let_in_only_with_a_key(serve):
    process = serve("--host", "0.0.0.0")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "--api-key" in err


def test_a_port_in_use_is_told_in_one_sentence(serve):
    url = serve().stdout.readline().strip()
    out, err = serve("--port", url.rpartition(":")[2]).communicate(timeout=60)
    assert out == ""
    assert "cannot listen on 127.0.0.1:" in err
    _sentence, hint = err.splitlines()
    assert hint == "Hint: Choose another --port; 0 is any that is free."


def test_server_and_embedded_service_share_their_state(serve, tmp_path, client_of):
    url = serve().stdout.readline().strip() + "/api/v1"
    app = create_app(tmp_path / "home")
    path = client_of(app).saved(client_of(app).model())
    listed = call(f"{url}/checkpoints")[1]["checkpoints"]
    assert [item["tinker_path"] for item in listed] == [path]
    app.close()
