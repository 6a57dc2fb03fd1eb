"""The official command line and ours share one login: each finds what the other stored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_official_sdk import SDK
from tests.contract.test_official_sdk import pytestmark as needs_the_sdk

pytestmark = needs_the_sdk
KEY = "tml-contract-0123456789"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("served")
    process = subprocess.Popen(
        [sys.executable, "-m", "tinkex", "local", "serve", "--api-key", KEY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PATH": os.defpath, "HOME": str(home), "TINKEX_LOCAL_HOME": str(home / "state")},
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait(20)
    process.stdout.close()


class Both:
    """The two command lines, in one home, pointed at one server, without a key."""

    def __init__(self, home: Path, server: str) -> None:
        self.credentials = home / ".tinker" / "credentials.json"
        self._environ = {
            "PATH": os.defpath,
            "HOME": str(home),
            "COLUMNS": "200",
            "TINKER_BASE_URL": server,
            "TINKER_TELEMETRY": "0",
        }

    def official(self, *words: str, stdin: str = "", code: int = 0) -> str:
        command = [SDK.with_name("tinker"), "-f", "json", *words]
        # It has been seen to abort when its interpreter ends, with all of its work done.
        return self._run(command, stdin, code, -signal.SIGABRT)

    def ours(self, *words: str, stdin: str = "", code: int = 0) -> str:
        return self._run([sys.executable, "-m", "tinkex", *words], stdin, code)

    def _run(self, command: list[str | Path], stdin: str, *codes: int) -> str:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=120, env=self._environ
        )
        assert done.returncode in codes, (command, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def both(tmp_path: Path, server: str) -> Both:
    return Both(tmp_path, server)


def test_the_official_program_finds_what_ours_stored(both):
    both.ours("auth", "login", "--with-token", stdin=KEY)
    assert "Tinker accessible: yes" in both.official("auth", "status")
    theirs = json.loads(both.official("auth", "whoami"))
    ours = json.loads(both.ours("auth", "whoami", "-f", "json"))
    assert theirs == {name: ours[name] for name in ("user_urn", "org_urn", "email")}
    both.ours("auth", "logout")
    assert "Credentials available: no" in both.official("auth", "status", code=1)


def test_ours_finds_what_the_official_program_stored(both):
    both.official("auth", "login", stdin=f"{KEY}\n")
    status = json.loads(both.ours("auth", "status", "-f", "json"))
    assert status["key_origin"] == str(both.credentials)
    assert status["key_name"] == "local"
    (row,) = status["stored_keys"]
    assert (row["key_id"], row["name"], row["in_use"]) == ("1", "local", True)
    both.official("auth", "logout")
    assert "Stored key" not in both.ours("auth", "status", "--offline")
    both.ours("auth", "status", code=1)


def test_both_change_one_file_in_turn(both):
    both.ours("auth", "login", "--with-token", "--name", "ours", stdin=KEY)
    both.official("auth", "logout")
    both.official("auth", "login", stdin=f"{KEY}\n")
    both.ours("auth", "login", "--with-token", "--name", "again", stdin=KEY)
    both.official("auth", "status")
    both.ours("auth", "logout", "--all")
    assert json.loads(both.credentials.read_text()) == {"version": 1, "keys": {}}
    assert "Credentials available: no" in both.official("auth", "status", code=1)
