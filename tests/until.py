"""Waiting for something to happen, with an end that only a test that hangs ever sees."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return as soon as *condition* holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it has not come to that within {seconds:g} s"
        time.sleep(0.005)
