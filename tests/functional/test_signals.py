"""SIGTERM at commands that wait or watch, and at a person's prompts.

Ctrl-C at every command is in test_faults, both signals at those that write in tests/faults.
"""

from __future__ import annotations

import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import KEY, Program, Service
from tests.functional.test_interactive import Terminal
from tests.until import until

WATCHING = {
    "run watch": ("run", "watch", "{run}"),
    "run wait": ("run", "wait", "{run}", "--until", "checkpoint:never"),
    "checkpoint sync --watch": ("checkpoint", "sync", "{run}", "all", "--watch"),
}
#: Tells from the directory of the test whether it watches already.
BEGUN: dict[str, Callable[[Path], object]] = {
    "run watch": lambda here: (here / "out").read_text(),
    "run wait": lambda here: (here / "log").read_text().count(" 200") >= 2,
    "checkpoint sync --watch": lambda here: list(here.glob("all/*/*/tinkex.lock.json")),
}


def ended(process: subprocess.Popen[Any], number: int) -> int:
    """Send *number*; return the exit code. Nothing that is signalled here would end by itself."""
    process.send_signal(number)
    return process.wait(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("served", ["http"], indirect=True)
@pytest.mark.parametrize("name", WATCHING)
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
    code = ended(shown.process, signal.SIGTERM)
    assert code == 143
    assert shown.echoes


def test_the_shell_while_a_command_runs(terminal, saved_on_service):
    shown = terminal("--api-key", KEY)
    shown.expect("tinkex>")
    shown.type(f"run watch {saved_on_service}\r")
    shown.expect("saved")
    code = ended(shown.process, signal.SIGTERM)
    assert code == 143


@pytest.fixture
def saved_on_service(service: Service, tmp_path: Path) -> str:
    program = Program({"TINKER_BASE_URL": service.url, "TINKER_API_KEY": KEY})
    words = ("checkpoint", "--base-model", "tinkex/baker-street-2M", "--rank", "1")
    program(*words, "--output", str(tmp_path / "saved.json"))
    return str(program("run list --limit 1 -f json").rows[0]["training_run_id"])
