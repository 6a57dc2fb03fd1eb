"""Commands without a key, interrupted, or with nowhere to write.

What becomes of the faults of a server is in tests/faults.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.test_matrix import assert_told, filled
from tests.functional.conftest import Program
from tinkex.testing import invoke

#: The others have their own way: doctor tells of a missing key, auth login asks for one.
NEED_A_KEY = [name for name, talk in COMMANDS.items() if not talk.findings and name != "auth login"]


@dataclass(frozen=True)
class Server:
    """The URL of a running :mod:`tests.faults.server`."""

    url: str

    def requests(self) -> int:
        """Return how many requests it has had, this question left out."""
        with urllib.request.urlopen(f"{self.url}/seen") as response:
            return sum(headers["path"] != "/seen" for headers in json.load(response))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Run the faulty server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.server"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert process.stdout is not None
    yield Server(f"http://127.0.0.1:{json.loads(process.stdout.readline())['http']}")
    process.kill()
    process.wait()
    process.stdout.close()


def words_of(name: str) -> list[str]:
    return filled(COMMANDS[name].words, "tinker://run/weights/name", "run")


def test_timeout_of_sampling_has_the_sentence_of_the_guide(server):
    argv = [
        *words_of("run"),
        "--base-url",
        f"{server.url}/silent",
        "--api-key",
        "k",
        "--timeout",
        "500",
    ]
    assert invoke(argv).stderr.splitlines()[1] == (
        "Sampling failed due to server or transient error. "
        "Consider retrying: Timed out while awaiting sampling"
    )


@pytest.mark.parametrize("name", NEED_A_KEY)
def test_no_key(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(words_of(name))
    assert_told(done, COMMANDS[name], tmp_path)
    assert done.stderr.splitlines()[0] == (
        f"{COMMANDS[name].operation} failed. Please check your inputs: Missing --api-key"
    )


def test_wrong_key_is_told_with_a_hint(server):
    done = invoke(["run", "list", "--base-url", f"{server.url}/status-401-json", "--api-key", "k"])
    assert "The server says so (HTTP 401" in done.stderr
    assert "Hint: " in done.stderr


def test_server_without_the_endpoint_says_so(server):
    done = invoke(
        [
            "checkpoint",
            "publish",
            "tinker://run/weights/name",
            "--base-url",
            f"{server.url}/endpoint-missing",
            "--api-key",
            "k",
        ]
    )
    assert "does not offer" in done.stderr


def interrupted(
    server: Server, tinkex: Program, words: list[str], number: int, cwd: Path
) -> tuple[int, str, str]:
    """Run a command until it waits for an answer, send it a signal; return code and output."""
    before = server.requests()
    process = subprocess.Popen(
        [tinkex.path, *words, "--base-url", f"{server.url}/silent", "--api-key", "k"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **tinkex.environment},
    )
    end = time.monotonic() + 20
    while server.requests() == before and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=10)
    assert time.monotonic() - began < 1.5
    return process.returncode, stdout, stderr


def test_terminated_while_waiting(server, tinkex, tmp_path):
    code, stdout, stderr = interrupted(
        server, tinkex, ["checkpoint", "list"], signal.SIGTERM, tmp_path
    )
    assert (code, stdout) == (143, "")
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
    ["auth", "status", "--offline", "-f", "json"],
    ["config", "show"],
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
    here = tmp_path / "here"
    here.mkdir()
    code, stdout, stderr = interrupted(server, tinkex, words_of(name), signal.SIGINT, here)
    assert (code, stdout) == (130, "")
    assert stderr.endswith(f"{COMMANDS[name].operation} interrupted.\n")
    if not COMMANDS[name].parts:  # those keep what another try goes on from
        assert list(here.iterdir()) == []


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
