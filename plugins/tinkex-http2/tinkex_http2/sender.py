"""Requests over pyqwest, the engine of the official SDK (reqwest and hyper, written in Rust)."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyqwest

from tinkex import plugins
from tinkex.exceptions import InvalidResponse, LimitReached
from tinkex.httppools import authorities, proxy_for, run_in_thread
from tinkex.plugins import HttpRequest, HttpResponse, PoolSettings, Sender, Timeouts
from tinkex_http2.errors import FOREIGN, translated

T = TypeVar("T")
#: Number of files that the engine opens when it starts; if it cannot, it panics.
_FILES = 4
#: A proxy rule that matches no request. Without a rule, the engine reads the environment itself.
_NO_PROXY = pyqwest.Proxy("http://127.0.0.1:1", no_proxy="*,0.0.0.0/0,::/0")


class EngineSender:
    """Sends requests; see :class:`tinkex.plugins.Sender`.

    Time limits belong to a transport of the engine, so each host has one, with its own connections,
    for every pair of limits; an API client uses two pairs.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._clients: dict[tuple[str, int, int | None], pyqwest.SyncClient] = {}
        self._forked: Sender | None = None

    def send(self, request: HttpRequest, timeouts: Timeouts) -> HttpResponse:
        """Send *request* and return the response; its body is not read yet."""
        if os.getpid() != self._process:  # in a forked child, the engine would wait forever
            default = plugins.load_driver(plugins.HTTP_POOLS, "default")
            self._forked = self._forked or default.build(self._settings)
            return self._forked.send(request, timeouts)
        headers = dict(request.headers)
        if request.body is None and request.method not in ("GET", "HEAD"):
            headers["content-length"] = "0"
        sent = (request.method, request.url, headers, request.body)
        began = time.monotonic()
        end = began + (timeouts.whole or math.inf)
        try:
            client = self._client(request.url, timeouts)
            exchange = _interruptible(partial(client.stream, *sent, timeout=timeouts.whole))
            return EngineResponse(exchange.__enter__(), request.url, timeouts.read, end)
        except FOREIGN as error:
            raise translated(error, request.url, min(end, began + timeouts.read)) from error
        except BaseException as panic:
            if "spawn worker thread" in str(panic):
                raise LimitReached("too many threads") from panic
            raise

    def close(self) -> None:
        """Close the connections."""
        self._clients.clear()

    def _client(self, url: str, timeouts: Timeouts) -> pyqwest.SyncClient:
        # If both limits are equal, the engine needs only one.
        is_bounded = timeouts.read >= (timeouts.whole or math.inf)
        silence = None if is_bounded else math.ceil(timeouts.read)
        key = (url.split("/", 3)[2], math.ceil(timeouts.connect), silence)
        with self._guard:
            if key not in self._clients:
                with ExitStack() as stack:  # fails if the engine would panic
                    for _ in range(_FILES):
                        stack.enter_context(open(os.devnull, "rb"))
                self._clients[key] = pyqwest.SyncClient(self._transport(url, *key[1:]))
            return self._clients[key]

    def _transport(self, url: str, connect: int, silence: int | None) -> pyqwest.SyncHTTPTransport:
        options = self._settings.pool_options
        certificate = options.client_cert and Path(options.client_cert).read_bytes()
        key = Path(options.client_key).read_bytes() if options.client_key else certificate
        return pyqwest.SyncHTTPTransport(
            tls_ca_cert=authorities(options),
            tls_cert=certificate or None,
            tls_key=key or None,
            proxy=proxy_for(url) or _NO_PROXY,
            connect_timeout=connect,
            read_timeout=silence,
            pool_max_idle_per_host=256,  # of HTTP/1.1: one for each concurrent sample
            enable_brotli=False,
            enable_zstd=False,
            enable_otel=False,
            follow_redirects=False,
            use_system_dns=True,
        )


class EngineResponse:
    """A response of the engine as :class:`tinkex.plugins.HttpResponse`.

    :param read: seconds to wait for each chunk.
    :param end: when the time for the whole exchange ends, by :func:`time.monotonic`.
    """

    def __init__(self, response: pyqwest.SyncResponse, url: str, read: float, end: float) -> None:
        self.status = response.status
        self.headers: dict[str, str] = {}
        for name, value in response.headers.items():
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        coding = self.headers.get("transfer-encoding", "identity").strip().lower()
        if coding not in ("chunked", "identity"):
            raise InvalidResponse(f"the server used an unsupported transfer coding: {coding!r}")
        if coding == "chunked":  # the length of another framing, if any, is invalid then
            self.headers.pop("content-length", None)
        self._response, self._url = response, url
        self._read, self._end = read, end

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the body as it arrives."""
        content = iter(self._response.content)
        began = time.monotonic()
        try:
            while (chunk := _interruptible(partial(next, content, None))) is not None:
                for at in range(0, len(chunk), size):
                    yield bytes(chunk[at : at + size])
                began = time.monotonic()
        except FOREIGN as error:
            raise translated(error, self._url, min(self._end, began + self._read)) from error

    def close(self) -> None:
        """Discard the unread part of the body."""
        with suppress(*FOREIGN):
            self._response.close()


def _interruptible(do: Callable[[], T]) -> T:
    """Return ``do()``; in the main thread so that Ctrl-C ends the wait.

    The engine blocks without handling signals.
    """
    return run_in_thread(do) if threading.current_thread() is threading.main_thread() else do()
