"""Waiting for something to happen, with an end that only a test that hangs ever sees."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return as soon as *condition* holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it has not come to that within {seconds:g} s"
        time.sleep(0.005)


def idle(process: subprocess.Popen[Any]) -> bool:
    """Return whether no thread of *process* runs or is about to: it waits for something else."""
    for _ in range(3):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                if (task / "stat").read_text().rpartition(")")[2].split()[0] != "S":
                    return False
        time.sleep(0.02)
    return True
