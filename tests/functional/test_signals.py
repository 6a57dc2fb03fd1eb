"""Signals at commands that wait, watch or change many things, and at a person's prompts.

Signals at commands that write files are in tests/faults.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.test_matrix import filled
from tests.functional.conftest import KEY, Program, Service
from tests.functional.test_interactive import Terminal
from tests.serving import Reply, Request, serving
from tests.until import idle, until
from tinkex.testing import invoke

WATCHING = {
    "run watch": ("run", "watch", "{run}"),
    "run wait": ("run", "wait", "{run}", "--until", "checkpoint:never"),
    "checkpoint sync --watch": ("checkpoint", "sync", "{run}", "all", "--watch"),
}
#: Finds out from the directory of the test whether it watches already.
BEGUN: dict[str, Callable[[Path], object]] = {
    "run watch": lambda here: (here / "out").read_text(),
    "run wait": lambda here: (here / "log").read_text().count(" 200") >= 2,
    "checkpoint sync --watch": lambda here: list(here.glob("all/*/*/tinkex.lock.json")),
}


def ended(process: subprocess.Popen[Any], number: int) -> int:
    """Send *number*; return the exit code. Nothing that is signalled here would end by itself."""
    process.send_signal(number)
    return process.wait(60)


@pytest.mark.both_pools
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_every_command(silent, name, tmp_path, monkeypatch):
    """In this process, whose main thread gets the signal."""
    monkeypatch.chdir(tmp_path)

    def interrupt() -> None:
        silent.asked.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    words = filled(COMMANDS[name].words, "tinker://run/weights/name", "run")
    # It would wait for an hour.
    done = invoke([*words, "--base-url", silent.url, "--api-key", "k", "--timeout", "1h"])
    thread.join()
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.endswith(f"{COMMANDS[name].operation} interrupted.\n")
    if not COMMANDS[name].parts:  # those keep what another try resumes
        assert list(tmp_path.iterdir()) == []


@pytest.mark.both_pools
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_is_ended_while_it_waits(silent, tinkex, number, code):
    process = tinkex.start(f"checkpoint list --base-url {silent.url} --api-key k")
    assert silent.asked.wait(60)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, "")
    assert "Traceback" not in stderr


@pytest.mark.both_pools
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("run watch", signal.SIGTERM),
        ("run wait", signal.SIGHUP),
        ("checkpoint sync --watch", signal.SIGTERM),
    ],
)
def test_watching_ends_at_once(name, number, served: Program, saved, tmp_path):
    words = [saved["model_id"] if word == "{run}" else word for word in WATCHING[name]]
    with (tmp_path / "out").open("w") as out:
        process = served.start(*words, "--log-file", "log", stdout=out, cwd=tmp_path)
    try:
        until(lambda: (tmp_path / "log").exists() and BEGUN[name](tmp_path))
        code = ended(process, number)
    finally:
        process.kill()
        _, stderr = process.communicate()
    assert code == 128 + number
    assert "Traceback" not in stderr


@pytest.fixture
def terminal(home: Path, service: Service) -> Iterator[type[Terminal]]:
    opened = []

    class Kept(Terminal):
        def __init__(self, *argv: str) -> None:
            super().__init__(*argv, TINKER_BASE_URL=service.url)
            opened.append(self)

        @property
        def echoes(self) -> bool:
            return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    yield Kept
    for each in opened:
        each.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_prompt_of_a_login(terminal, number, home):
    shown = terminal("auth", "login")
    shown.expect("key")
    until(lambda: not shown.echoes)
    code = ended(shown.process, number)
    assert code == 128 + number
    assert shown.echoes, "what is typed afterwards would stay invisible"
    assert not (home / ".tinker" / "credentials.json").exists()


def test_the_shell_between_two_lines(terminal):
    shown = terminal()
    shown.expect("tinkex>")
    until(lambda: idle(shown.process))
    code = ended(shown.process, signal.SIGTERM)
    assert code == 143
    assert shown.echoes


def test_the_shell_while_a_command_runs(terminal, saved):
    shown = terminal("--api-key", KEY)
    shown.expect("tinkex>")
    shown.type(f"run watch {saved['model_id']}\r")
    shown.expect("saved")
    code = ended(shown.process, signal.SIGTERM)
    assert code == 143


# ---------------------------------------------------------------- changes of many checkpoints

PATHS = [f"tinker://run-{number}:train:0/weights/final" for number in range(500)]
CHANGES = {
    "delete": (["delete", "--yes"], "deleted"),
    "publish": (["publish"], "published"),
    "set-ttl": (["set-ttl", "--ttl", "7d"], "updated"),
}
READERS = {
    "plain": lambda text: [word for word in text.split() if word.startswith("tinker://")],
    "json": lambda text: [row["tinker_path"] for row in json.loads(text) if not row["error"]],
    "csv": lambda text: [
        row["tinker_path"] for row in csv.DictReader(io.StringIO(text)) if not row["error"]
    ],
}


class Slow:
    """A service that takes its time for every change, and refuses those of some runs."""

    def __init__(self) -> None:
        self.changed: set[str] = set()

    def answer(self, request: Request) -> Reply:
        if request.method == "GET":
            return Reply({"checkpoints": []})
        time.sleep(0.1)
        run = request.path.split("/")[4]
        if "7:" in run:
            return Reply({}, 403)
        self.changed.add(f"tinker://{run}/weights/final")
        return Reply({})


@pytest.fixture
def slow(tinkex: Program) -> Iterator[Slow]:
    slow = Slow()
    with serving(slow.answer) as url:
        tinkex.environment |= {"TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-bulk-changes"}
        yield slow


@pytest.mark.parametrize(
    ("http_pool", "name", "form", "number"),
    [
        ("default", "delete", "plain", signal.SIGINT),
        ("default", "delete", "json", signal.SIGTERM),
        ("default", "delete", "csv", signal.SIGINT),
        ("default", "publish", "plain", signal.SIGTERM),
        ("default", "set-ttl", "plain", signal.SIGINT),
        ("http2", "delete", "plain", signal.SIGTERM),
        ("http2", "delete", "json", signal.SIGINT),
    ],
    indirect=["http_pool"],
)
def test_an_interruption_reports_what_was_done(name, form, number, tinkex, slow):
    words, done = CHANGES[name]
    process = tinkex.start("checkpoint", *words, *PATHS, "-f", form)
    until(lambda: len(slow.changed) >= 60)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    reported = READERS[form](stdout)
    assert set(reported) <= slow.changed
    assert len(slow.changed) - len(reported) <= 32  # those under way
    (counted,) = re.findall(rf"At least (\d+) of 500 checkpoints were {done}, as", stderr)
    # A signal between the writing of a row and its counting leaves one more row.
    assert len(reported) - 1 <= int(counted) <= len(reported)


def test_one_that_fails_is_reported_when_all_were_tried(tinkex, slow):
    done = tinkex("checkpoint publish", *PATHS[:40], "-f", "json", code=1)
    assert len(slow.changed) == 36
    assert [row["tinker_path"] for row in done.rows] == PATHS[:40]
    assert "4 of 40 checkpoints could not be published" in done.stderr
