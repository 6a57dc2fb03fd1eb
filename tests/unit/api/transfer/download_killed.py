"""Downloads an archive and is killed at every single step of it: run by ``test_archive.py``.

``python -m tests.unit.api.transfer.download_killed URL DIRECTORY STRIDE`` prints a JSON object for each step: how many bytes of
the large files its state knew when it was killed, and what the next process made of that.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.unit.api.transfer.install_killed import KILLED
from tinkex.api import ServiceClient
from tinkex.api.transfer import ranges, staging, streams
from tinkex.settings import Settings

SAMPLER = "tinker://r:train:0/sampler_weights/final"
#: Bytes of a large file.
SIZE = 100_000
#: What changes a directory, and makes files.
STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


#: What lets files of 100 KB take the ways of those of 100 MB, over several connections.
LOWERED = {
    ranges: {
        "_PROBE_BYTES": 20_000,
        "_PROBE_SECONDS": 0.0,
        "_BUSY": 100.0,
        "_FAST": 2**60,
        "_MIN_REST": 20_000,
        "_MIN_SECONDS": -1.0,
        "_PART": 20_000,
        "RANGES": 3,
    },
    streams: {"BLOCK": 20_000},
    staging: {"_INTERVAL": 0.01},
}


def download(url: str, target: Path) -> None:
    settings = Settings(base_url=url, timeout=5, api_key="tml-test", allow_http=True)
    with ServiceClient(settings) as client:
        client.checkpoints.download(SAMPLER, target)


def forked(url: str, target: Path, step: int | None) -> bool:
    """Download in a process that ends before its *step*-th step; tell whether it came so far."""
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, KILLED), code
        return code == KILLED
    left = -1 if step is None else step

    def count() -> None:
        nonlocal left
        if step is not None:
            left -= 1
            if left < 0:
                os._exit(KILLED)

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event in STEPS or (event == "open" and details[2] & os.O_CREAT):
            count()

    write, ask = os.pwrite, streams.open_signed

    def counted_write(*arguments: Any) -> int:
        count()
        return write(*arguments)

    def counted_ask(*arguments: Any) -> Any:
        count()
        return ask(*arguments)

    try:
        sys.addaudithook(watch)
        os.pwrite, streams.open_signed = counted_write, counted_ask  # type: ignore[assignment]
        download(url, target)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def known(home: Path) -> int:
    """Return how many bytes of large files the state in *home* knows."""
    states = [json.loads(p.read_text()) for p in home.glob(".tinkex-download-*/state.json")]
    found = [segments for state in states for _, _, segments in state["files"].values()]
    return sum(position - start for segments in found for start, position, _ in segments)


def run(url: str, target: Path, stride: int) -> Iterator[dict[str, Any]]:
    for step in range(0, 500, stride):
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        whole = not forked(url, target, step)
        before = known(target.parent)
        print(json.dumps({"known": before}), flush=True)
        sys.stdin.readline()  # the test looks at what was asked for
        if not target.exists():
            forked(url, target, None)
        yield {"left": sorted(path.name for path in target.parent.iterdir())}
        sys.stdin.readline()
        if whole:
            return


if __name__ == "__main__":
    for module, values in LOWERED.items():
        vars(module).update(values)
    os.fsync = lambda _: None  # what a process has written outlives it without
    for line in run(sys.argv[1], Path(sys.argv[2]) / "work" / "target", int(sys.argv[3])):
        print(json.dumps(line), flush=True)
