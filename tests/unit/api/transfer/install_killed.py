"""Installs a download and is killed at every single step of it: run by ``test_staging.py``.

``python install_killed.py DIRECTORY SCENARIO`` prints a JSON object for each step: what the killed
process left, and what the next attempt, without and with a kill of its own, made of that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import manifest
from tinkex.api.transfer.directory import Directory
from tinkex.api.transfer.staging import StagingDirectory

NEW = TinkerPath.from_string("tinker://r:train:0/sampler_weights/new")
OLD = TinkerPath.from_string("tinker://r:train:0/sampler_weights/old")
FILES = {
    "new": {"adapter_config.json": "new", "adapter_model.safetensors": "new", "more/new": "new"},
    "old": {"adapter_config.json": "old", "adapter_model.safetensors": "old", "old.bin": "old"},
}
#: What changes a directory; other events are none of our business.
STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
KILLED = 77


def fill(directory: Directory, path: TinkerPath) -> list[Path]:
    files = FILES[path.name]
    for name, content in files.items():
        with directory.open(name, "wb", make=True) as file:
            file.write(content.encode())
    known = {
        Path(name): manifest.ManifestFile(len(text), hashlib.sha256(text.encode()).hexdigest())
        for name, text in files.items()
    }
    return [*map(Path, files), manifest.write(directory, path, known)]


def prepare(target: Path, scenario: str) -> None:
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    if scenario != "nothing":
        target.mkdir()
        (target / "mine").write_text("mine")
    if scenario == "another":
        directory = Directory.at(target)
        fill(directory, OLD)
        directory.close()


def download(target: Path, scenario: str, before: Callable[[], None] = lambda: None) -> None:
    """Install the new checkpoint; *before* is called when its files have arrived."""
    with StagingDirectory(NEW, target, force=scenario == "another") as staging:
        files = fill(staging.content, NEW)
        before()
        staging.install(files)


def killed(step: int, work: Callable[[Callable[[], None]], None]) -> bool:
    """Do *work* in a process that ends before its *step*-th change; tell whether it came so far.

    *work* gets a function that begins the count.
    """
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, KILLED), code
        return code == KILLED
    left = -1

    def watch(event: str, _: object) -> None:
        nonlocal left
        if event in STEPS and left >= 0:
            left -= 1
            if left < 0:
                os._exit(KILLED)

    def count() -> None:
        nonlocal left
        left = step

    try:
        sys.addaudithook(watch)
        work(count)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def state(target: Path) -> dict[str, Any]:
    found = {
        str(file.relative_to(target)): file.read_text()
        for file in sorted(target.rglob("*"))
        if file.is_file() and ".tinkex-download-" not in str(file)
    }
    lock = found.pop(manifest.NAME, None)
    return {"files": found, "lock": json.loads(lock)["tinker_path"] if lock else None}


def run(target: Path, scenario: str) -> Iterator[dict[str, Any]]:
    def again(count: Callable[[], None]) -> None:
        download(target, scenario, count)

    for step in range(200):
        prepare(target, scenario)
        if not killed(step, again):
            yield {"left": state(target), "after": None}
            return
        left = state(target)
        # The same command again, killed as well, and again. A new target appears in one step, and
        # is in the way then.
        for next_step in (step % 5, 1000):
            if scenario != "nothing" or not target.exists():
                killed(next_step, again)
        yield {"left": left, "after": state(target)}


if __name__ == "__main__":
    os.fsync = lambda _: None  # what a process has written outlives it without
    place, chosen = Path(sys.argv[1]), sys.argv[2]
    for line in run(place / "work" / "target", chosen):
        print(json.dumps(line), flush=True)
