"""Commands without a key, interrupted, or with nowhere to write.

What becomes of the faults of a server is in tests/faults.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.test_matrix import assert_told, filled
from tests.until import until
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
    silent = ["--base-url", f"{server.url}/silent", "--api-key", "k", "--timeout", "500"]
    assert invoke([*words_of("run"), *silent]).stderr.splitlines()[1] == (
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


@pytest.mark.parametrize(
    ("name", "fault", "told"),
    [
        ("run list", "status-401-json", "The server says so (HTTP 401"),
        ("checkpoint publish", "endpoint-missing", "does not offer"),
    ],
)
def test_what_the_server_refuses_is_told_with_a_hint(server, name, fault, told):
    done = invoke([*words_of(name), "--base-url", f"{server.url}/{fault}", "--api-key", "k"])
    assert told in done.stderr
    assert "Hint: " in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_every_command_at_once(server, name, tmp_path, monkeypatch):
    """In this process, whose main thread gets the signal; test_signals has processes."""
    monkeypatch.chdir(tmp_path)
    before = server.requests()

    def interrupt() -> None:
        until(lambda: server.requests() > before)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    # It would wait for an hour.
    silent = ["--base-url", f"{server.url}/silent", "--api-key", "k", "--timeout", "1h"]
    done = invoke([*words_of(name), *silent])
    thread.join()
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.endswith(f"{COMMANDS[name].operation} interrupted.\n")
    if not COMMANDS[name].parts:  # those keep what another try goes on from
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_is_ended_while_it_waits(server, tinkex, number, code):
    before = server.requests()
    process = tinkex.start(f"checkpoint list --base-url {server.url}/silent --api-key k")
    until(lambda: server.requests() > before)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, "")
    assert "Traceback" not in stderr


#: Commands that write in different ways; each meets one of the two, the first few meet both.
OUTPUTS = [
    "version",
    "help",
    "config show",
    "config show --json",
    "checkpoint list",
    "run list -f json",
    "run info RUN",
    "checkpoint info PATH",
    "checkpoint publish PATH",
    "checkpoint set-ttl PATH --ttl 1d",
    "checkpoint prune --keep-last 1 --dry-run",
    "run watch RUN -f json",
    "run wait RUN --until checkpoint:?*",
    "run --base-model tinkex/baker-street-2M --prompt x --max-tokens 2",
    "local info",
    "local model list",
    "plugin list",
    "auth status",
    "config set timeout 60s",
    "profile list",
    "complete",
]
SINKS = ("full", "closed")


@pytest.mark.parametrize("served", ["in-process"], indirect=True)
def test_commands_with_nowhere_to_write(served, saved):
    names = {"RUN": saved["model_id"], "PATH": saved["weights_path"]}
    cases = [(line, sink) for line in OUTPUTS[:4] for sink in SINKS]
    cases += zip(OUTPUTS[4:], itertools.cycle(SINKS))
    for line, sink in cases:
        reading, writing = os.pipe()
        os.close(reading)
        if sink == "full":
            os.close(writing)
            writing = os.open("/dev/full", os.O_WRONLY)
        words = [names.get(word, word) for word in line.split()]
        done = served.process(*words, stdout=writing, code=141 if sink == "closed" else 1)
        os.close(writing)
        assert ("No space left on device" in done.stderr) is (sink == "full"), line
        if sink == "closed" and line in OUTPUTS[:4]:
            assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "code", "stdout", "stderr"),
    [
        ("help >&-", 1, "", "standard output is closed"),
        ("config show 2>&-", 0, "profile", ""),
        ("config show 2>/dev/full", 0, "profile", ""),
    ],
)
def test_streams_that_are_closed_or_full(tinkex, line, code, stdout, stderr):
    argv = ["sh", "-c", f"{tinkex.path} {line}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stdout.startswith(stdout)
    assert stderr in done.stderr


def test_unreadable_configuration_file(tinkex, config):
    config("profiles: [")
    done = tinkex("run list", code=1)
    assert done.stdout == ""
    assert "not valid YAML" in done.stderr


def test_locale_without_unicode(tinkex):
    tinkex.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert "is not a tinkex command" in tinkex.process("nö-such", code=1).stderr
