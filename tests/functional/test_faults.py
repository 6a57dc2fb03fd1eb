"""Every command against every fault: one clear sentence, exit code 1, an empty stdout."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.faultserver import ANSWERS
from tinkex.testing import invoke

PATH = "tinker://run/weights/name"
SAMPLER = "tinker://run/sampler_weights/name"

TOKENS = str(Path(__file__).with_name("tokens.jsonl"))

COMMANDS = {
    "Checkpoint": ["checkpoint", "--base-model", "m", "--output", "OUT"],
    "Checkpoint list": ["checkpoint", "list"],
    "Checkpoint info": ["checkpoint", "info", PATH],
    "Checkpoint publish": ["checkpoint", "publish", PATH],
    "Checkpoint unpublish": ["checkpoint", "unpublish", PATH],
    "Checkpoint set-ttl": ["checkpoint", "set-ttl", PATH, "--ttl", "7d"],
    "Checkpoint delete": ["checkpoint", "delete", PATH],
    "Checkpoint prune": ["checkpoint", "prune", "--keep-last", "1", "--yes"],
    "Checkpoint copy": ["checkpoint", "copy", PATH],
    "Checkpoint download": ["checkpoint", "download", SAMPLER, "--output", "OUT"],
    "Checkpoint sync": ["checkpoint", "sync", "run", "OUT"],
    "Sampling": ["run", "--base-model", "m", "--prompt", "x"],
    "Batch": ["run", "batch", TOKENS, "--base-model", "m", "--output", "OUT"],
    "Run list": ["run", "list"],
    "Run info": ["run", "info", "run"],
    "Model list": ["model", "list"],
    "Session list": ["session", "list"],
    "Session show": ["session", "show", "s-1"],
    "Session search": ["session", "search", "name"],
    "Trace export": ["session", "export-trace", "s-1", "--output", "OUT"],
    "Billing usage": ["billing", "usage", "--since", "2d", "--by", "run", "--csv", "OUT"],
    "Billing storage": ["billing", "storage", "--csv", "OUT"],
    "API request": ["api", "GET", "training_runs"],
    "Run watch": ["run", "watch", "run"],
    "Run wait": ["run", "wait", "run", "--max-wait", "1h"],
    "Auth status": ["auth", "status"],
    "Auth whoami": ["auth", "whoami"],
}
FAULTS = [*ANSWERS, "reset", "cut", "garbage", "loop"]

#: An answer without content is success for these: some servers answer 200 or 204 with anything.
CONTENT_DOES_NOT_MATTER = {
    "Checkpoint publish",
    "Checkpoint unpublish",
    "Checkpoint set-ttl",
    "Checkpoint delete",
    "API request",  # it prints whatever comes
}
SUCCESSFUL = {name for name, (status, _, _) in ANSWERS.items() if status == 200}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Run the faulty server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("faultserver.py")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.wait()
    process.stdout.close()


def check(done, name: str, tmp_path: Path) -> None:
    """Check what every failure has in common."""
    assert done.exit_code == 1, done
    assert done.stdout == ""
    lines = done.stderr.removeprefix("Starting sampling...\n").splitlines()
    assert lines[0].startswith((f"{name} failed. ", f"{name} failed due to ")), done.stderr
    assert len(lines) == 2, done.stderr
    assert lines[1].startswith("Hint: ")
    assert "Traceback" not in done.stderr
    assert "This is a bug" not in done.stderr
    assert "tml-secret" not in done.stderr
    assert "\x1b" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (name, fault)
        for name in COMMANDS
        for fault in FAULTS
        if not (name in CONTENT_DOES_NOT_MATTER and fault in SUCCESSFUL)
    ],
)
def test_fault(server, name, fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [
        *COMMANDS[name],
        "--base-url",
        f"{server}/{fault}",
        "--api-key",
        "tml-secret-0123456789",
    ]
    began = time.monotonic()
    done = invoke([*argv, "--timeout", "2s"])
    assert time.monotonic() - began < 4.5
    check(done, name, tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_slow_server(server, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    done = invoke(
        [*COMMANDS[name], "--base-url", f"{server}/slow", "--api-key", "k", "--timeout", "1s"]
    )
    assert time.monotonic() - began < 2.5
    assert "Timed out while awaiting" in done.stderr
    assert "--timeout" in done.stderr.splitlines()[-1]
    check(done, name, tmp_path)


def test_timeout_of_sampling_has_the_sentence_of_the_guide(server):
    argv = [
        *COMMANDS["Sampling"],
        "--base-url",
        f"{server}/slow",
        "--api-key",
        "k",
        "--timeout",
        "500",
    ]
    assert invoke(argv).stderr.splitlines()[1] == (
        "Sampling failed due to server or transient error. "
        "Consider retrying: Timed out while awaiting sampling"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_nobody_listens(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    done = invoke([*COMMANDS[name], "--base-url", "http://127.0.0.1:9", "--api-key", "k"])
    assert time.monotonic() - began < 2
    assert "127.0.0.1:9" in done.stderr
    check(done, name, tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_key(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(COMMANDS[name])
    check(done, name, tmp_path)
    assert (
        done.stderr.splitlines()[0] == f"{name} failed. Please check your inputs: Missing --api-key"
    )


def test_wrong_key_is_told_with_a_hint(server):
    done = invoke(["run", "list", "--base-url", f"{server}/unauthorized", "--api-key", "k"])
    assert "Invalid API key (HTTP 401)" in done.stderr
    assert "Hint: " in done.stderr


def test_server_without_the_endpoint_says_so(server):
    done = invoke(
        ["checkpoint", "publish", PATH, "--base-url", f"{server}/nothing", "--api-key", "k"]
    )
    assert "does not offer" in done.stderr


@pytest.mark.parametrize("signal_name", ["INT", "TERM"])
def test_interrupted_while_waiting(server, tinkex, signal_name, tmp_path):
    import signal

    expected = {"INT": 130, "TERM": 143}[signal_name]
    process = subprocess.Popen(
        [tinkex.path, "checkpoint", "list", "--base-url", f"{server}/slow", "--api-key", "k"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **tinkex.environment},
    )
    time.sleep(1.5)
    process.send_signal(getattr(signal, f"SIG{signal_name}"))
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=5)
    assert time.monotonic() - began < 1
    assert (process.returncode, stdout) == (expected, "")
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    "argv", [["version"], ["help"], ["config", "show"], ["config", "show", "--json"]]
)
def test_full_disk_behind_standard_output(tinkex, argv):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [tinkex.path, *argv], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") <= 2


@pytest.mark.parametrize(
    "argv", [["version"], ["help"], ["config", "show"], ["config", "show", "--json"]]
)
def test_closed_pipe_is_quiet(tinkex, argv):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [tinkex.path, *argv], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=20
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_closed_standard_output(tinkex):
    done = subprocess.run(
        f"{tinkex.path} help >&-", shell=True, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert "standard output is closed" in done.stderr


LOCAL = [
    ["checkpoint", "list"],
    ["run", "list", "-f", "json"],
    ["run", "info", "RUN"],
    ["checkpoint", "info", "PATH"],
    ["checkpoint", "publish", "PATH"],
    ["checkpoint", "set-ttl", "PATH", "--ttl", "1d"],
    ["checkpoint", "prune", "--keep-last", "1", "--dry-run"],
    ["run", "watch", "RUN", "-f", "json"],
    ["run", "wait", "RUN", "--until", "checkpoint:?*"],
    ["run", "--base-model", "tinkex/baker-street-2M", "--prompt", "x", "--max-tokens", "2"],
    ["local", "info"],
    ["local", "model", "list"],
    ["plugin", "list"],
    ["auth", "status"],
    ["auth", "list", "-f", "json"],
    ["config", "list"],
    ["config", "set", "timeout", "60s"],
    ["profile", "list"],
    ["complete"],
]


@pytest.mark.parametrize("served", ["in-process"], indirect=True)
@pytest.mark.parametrize("sink", ["/dev/full", "closed"])
def test_every_command_with_nowhere_to_write(served, saved, sink):
    names = {"RUN": saved["model_id"], "PATH": saved["weights_path"]}
    for words in LOCAL:
        reading, writing = os.pipe()
        os.close(reading)
        if sink != "closed":
            os.close(writing)
            writing = os.open(sink, os.O_WRONLY)
        done = subprocess.run(
            [served.path, *(names.get(word, word) for word in words)],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            env={**os.environ, **served.environment},
        )
        os.close(writing)
        assert done.returncode == (141 if sink == "closed" else 1), words
        assert "Traceback" not in done.stderr
        assert ("No space left on device" in done.stderr) is (sink != "closed"), words


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_every_command_at_once(server, tinkex, name, tmp_path):
    import signal

    process = subprocess.Popen(
        [tinkex.path, *COMMANDS[name], "--base-url", f"{server}/slow", "--api-key", "k"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **tinkex.environment},
    )
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=5)
    assert time.monotonic() - began < 1
    assert (process.returncode, stdout) == (130, "")
    assert stderr.endswith(f"{name} interrupted.\n")
    assert list(tmp_path.glob("OUT*")) == []


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_standard_error_that_takes_nothing(tinkex, redirection):
    done = subprocess.run(
        f"{tinkex.path} config show {redirection}",
        shell=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("profile")


def test_unreadable_configuration_file(tinkex, config):
    config("profiles: [")
    done = tinkex("run", "list", code=1)
    assert done.stdout == ""
    assert "not valid YAML" in done.stderr


def test_locale_without_unicode(tinkex):
    done = tinkex("nö-such", code=1, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert "is not a tinkex command" in done.stderr
