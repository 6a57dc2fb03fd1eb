"""An HTTP pool that limits the number of requests per second."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from tinkex.plugins import (
    HTTP_POOLS,
    HttpPool,
    HttpRequest,
    HttpResponse,
    PoolSettings,
    Sender,
    Timeouts,
    load_driver,
)


@dataclass(frozen=True)
class Settings:
    """The settings of a profile: ``plugins: {tinkex-paced: {rate: 5}}``."""

    #: Maximum number of requests per second.
    rate: float = 20.0

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError("rate must be above 0")


class PacedPool(HttpPool):
    """The default pool, limited to ``rate`` requests per second."""

    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender that delays requests to the sender of the default pool."""
        sender = load_driver(HTTP_POOLS, "default").build(settings)
        return PacedSender(sender, settings.plugin("tinkex-paced").rate)


class PacedSender:
    """Send requests at regular intervals, from any number of threads."""

    def __init__(self, sender: Sender, rate: float) -> None:
        self._sender = sender
        self._interval = 1 / rate
        self._lock = threading.Lock()
        self._next = 0.0

    def send(self, request: HttpRequest, timeouts: Timeouts) -> HttpResponse:
        """Wait until the next interval, send *request*, and return the response."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        time.sleep(max(0.0, turn - time.monotonic()))
        return self._sender.send(request, timeouts)

    def close(self) -> None:
        """Close the connections of the default pool's sender."""
        self._sender.close()
