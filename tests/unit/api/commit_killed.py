"""Commits a landing and is killed at every single step of it: run by ``test_landing.py``.

``python commit_killed.py DIRECTORY SCENARIO`` prints a JSON object for each step: what the killed
process left, and what those who came after it made of that.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tinkex.api.paths import TinkerPath
from tinkex.api.transfer import manifest
from tinkex.api.transfer.placing import unfinished
from tinkex.api.transfer.staging import Landing, finish

NEW = TinkerPath.from_string("tinker://r:train:0/sampler_weights/new")
OLD = TinkerPath.from_string("tinker://r:train:0/sampler_weights/old")
FILES = {
    "new": {"adapter_config.json": "new", "adapter_model.safetensors": "new", "more/new": "new"},
    "old": {"adapter_config.json": "old", "adapter_model.safetensors": "old", "old.bin": "old"},
}
#: What changes a directory; other events are none of our business.
STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
KILLED = 77


def fill(directory: Path, path: TinkerPath) -> list[Path]:
    files = FILES[path.name]
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    known = {name: manifest.LockedFile(len(text), None) for name, text in files.items()}
    return [*map(Path, files), manifest.write(directory, path, known)]


def prepare(target: Path, scenario: str) -> None:
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    if scenario != "nothing":
        target.mkdir()
        (target / "mine").write_text("mine")
    if scenario == "another":
        fill(target, OLD)


def download(target: Path, before_commit: Callable[[], None]) -> None:
    with Landing(NEW, target, force=True) as landing:
        files = fill(landing.stage.content, NEW)
        before_commit()
        landing.commit(files)


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
    path = json.loads(lock)["tinker_path"] if lock else None
    return {"files": found, "lock": path, "marked": [p for _, p in unfinished(target)]}


def finished(count: Callable[[], None], target: Path) -> None:
    count()
    finish(target)


def run(target: Path, scenario: str) -> Iterator[dict[str, Any]]:
    for step in range(200):
        prepare(target, scenario)
        if not killed(step, lambda count: download(target, count)):
            yield {"left": state(target), "after": []}
            return
        left, after = state(target), []
        kept = target.parent.with_name("kept")
        shutil.rmtree(kept, ignore_errors=True)
        target.parent.rename(kept)
        for second in range(200 if left["marked"] else 0):
            # The first to come after it is killed as well, the second is not.
            shutil.rmtree(target.parent, ignore_errors=True)
            shutil.copytree(kept, target.parent)
            whole = not killed(second, lambda count: finished(count, target))
            finish(target)
            after.append(state(target))
            if whole:
                break
        yield {"left": left, "after": after}


if __name__ == "__main__":
    os.fsync = lambda _: None  # what a process has written outlives it without
    place, chosen = Path(sys.argv[1]), sys.argv[2]
    for line in run(place / "work" / "target", chosen):
        print(json.dumps(line), flush=True)
