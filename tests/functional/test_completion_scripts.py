"""The completion scripts in real shells."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.functional.conftest import Program
from tests.functional.test_interactive import Terminal
from tinkex.cli.completion import Cache
from tinkex.config.values import DEFAULT_BASE_URL

RUN = "11f0cafe-0000-4000-8000-000000000001:train:0"
PATH = f"tinker://{RUN}/sampler_weights/0001"

#: What is typed before Tab → the line afterwards: each way in which shells split and quote words.
CASES = {
    "tinkex checkpoint de": "tinkex checkpoint delete ",
    "tinkex ru": "tinkex run ",  # a command, a noun, and here a directory
    "tinkex run list --format js": "tinkex run list --format json ",
    "tinkex run list --format=js": "tinkex run list --format=json ",
    "tinkex checkpoint info @la": "tinkex checkpoint info @latest",
    "tinkex checkpoint info @latest:s": "tinkex checkpoint info @latest:sampler ",
    "tinkex checkpoint info ": "tinkex checkpoint info 11f0cafe:0001 ",
    "tinkex checkpoint info 11f0cafe:": "tinkex checkpoint info 11f0cafe:0001 ",
    "tinkex checkpoint info tinker://1": f"tinkex checkpoint info {PATH} ",
    "tinkex run --model-path 11": "tinkex run --model-path 11f0cafe:0001 ",
    "tinkex run --model-path ru": "tinkex run --model-path run/",
    "tinkex run --prompt-file prom": "tinkex run --prompt-file prompt.txt ",
    'tinkex run --prompt-file "prom': 'tinkex run --prompt-file "prompt.txt" ',
    'tinkex run --prompt-file "two w': 'tinkex run --prompt-file "two words.txt" ',
    "tinkex run --prompt-file=prom": "tinkex run --prompt-file=prompt.txt ",
}

#: Shell → how it starts, a line that loads the completion, and one after which Ctrl-O writes the
#: line that is being edited to the file LINE.
SHELLS = {
    "bash": (
        ["--norc", "-i"],
        "source {path}",
        """bind -x '"\\C-o": printf "[%s]" "$READLINE_LINE" > LINE'""",
    ),
    "zsh": (
        ["-f", "-i"],
        "fpath=({path.parent} $fpath); autoload -U compinit; compinit -u -D",
        """write() {{ print -rn -- "[$BUFFER]" > LINE }}; zle -N write; bindkey '^o' write""",
    ),
    "fish": (
        ["-i"],
        "true",
        """bind \\co 'commandline | read -z line; printf "[%s]" "$line" > LINE'""",
    ),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a directory with some files; the program is on the path and knows some names."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    known = Cache(DEFAULT_BASE_URL, None)
    known.add("checkpoints", [PATH])
    known.add("runs", [RUN])
    Path("prompt.txt").touch()
    Path("two words.txt").touch()
    Path("run").mkdir()
    return tmp_path


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_the_line(place, tinkex: Program, shell):
    needs(shell)
    path = Path(tinkex(f"complete --shell {shell} --install").stdout.strip())
    argv, load, bind = SHELLS[shell]
    terminal = Terminal(*argv, program=shell)
    try:
        terminal.type(f"{load.format(path=path)}; {bind.format()}; printf %s%s rea dy\r")
        terminal.expect("ready")
        assert {line: completed(terminal, line) for line in CASES} == CASES
    finally:
        terminal.close()


def completed(terminal: Terminal, line: str) -> str:
    """Return what *line* and Tab leave at the prompt; clear it."""
    written = Path("LINE")
    written.unlink(missing_ok=True)
    terminal.type(f"{line}\t\x0f")
    until = time.monotonic() + 60
    while not (written.exists() and written.read_text().strip().endswith("]")):
        assert time.monotonic() < until, line
        time.sleep(0.02)
    terminal.type("\x15")  # Ctrl-U
    return written.read_text().replace("\n", "")[1:-1]


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("bash", 'eval "$(tinkex complete --shell bash)"; complete -p tinkex'),
        (
            "zsh",
            "autoload -U compinit; compinit -u -D; "
            'eval "$(tinkex complete --shell zsh)"; print $_comps[tinkex]',
        ),
        ("fish", "tinkex complete --shell fish | source; complete -C 'tinkex versi'"),
    ],
)
def test_the_line_for_a_startup_file_loads_it(place, shell, code):
    needs(shell)
    done = subprocess.run([shell, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    expected = {"bash": "complete -F _tinkex tinkex", "zsh": "_tinkex", "fish": "version"}
    assert done.stdout.strip() == expected[shell]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("checkpoint info @latest:s", "checkpoint info @latest:sampler"),
        ("checkpoint info 11", "checkpoint info 11f0cafe:0001"),
        ("run --prompt-file=prom", "run --prompt-file=prompt.txt"),
    ],
)
def test_tab_in_the_interactive_shell(place, typed, line):
    terminal = Terminal()
    try:
        terminal.expect("tinkex>")
        terminal.type(f"{typed}\t")
        terminal.expect(re.escape(line))
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
