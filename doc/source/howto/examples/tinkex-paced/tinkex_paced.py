"""HTTP pools that limit the number of requests per second."""

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
    preferred_pool,
)


@dataclass(frozen=True)
class Settings:
    """Plugin settings in a profile: ``plugins: {tinkex-paced: {rate: 5}}``."""

    #: Maximum number of requests per second.
    rate: float = 20.0

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError("rate must be above 0")


class PacedPool(HttpPool):
    """The pool that ``auto`` selects, limited to ``rate`` requests per second."""

    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender that limits the rate of requests to the selected pool's sender."""
        pool = load_driver(HTTP_POOLS, preferred_pool(settings))
        return PacedSender(pool.build(settings), settings.plugin("tinkex-paced").rate)


class PacedLocalPool(HttpPool):
    """The pool ``local``, limited to ``rate`` requests per second."""

    def __init__(self) -> None:
        self._pool = load_driver(HTTP_POOLS, "local")
        self.base_url = self._pool.base_url
        self.needs_api_key = self._pool.needs_api_key

    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender that limits the rate of requests to the local service."""
        return PacedSender(self._pool.build(settings), settings.plugin("tinkex-paced").rate)


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
        """Close the wrapped sender's connections."""
        self._sender.close()
