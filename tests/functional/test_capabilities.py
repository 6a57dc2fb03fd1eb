"""What a server lacks is remembered between invocations of the program, and by nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.contract.dialects.skyrl import SkyRL
from tests.contract.dialects.wire import listening
from tests.functional.conftest import Program
from tinkex.testing import invoke

LIST = ["checkpoint", "list", "--api-key", "tml-dummy", "--base-url"]


def test_the_program_asks_once_for_what_is_not_there(tinkex: Program, home: Path):
    server = SkyRL()
    with listening(server) as url:
        first, second = tinkex.process(*LIST, url), tinkex.process(*LIST, url)
    assert first == second
    assert len(first.stdout.splitlines()) == 2
    assert len(server.requests("GET", "checkpoints")) == 1
    (file,) = (home / ".cache" / "tinkex" / "servers").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "tml-dummy" not in file.read_text()


def test_a_test_leaves_nothing_behind(home: Path):
    server = SkyRL()
    with listening(server) as url:
        for _ in range(2):
            assert invoke([*LIST, url]).exit_code == 0
    assert len(server.requests("GET", "checkpoints")) == 2
    assert not (home / ".cache" / "tinkex" / "servers").exists()
