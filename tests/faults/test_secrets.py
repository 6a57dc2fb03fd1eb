"""The key is never written, neither with ``--debug`` nor to a log nor with ``--curl``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.sample import sample
from tests.faults.test_matrix import KEY, filled
from tinkex.testing import invoke

FAULTS = ("key-echoed", "status-401-json", "redirect-other-host", "json-null", "close-before")
#: Settings of a log of everything.
LOUD = {
    "debug": ("--debug", "--log-file", "{log}"),
    "curl": ("--curl",),
}
#: What is written of a request; one without an answer shows in the error alone.
SIGN = {"debug": "tinkex.http", "curl": "curl"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "loud" not in metafunc.fixturenames:
        return
    cases = [(name, (fault, "debug")) for name in COMMANDS for fault in FAULTS]
    if not metafunc.config.getoption("--all-faults"):
        cases = sample(cases, 8)
    cases += [(name, ("key-echoed", loud)) for name in COMMANDS for loud in LOUD]
    found = [("default", name, *case) for name, case in cases]
    found += [("http2", name, *case) for name, case in sample(cases, 3)]
    arguments = ("http_pool", "name", "fault", "loud")
    metafunc.parametrize(arguments, dict.fromkeys(found), indirect=["http_pool"])


@pytest.mark.usefixtures("naps")
def test_the_key_is_written_nowhere(faulty, name, fault, loud, tmp_path, home, monkeypatch):
    here, log = tmp_path / "here", tmp_path / "log.txt"
    here.mkdir()
    monkeypatch.chdir(here)
    done = invoke(
        [
            *filled(COMMANDS[name].words, "tinker://run/weights/name", "run"),
            *(str(log) if word == "{log}" else word for word in LOUD[loud]),
            *("--base-url", faulty.url(fault), "--api-key", KEY, "--timeout", "20s"),
        ]
    )
    assert done.stdout or done.stderr
    told = done.stdout + done.stderr if loud == "curl" else log.read_text()
    assert fault == "close-before" or SIGN[loud] in told, "no request: nothing is proved"
    assert KEY not in done.stdout
    assert KEY not in done.stderr
    assert [file for file in files(home, tmp_path) if KEY.encode() in content(file)] == []
    assert all(KEY not in headers.values() for headers in faulty.stolen())


def files(*directories: Path) -> Iterator[Path]:
    """Yield the files below *directories*; threads may still be clearing some of them away."""
    for directory in directories:
        for place, _, names in os.walk(directory):
            yield from (Path(place, name) for name in names)


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def test_a_key_in_a_file_would_be_found(home):
    """The search above sees what is hidden."""
    (home / ".config").mkdir()
    (home / ".config" / "kept").write_text(f"x{KEY}y")
    assert [file.name for file in files(home) if KEY.encode() in content(file)] == ["kept"]
