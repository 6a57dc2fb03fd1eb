"""The completion scripts in real shells."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.conftest import Program
from tests.functional.test_interactive import Terminal
from tinkex.cli.completion import Cache
from tinkex.config.values import DEFAULT_BASE_URL

SEEN = "tinker://run-1:train:0/weights/0001"

#: line → what Tab offers for its last word.
CASES = [
    ("tinkex checkpoint de", "delete"),
    ("tinkex run list --lim", "--limit"),
    ("tinkex --profile local run in", "info"),
    ("tinkex run list --format js", "json"),
    ("tinkex checkpoint info tinker://run-1:tr", SEEN),
    ("tinkex checkpoint list --run-id run-", "run-1"),
    ("tinkex run --prompt-file prom", "prompt.txt"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a file in it; the program is on the path and knows some names."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    known = Cache(DEFAULT_BASE_URL, None)
    known.add("checkpoints", [SEEN])
    known.add("runs", ["run-1"])
    (tmp_path / "prompt.txt").write_text("")
    return tmp_path


def shell(*argv: str, cwd: Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=cwd)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def needs(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize(("line", "offered"), CASES)
def test_bash(place, tinkex: Program, line, offered):
    path = tinkex("complete --shell bash --install").stdout.strip()
    # Readline cuts at ':' and '=' as well, and replaces the last piece only.
    words = " ".join(line.replace(":", " : ").split(" "))
    code = (
        f"source '{path}'; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words});"
        "COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _tinkex; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    piece = offered.rpartition(":")[2] if ":" in offered and "run-1:tr" in line else offered
    if offered == SEEN:
        piece = SEEN.removeprefix("tinker://run-1:")
    assert piece in shell("bash", "--norc", "-c", code, cwd=place).splitlines()


@pytest.mark.parametrize(("line", "offered"), CASES)
def test_fish(place, tinkex: Program, line, offered):
    needs("fish")
    path = tinkex("complete --shell fish --install").stdout.strip()
    assert path.endswith("/fish/completions/tinkex.fish")
    found = shell("fish", "-c", f"complete -C '{line}'", cwd=place)
    assert offered in [row.partition("\t")[0] for row in found.splitlines()]


def test_zsh(place, tinkex: Program, home: Path, monkeypatch: pytest.MonkeyPatch):
    needs("zsh")
    path = Path(tinkex("complete --shell zsh --install").stdout.strip())
    assert path == home / ".local/share/zsh/site-functions/_tinkex"
    monkeypatch.chdir(place)
    terminal = Terminal("-f", "-i", program="zsh", PS1="ready> ")
    try:
        terminal.expect("ready> ")
        terminal.type(f"fpath=({path.parent} $fpath); autoload -U compinit; compinit -u -D\r")
        terminal.expect("ready> ")
        for line, offered in CASES:
            terminal.type(f"{line}\t")
            terminal.expect(re.escape(offered))
            terminal.type("\x15")  # Ctrl-U: an empty line again
    finally:
        terminal.close()


def test_installing_twice_changes_nothing(tinkex: Program, home: Path):
    first = tinkex("complete --install")
    path = Path(first.stdout.strip())
    assert path == home / ".local/share/bash-completion/completions/tinkex"
    assert "Installed." in first.stderr
    before = path.stat()
    again = tinkex("complete --install")
    assert again.stdout == first.stdout
    assert "Already installed." in again.stderr
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert stat.S_IMODE(before.st_mode) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["tinkex"]


@pytest.mark.parametrize("served", ["embedded"], indirect=True)
def test_what_lists_print_is_offered_and_what_is_deleted_is_not(served: Program, saved, home: Path):
    path = saved["weights_path"]
    served.process("checkpoint list --api-key tml-functional-test")
    line = "tinkex checkpoint info tinker://"
    assert path in served("complete", "--line", line).stdout.splitlines()
    files = list((home / ".cache/tinkex/completion").iterdir())
    assert files
    assert all("tml-functional" not in file.read_text() for file in files)
    served.process(f"checkpoint delete {path}")
    assert path not in served("complete", "--line", line).stdout
