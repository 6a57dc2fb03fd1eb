"""Every command against every fault.

Each command succeeds after retries, or prints one clear error and exits with 1 within
``--timeout``, with empty standard output and no incomplete files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import (
    COMMANDS,
    MODEL,
    OFFLINE,
    OUT,
    PATH,
    PROMPTS,
    RUN,
    SESSION,
    Talk,
)
from tests.faults.faults import ANSWERS, BODIES, FAULTS
from tests.faults.sample import sample
from tests.functional import conftest
from tinkex.cli.commandmanager import CommandManager
from tinkex.testing import Invocation, invoke

#: Seconds that a command may take; the faults that stall do so for longer than a test may last.
LIMIT = 0.5
PROMPT_FILE = str(Path(conftest.__file__).with_name("tokens.jsonl"))
KEY = "tml-canary-8d1f0c2ab34e"

STATUSES = (*range(400, 432), 451, *range(500, 512), 520, 524, 599)
#: Faults after which the command goes on and succeeds.
MENDED = ("refusing-twice", "losing-once")
#: Faults that are reported before any byte of an answer, by what the client connects to.
CONNECTIONS = (
    *("refused", "deaf", "unknown-host", "not-tls"),
    *("tls-unknown", "tls-expired", "tls-elsewhere"),
)
FUTURES = tuple(name for name in FAULTS if name.startswith("future-"))
#: Answers of 200 that hold nothing of use.
EMPTY = tuple(name for name, (status, _, _) in ANSWERS.items() if status == 200)
#: Answered with 200, and whole as far as HTTP goes.
WHOLE = (*EMPTY, "length-too-short")
#: The length is wrong, and yet all of the body arrives: an empty list is an empty list.
READABLE = ("length-negative", "length-no-number")
#: Commands that each fault meets in ``make test``, by HTTP pool.
COMMANDS_OF_A_FAULT = {"default": 3, "http2": 1}

Case = tuple[str, str]


def every_case() -> Iterator[Case]:
    for name, command in COMMANDS.items():
        for fault in (*CONNECTIONS, *FAULTS, *(f"status-{s}-json" for s in STATUSES)):
            if fault in FUTURES and not command.waits:
                continue
            if fault in MENDED and (command.endless or command.unserved):
                continue
            yield name, fault
    for name in ("run list", "checkpoint publish"):
        yield from ((name, f"status-{s}-{b}") for s in STATUSES for b in BODIES if b != "json")


def some_cases(pool: str = "default") -> list[Case]:
    faults, statuses, bodies = [], [], []
    for case in every_case():
        if not case[1].startswith("status-"):
            faults.append(case)
        elif case[1].endswith("-json"):
            statuses.append(case)
        elif int(case[1].split("-")[1]) % 3 == list(BODIES).index(case[1].split("-")[2]) - 1:
            bodies.append(case)  # one of the bodies for each status
    chosen = sample(faults, COMMANDS_OF_A_FAULT[pool])
    # Above the pools, one status is as good as another.
    return chosen if pool != "default" else chosen + sample(statuses, 2) + sample(bodies, 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"name", "fault"} <= set(metafunc.fixturenames):
        thorough = metafunc.config.getoption("--all-faults")
        metafunc.parametrize(("name", "fault"), list(every_case() if thorough else some_cases()))


def test_the_sample_leaves_no_command_and_no_fault_out():
    chosen = some_cases()
    assert {row_of(fault) for _, fault in chosen} == {row_of(fault) for _, fault in every_case()}
    assert {fault.split("-")[-1] for _, fault in chosen} >= set(BODIES)
    commands = Counter(name for name, _ in chosen)
    assert set(commands) == set(COMMANDS)
    assert min(commands.values()) >= 6


def test_every_command_is_in_the_matrix_or_talks_to_nobody():
    names = set(CommandManager().commands)
    talking = {name.partition(" (")[0] for name in COMMANDS}
    assert names - talking - set(OFFLINE) == set(), "add it to tests/faults/commands.py"
    assert (talking | set(OFFLINE)) - names == set()


@pytest.mark.usefixtures("naps")
def test_a_fault_ends_well(faulty, name, fault, tmp_path, monkeypatch, request, record_property):
    command = COMMANDS[name]
    path, run = "tinker://run/weights/name", "run"
    if fault in MENDED or (fault in FUTURES and PATH in command.words):
        path, run = request.getfixturevalue("saved")
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    key = conftest.KEY if fault in (*MENDED, *FUTURES) else KEY
    hidden = fault in (*READABLE, "json-rows-of-nothing")  # doctor does not look at the rows
    limit = 60.0 if fault in MENDED or (command.findings and hidden) else LIMIT
    words = filled(command.words, path, run)
    if fault in MENDED and command.before:
        before = filled(command.before, path, run)
        invoke([*before, "--base-url", faulty.upstream, "--api-key", key])
    if fault in MENDED and SESSION in command.words:
        sessions = invoke(
            ["session", "list", "-f", "json", "--base-url", faulty.upstream, "--api-key", key]
        )
        words = [
            sessions.rows[0]["session_id"] if word == "session" else word for word in words[1:]
        ]
        words = [command.words[0], *words]
    done = invoke(
        [*words, *address(faulty, fault), "--api-key", key, "--timeout", f"{limit:g}s"],
        environ={"REQUESTS_CA_BUNDLE": str(faulty.certificates / "ca.crt")},
    )

    assert_no_secret(done, key, directory)
    assert all("x-api-key" not in headers for headers in faulty.stolen())
    told = done.stdout + done.stderr
    if fault == "refused":
        assert "127.0.0.1:9" in told
    if fault == "silent" and not command.findings:
        assert "Timed out while awaiting" in told
        assert "Hint: " in done.stderr
        assert "--timeout" in done.stderr
    may_succeed = (
        fault in MENDED or fault in READABLE or (command.ignores_content and fault in WHOLE)
    )
    if command.findings:
        assert done.exit_code == (0 if hidden else 1), done
        assert_found(done, directory)
        outcome = "succeeds" if hidden else "reported"
    elif done.exit_code == 0:
        assert may_succeed, done
        outcome = "recovers" if fault in MENDED else "succeeds"
    else:
        assert fault not in MENDED, done
        assert_told(done, command, directory)
        outcome = "reported"
    record_property("fault", (row_of(fault), name, outcome, 1))


def row_of(fault: str) -> str:
    """Return the fault's row in the table: statuses share one."""
    if not fault.startswith("status-"):
        return fault
    return f"status {fault.split('-')[1]}"


def filled(words: tuple[str, ...], path: str, run: str, *, session: str = "session") -> list[str]:
    values = {PATH: path, RUN: run, OUT: "out", MODEL: conftest.MODEL, PROMPTS: PROMPT_FILE}
    values[SESSION] = session
    return [values.get(word, word) for word in words]


def address(faulty: Any, fault: str) -> list[str]:
    special = {
        "refused": "http://127.0.0.1:9",
        "deaf": f"http://127.0.0.1:{faulty.ports['deaf']}",
        "unknown-host": "https://no-such-host.invalid",
        "not-tls": f"https://127.0.0.1:{faulty.ports['http']}",
    }
    if fault.startswith("tls-"):
        return ["--base-url", f"https://127.0.0.1:{faulty.ports[fault]}/json-null"]
    return ["--base-url", special.get(fault) or faulty.url(fault)]


def assert_told(done: Invocation, command: Talk, directory: Path) -> None:
    """Check what every failure has in common."""
    assert done.exit_code == 1, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert not {"\x1b", "\u202e"} & set(done.stderr)
    left = {path.name for path in directory.iterdir()}
    if command.keeps and left == set(command.keeps):  # parts of it failed: a summary says so
        assert "out.failed.jsonl" in done.stderr
        assert "To resume:" in done.stderr
        return
    assert left == set()
    lines = done.stderr.removeprefix("Starting sampling...\n").splitlines()
    if command.parts:  # what became of each is before, how to go on with the rest behind
        place = next(i for i, line in enumerate(lines) if line.startswith(command.operation))
        lines = lines[place : place + 2]
    assert lines[0].startswith(
        (
            f"{command.operation} failed. Please check your inputs: ",
            f"{command.operation} failed due to server or transient error. Consider retrying: ",
        )
    ), done.stderr
    assert len(lines) == 2, done.stderr
    assert lines[1].startswith("Hint: ")


def assert_found(done: Invocation, directory: Path) -> None:
    """Check a command that prints what it found, faults among it."""
    assert done.stdout.strip(), done
    assert "Traceback" not in done.stdout + done.stderr
    assert "bug" not in done.stdout + done.stderr
    assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)
    assert [path.name for path in directory.iterdir()] == []


def assert_no_secret(done: Invocation, key: str, directory: Path) -> None:
    assert key not in done.stdout + done.stderr
    for file in directory.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes()


def test_errors_as_json_are_one_object(faulty, naps):
    url = faulty.url("html-502")
    done = invoke(["run", "list", "--json", "--base-url", url, "--api-key", KEY])
    error = json.loads(done.stderr)["error"]
    assert (error["category"], error["status"]) == ("server", 502)


def test_a_certificate_that_is_trusted_is_accepted(faulty):
    """The failures of TLS above are those of the certificates, not of the set-up."""
    url = f"https://127.0.0.1:{faulty.ports['tls-good']}/json-null"
    done = invoke(
        ["run", "list", "--base-url", url, "--api-key", KEY],
        environ={"REQUESTS_CA_BUNDLE": str(faulty.certificates / "ca.crt")},
    )
    assert "null" in done.stderr or "JSON" in done.stderr
