"""An HTTP pool that keeps below a number of requests a second."""

from __future__ import annotations

import threading
import time

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

#: Requests a second.
RATE = 20.0


class PacedPool(HttpPool):
    """The default pool, used no more than ``RATE`` times a second."""

    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender that holds back the one of the default pool."""
        return PacedSender(load_driver(HTTP_POOLS, "default").build(settings))


class PacedSender:
    """Sends each request when its turn has come; requests come from several threads."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._next = 0.0

    def send(self, request: HttpRequest, timeouts: Timeouts) -> HttpResponse:
        """Send *request* as soon as its turn has come."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + 1 / RATE
        time.sleep(max(0.0, turn - time.monotonic()))
        return self._sender.send(request, timeouts)

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()
