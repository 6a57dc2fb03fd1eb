"""Commands without a key or with nowhere to write.

What becomes of the faults of a server is in tests/faults.
"""

from __future__ import annotations

import itertools
import os
import subprocess

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.test_matrix import assert_told, filled
from tinkex.testing import invoke

#: The others have their own way: doctor reports a missing key, auth login asks for one.
NEED_A_KEY = [name for name, talk in COMMANDS.items() if not talk.findings and name != "auth login"]


@pytest.mark.parametrize("name", NEED_A_KEY)
def test_no_key(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(filled(COMMANDS[name].words, "tinker://run/weights/name", "run"))
    assert_told(done, COMMANDS[name], tmp_path)
    assert done.stderr.splitlines()[0] == (
        f"{COMMANDS[name].operation} failed. Please check your inputs: Missing --api-key"
    )


#: Commands that write in different ways; each meets one of the two, the first few meet both.
OUTPUTS = [
    "version",
    "help",
    "config show",
    "config show --json",
    "checkpoint list",
    "run list -f json",
    "run info RUN",
    "checkpoint publish PATH",
    "checkpoint prune --keep-last 1 --dry-run",
    "run watch RUN -f json",
    "run wait RUN --until checkpoint:?*",
    "run --base-model tinkex/baker-street-2M --prompt x --max-tokens 2",
    "config set timeout 60s",
    "complete",
]
SINKS = ("full", "closed")


@pytest.mark.parametrize("served", ["embedded"], indirect=True)
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
