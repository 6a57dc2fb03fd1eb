"""Signals that arrive while a training step is submitted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Delay the first Ctrl-C or SIGTERM until the block ends; a second one acts at once.

    If a submission were interrupted, it would be unknown whether the service has used its number,
    and nothing could be saved.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    arrived: list[int] = []

    def defer(number: int, frame: FrameType | None) -> None:
        handler = handlers[signal.Signals(number)]
        if arrived and callable(handler):
            handler(number, frame)
        arrived.append(number)

    try:
        for number in _SIGNALS:
            signal.signal(number, defer)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])
