"""Requests over pyqwest, the engine of the official SDK (reqwest and hyper, written in Rust).

Its calls block without answering signals, so those of the main thread are made in another one.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyqwest

from tinkex import plugins
from tinkex.api.http.concurrency import run_in_thread
from tinkex.config import pools
from tinkex.exceptions import SettingsError
from tinkex.plugins import HttpRequest, HttpResponse, PoolSettings, Sender, Timeouts
from tinkex_http2.errors import FOREIGN, translated
from tinkex_http2.pool import proxy_for

T = TypeVar("T")
#: Connections of HTTP/1.1 to one host that are kept for the next request.
_CONNECTIONS = 256
#: A rule that matches no request: without any, the engine reads the environment by its own rules.
_NO_PROXY = pyqwest.Proxy("http://127.0.0.1:1", no_proxy="*,0.0.0.0/0,::/0")
#: Proxy, seconds to connect, and seconds until something arrives, ``None`` for no such limit.
_Key = tuple[str | None, int, int | None]


class EngineSender:
    """Sends requests; see :class:`tinkex.plugins.Sender`.

    The engine has the time limits of silence in its transports, so that there is one transport,
    with connections of its own, for each pair of limits; an API client uses two.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._clients: dict[_Key, pyqwest.SyncClient] = {}
        self._transports: list[pyqwest.SyncHTTPTransport] = []
        self._proxies: dict[str, str | None] = {}
        self._forked: Sender | None = None

    def send(self, request: HttpRequest, timeouts: Timeouts) -> HttpResponse:
        """Send *request* and return the response, its body still to be read."""
        if os.getpid() != self._process:
            return self._after_fork().send(request, timeouts)
        # Where silence is allowed as long as the whole exchange, the engine needs one limit only.
        is_bounded = timeouts.whole is not None and timeouts.read >= timeouts.whole
        silence = None if is_bounded else math.ceil(timeouts.read)
        proxy = self._proxy_for(request.url)
        headers = {"accept-encoding": "gzip", **{k.lower(): v for k, v in request.headers.items()}}
        if request.body is None and request.method not in ("GET", "HEAD"):
            headers["content-length"] = "0"
        try:
            client = self._client((proxy, math.ceil(timeouts.connect), silence))
            sent = (request.method, request.url, headers, request.body)
            exchange = _interruptible(partial(client.stream, *sent, timeout=timeouts.whole))
            response = exchange.__enter__()
        except FOREIGN as error:
            raise translated(error, request.url, proxy is not None) from error
        return EngineResponse(response, request.url)

    def close(self) -> None:
        """Close the connections."""
        if os.getpid() == self._process:
            for transport in self._transports:
                transport.close()
        elif self._forked is not None:
            self._forked.close()

    def _after_fork(self) -> Sender:
        """Return the sender of a forked child, in which the engine would wait forever."""
        if self._forked is None:
            pool = plugins.load_driver(plugins.HTTP_POOLS, pools.DEFAULT_DRIVER)
            self._forked = pool.build(self._settings)
        return self._forked

    def _client(self, key: _Key) -> pyqwest.SyncClient:
        with self._guard:
            if key not in self._clients:
                transport = self._transport(*key)
                self._transports.append(transport)
                self._clients[key] = pyqwest.SyncClient(transport)
            return self._clients[key]

    def _transport(
        self, proxy: str | None, connect: int, silence: int | None
    ) -> pyqwest.SyncHTTPTransport:
        options = self._settings.pool_options
        certificate = options.client_cert and Path(options.client_cert).read_bytes()
        key = Path(options.client_key).read_bytes() if options.client_key else certificate
        try:
            return pyqwest.SyncHTTPTransport(
                tls_ca_cert=_certificates(pools.authorities(options)),
                tls_cert=certificate or None,
                tls_key=key or None,
                proxy=_NO_PROXY if proxy is None else proxy,
                connect_timeout=connect,
                read_timeout=silence,
                pool_max_idle_per_host=_CONNECTIONS,
                enable_brotli=False,
                enable_zstd=False,
                enable_cookie_store=False,
                enable_otel=False,
                follow_redirects=False,
                use_system_dns=True,
            )
        except ValueError as error:
            raise SettingsError(f"the HTTP pool cannot be used: {error}") from error

    def _proxy_for(self, url: str) -> str | None:
        host = url.split("/", 3)[2]
        if host not in self._proxies:
            self._proxies[host] = proxy_for(url)
        return self._proxies[host]


class EngineResponse:
    """A response of the engine as :class:`tinkex.plugins.HttpResponse`."""

    def __init__(self, response: pyqwest.SyncResponse, url: str) -> None:
        self.status = response.status
        self.headers: dict[str, str] = {}
        for name, value in response.headers.items():
            same = self.headers.get(name)
            self.headers[name] = value if same is None else f"{same}, {value}"
        self._response, self._url = response, url

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the body as it arrives."""
        content = iter(self._response.content)
        while True:
            try:
                chunk = _interruptible(partial(next, content, None))
            except FOREIGN as error:
                raise translated(error, self._url) from error
            if chunk is None:
                return
            view = memoryview(chunk)
            yield from (bytes(view[at : at + size]) for at in range(0, len(view), size))

    def close(self) -> None:
        """Drop what has not been read."""
        with suppress(*FOREIGN):
            self._response.close()


def _certificates(path: str | None) -> bytes | None:
    """Return the certificates of *path*, a file or a hashed directory, in PEM."""
    if path is None:
        return None
    files = pools.hashed_files(path) if os.path.isdir(path) else [path]
    return b"\n".join(Path(file).read_bytes() for file in files)


def _interruptible(do: Callable[[], T]) -> T:
    """Return ``do()``; in the main thread so that Ctrl-C ends the wait."""
    is_main = threading.current_thread() is threading.main_thread()
    return run_in_thread(do) if is_main else do()
