"""Commands that are killed, interrupted or terminated at any time leave readable files.

``--kills N`` says how often each is killed; every moment is drawn at random, from a seed that is
shown.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.writes import WRITERS, Place, Spot, Writer
from tests.functional.conftest import KEY, Program

pytestmark = pytest.mark.kills
OVER = "checkpoint download (over another)"
#: The name of a new file that a process was writing when it was killed.
TEMPORARY = re.compile(r"\.tinkex-[0-9a-f]{16}$")
VICTIMS = (
    *("checkpoint", "checkpoint download", OVER, "checkpoint sync", "run batch"),
    *("config set", "auth login"),
)


def start(writer: Writer, spot: Spot, place: Place, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [Program.path, *place.words(writer, *more)],
        cwd=spot.directory / "work",
        env=os.environ | place.environ(writer, spot),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(writer.stdin)  # little enough for the pipe to hold
    process.stdin.close()
    process.stdin = None
    return process


def running(process: subprocess.Popen[str]) -> None:
    """Wait until the program itself runs: before, a signal does to Python what Python wants.

    Its main function is under way when it catches SIGTERM.
    """
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)


def whole_run(writer: Writer, spot: Spot, place: Place, *more: str) -> tuple[float, int]:
    """Run *writer* undisturbed; return how many seconds it took, and how many lines it printed."""
    began = time.monotonic()
    process = start(writer, spot, place, *more)
    output = process.communicate(timeout=60)
    assert process.returncode == 0, output
    writer.after(spot)
    assert not list(spot.directory.rglob(".tinkex-download-*"))
    # The next write of a private file removes what a killed process has left beside it.
    assert not list(spot.directory.rglob(".?*.tinkex-*"))
    return time.monotonic() - began, output[0].count("\n")


def is_done(name: str, spot: Spot, before: dict[str, bytes]) -> bool:
    """Return whether all is written; where it is not, all has to be as it was before."""
    for file in (file for file in spot.directory.rglob("*") if file.is_file()):
        if KEY.encode() in file.read_bytes():
            assert file.stat().st_mode & 0o077 == 0, f"others may read {file}"
    writer = WRITERS[name]
    try:
        writer.after(spot)
        return True
    except (AssertionError, OSError, ValueError):
        after = spot.written()
    if name == OVER and "work/adapter/tinkex.lock.json" not in after and not_loadable(spot):
        before = {"work/adapter/mine": b"mine"}
        after = {name: content for name, content in after.items() if name in before}
    assert {name: after.get(name) for name in before} == before
    created = {name for name in after if not TEMPORARY.search(name)} - set(before)
    assert created <= set(writer.leaves)
    return False


def not_loadable(spot: Spot) -> bool:
    """Return whether the files are being exchanged, so that nothing takes them for an adapter."""
    adapter = spot.directory / "work" / "adapter"
    names = {path.name for path in adapter.iterdir()}
    marked = list(adapter.glob(".tinkex-download-*"))
    return bool(marked) and ("adapter_config.json" not in names or "mine" in names)


@pytest.mark.parametrize("name", VICTIMS)
def test_a_kill_at_any_moment_leaves_the_state_before_or_after(
    name, place, tmp_path, request, record_property
):
    writer = WRITERS[name]
    lasts, _ = whole_run(writer, Spot(tmp_path / "whole").make(writer), place)
    chance = random.Random(seed := random.randrange(10**6))
    kills = request.config.getoption("--kills")
    for number in range(kills):
        spot = Spot(tmp_path / str(number)).make(writer)
        before = spot.written()
        process = start(writer, spot, place)
        time.sleep(chance.uniform(0, lasts * 1.1))
        process.kill()
        process.communicate(timeout=60)
        try:
            if not is_done(name, spot, before):
                whole_run(writer, spot, place, *writer.again)  # the same again succeeds
        except AssertionError as error:
            raise AssertionError(f"with seed {seed}") from error
    record_property("kill", (name, "kills", "killed", kills))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", VICTIMS)
def test_a_signal_at_any_moment_ends_it(name, number, place, tmp_path, request, record_property):
    writer = WRITERS[name]
    lasts, lines = whole_run(writer, Spot(tmp_path / "whole").make(writer), place)
    chance = random.Random(seed := random.randrange(10**6))
    count = max(3, request.config.getoption("--kills") // 4)
    for turn in range(count):
        spot = Spot(tmp_path / str(turn)).make(writer)
        before = spot.written()
        process = start(writer, spot, place)
        running(process)
        time.sleep(chance.uniform(0, lasts))
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, 128 + number, -number), (seed, stderr)
        assert "Traceback" not in stderr or process.returncode == -number, (seed, stderr)
        is_done(name, spot, before)
        # A result that has been printed stays, whatever comes after it; a part of one never is.
        assert stdout.count("\n") in ((0, lines) if process.returncode else (lines,)), seed
        assert stdout == "" or stdout.endswith("\n"), (seed, stdout)
    record_property("kill", (name, "signals", "ended", count))
