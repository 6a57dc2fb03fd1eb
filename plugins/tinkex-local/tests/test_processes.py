"""Several processes on one state, processes that are killed, and the server as a process."""

import contextlib
import json
import os
import random
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.bigram import BigramEngine, loss_body

#: Saves one run again and again, under three names.
SAVE = """
import sys
from pathlib import Path
from tinkex_local.app import create_app
from tinkex_local.state import runs, sessions, weights
from tinkex_local.wire import bodies
app = create_app(Path(sys.argv[1]))
session = sessions.create(app.service, bodies.CreateSession(tags=[], sdk_version="0"))["session_id"]
body = bodies.CreateModel(
    session_id=session, model_seq_id=0, base_model="tinkex/baker-street-2M",
    lora_config=bodies.LoraConfig(rank=int(sys.argv[2])),
)
run = runs.create(app.service, body)["model_id"]
for number in range(int(sys.argv[3])):
    body = bodies.SaveWeights(model_id=run, path=f"n{number % 3}", overwrite=True)
    weights.save(app.service, body)
    if number == 0:
        print("saved", flush=True)
app.close()
"""


def saving(*args):
    return subprocess.Popen(
        [sys.executable, "-c", SAVE, *map(str, args)], stdout=subprocess.PIPE, text=True
    )


def assert_whole(home, client):
    """Check that every listed checkpoint has its files, whole, and that there are no others."""
    with contextlib.closing(sqlite3.connect(home / "state.sqlite3")) as state:
        assert state.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = dict(state.execute("SELECT id, size FROM checkpoints"))
    assert len(client.checkpoints()) == len(rows)
    found = {p.name for p in (home / "checkpoints").iterdir() if not p.name.startswith(".")}
    assert found == set(rows)
    for identifier, size in rows.items():
        directory = home / "checkpoints" / identifier
        assert sum(path.stat().st_size for path in directory.iterdir()) == size
        json.loads((directory / "adapter_config.json").read_text())
        with safe_open(directory / "adapter_model.safetensors", framework="numpy") as file:
            assert len(list(file.keys())) == 58


@pytest.mark.kills
def test_a_kill_at_any_moment_leaves_whole_checkpoints_only(home, opened):
    for attempt in range(20):
        process = saving(home, 64, 10**6)
        assert process.stdout.readline() == "saved\n"
        time.sleep(random.Random(attempt).uniform(0, 0.15))
        process.kill()
        process.communicate(timeout=60)
        client = opened()
        assert_whole(home, client)
        client.app.close()
    assert client.get("checkpoints").json["cursor"]["total_count"] >= 20  # one each at least


#: Trains one run and saves it again and again; prints the losses, and the paths of checkpoints.
TRAIN = """
import sys
from pathlib import Path
from tests.bigram import BigramEngine, loss_body
from tinkex_local.app import create_app
from conftest import Client
client = Client(create_app(Path(sys.argv[1]), engines=[BigramEngine()]))
run = client.model()
print(run, flush=True)
for seq in range(1, 10**6, 3):
    client.result("forward_backward", loss_body(run, seq))
    client.result("optim_step", {"model_id": run, "seq_id": seq + 1, "adam_params": {}})
    print(client.saved(run, "weights", f"n{seq}", seq_id=seq + 2), flush=True)
"""


@pytest.mark.kills
def test_a_kill_while_training_leaves_the_last_checkpoint_and_an_honest_error(home, opened):
    here = Path(__file__).parent  # with our conftest
    for attempt in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(home)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=here,
            env=os.environ | {"PYTHONPATH": str(here.parents[2])},
        )
        run, first = process.stdout.readline().strip(), process.stdout.readline().strip()
        assert first.startswith("tinker://")
        time.sleep(random.Random(attempt).uniform(0, 0.1))
        process.kill()
        paths = [first, *process.communicate(timeout=60)[0].split()]
        client = opened(engines=[BigramEngine()])
        body = loss_body(run, 10**6)
        refused = client.post("forward_backward", body)
        listed = {entry["tinker_path"] for entry in client.checkpoints()}
        last = client.get(f"training_runs/{run}").json["last_checkpoint"]["tinker_path"]
        assert {path for path in paths if path.count("/") == 4} <= listed
        assert refused.status == 400
        assert f"the last checkpoint is {last}" in refused.json["detail"]
        load = {"path": last, "optimizer": True, "session_id": client.session(), "model_seq_id": 0}
        loaded = client.result("load_weights", load)["model_id"]
        assert client.result("forward_backward", loss_body(loaded, 1))["metrics"]
        client.app.close()


def test_processes_may_begin_and_save_at_once(home, opened):
    processes = [saving(home, 2, 15) for _ in range(3)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    client = opened()
    assert len(client.checkpoints()) == 9
    assert client.get("training_runs").json["cursor"]["total_count"] == 3
    assert_whole(home, client)


# The server


@pytest.fixture
def serve(tmp_path):
    """Start ``tinkex local serve``; return the process and its URL."""
    running = []

    def run(*args):
        environ = {name: value for name, value in os.environ.items() if "TINK" not in name}
        environ |= {"TINKEX_LOCAL_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-m", "tinkex", "local", "serve", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ | {"PYTHONUNBUFFERED": ""},
        )
        running.append(process)
        return process, process.stdout.readline().strip()

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def call(url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_the_server_needs_its_key_and_ends_cleanly_on_sigterm(serve):
    process, url = serve("--api-key", "tml-right")
    assert url.startswith("http://127.0.0.1:")
    assert call(f"{url}/api/v1/healthz") == (200, {"status": "ok"})
    assert call(f"{url}/api/v1/checkpoints")[0] == 401
    assert call(f"{url}/api/v1/checkpoints", **{"X-API-Key": "tml-right"})[0] == 200
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "GET /api/v1/healthz 200" in err
    assert "Traceback" not in err


def test_a_signal_right_after_the_url_ends_it_cleanly(serve):
    for _ in range(3):
        process, url = serve()
        assert url
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in err) == (0, False), err


def test_ctrl_c_ends_the_server_with_130_even_during_a_long_poll(serve):
    process, address = serve()
    url, port = f"{address}/api/v1", int(address.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        for _ in range(150):  # clients that never finish their requests keep no one out
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(b"GET /api/v1/healthz HTTP/1.1\r\nX-Slow: ")
        session = call(f"{url}/create_session", {"tags": [], "sdk_version": "0"})[1]["session_id"]
    body = {
        "base_model": "tinkex/baker-street-2M",
        "num_samples": 500,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [500]}]},
        "sampling_params": {"max_tokens": 1000},
    }
    text = json.dumps({"request_id": call(f"{url}/asample", body)[1]["request_id"]})
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
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "try_again"
