"""The official command line and tinkex share one login: each uses keys stored by the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_official_sdk import Official, official_program, ours_in, served
from tests.contract.test_official_sdk import pytestmark as needs_the_sdk

__all__ = ["official_program"]

pytestmark = needs_the_sdk
KEY = "tml-contract-0123456789"


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with served(tmp_path_factory.mktemp("served"), KEY) as found:
        yield found


class Both:
    """The two command lines, in one home, pointed at one server, without a key."""

    def __init__(self, home: Path, environ: dict[str, str], program: Official) -> None:
        self.credentials = home / ".tinker" / "credentials.json"
        self._environ = environ | {"HOME": str(home)}
        self._program = program

    def official(self, *words: str, stdin: str = "", code: int = 0) -> str:
        return self._program("-f", "json", *words, env=self._environ, stdin=stdin, code=code)

    def ours(self, *words: str, stdin: str = "", code: int = 0) -> str:
        return ours_in(self._environ, *words, stdin=stdin, code=code)


@pytest.fixture
def both(tmp_path: Path, environ: dict[str, str], official_program: Official) -> Both:
    return Both(tmp_path, environ, official_program)


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
