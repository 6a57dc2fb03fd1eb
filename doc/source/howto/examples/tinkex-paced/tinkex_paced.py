"""An HTTP pool that keeps below a number of requests a second."""

from __future__ import annotations

import threading
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tinkex.plugins import HttpPool
from tinkex.settings import Settings

#: Requests a second.
RATE = 20.0


class PacedPool(HttpPool):
    """Keep-alive connections, used no more than ``RATE`` times a second."""

    def build(self, settings: Settings, *, size: int) -> HTTPAdapter:
        """Return requests' own adapter, held back."""
        return PacedAdapter(pool_maxsize=size, max_retries=0)


class PacedAdapter(HTTPAdapter):
    """Sends a request when its turn has come; requests come from several threads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lock = threading.Lock()
        self._next = 0.0

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send *request*, as soon as it may go."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + 1 / RATE
        time.sleep(max(0.0, turn - time.monotonic()))
        return super().send(request, *args, **kwargs)
