"""The ``http2`` HTTP pool: a requests transport adapter over httpcore, the engine of httpx.

httpx itself would put a second session between requests' and the connection, with rules of its
own for redirects, cookies and addresses. httpcore sends what it is given.

A connection carries one request at a time. Those of httpcore may not be shared between threads in
HTTP/2 (two may take the same stream), and one answer that is late would end all others with it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpcore
import requests
from requests.adapters import BaseAdapter
from requests.utils import select_proxy

from tinkex.plugins import HttpPool
from tinkex_http2 import bodies, failures, tls
from tinkex_http2.bounded import BoundedBackend, limited

if TYPE_CHECKING:
    from tinkex.settings import Settings

#: Seconds that a connection without requests is kept.
KEEPALIVE = 60.0
#: They concern one connection of HTTP/1.1 and are not allowed in HTTP/2.
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "upgrade", "te"})

#: What a connection is made with: certificates, client certificate, proxy.
_Key = tuple[Any, Any, str | None]


class Http2Pool(HttpPool):
    """HTTP/2 where the server offers it, HTTP/1.1 elsewhere."""

    def build(self, settings: Settings, *, size: int) -> BaseAdapter:
        """Return an adapter with room for *size* requests at once."""
        return Http2Adapter(size)


class Http2Adapter(BaseAdapter):
    """Sends requests over kept connections; neither repeats them nor follows redirects.

    :param size: how many connections are kept for each way to connect.
    """

    def __init__(self, size: int = 10) -> None:
        super().__init__()
        self._size = size
        self._idle: dict[_Key, list[httpcore.ConnectionPool]] = {}
        self._guard = threading.Lock()
        self._closed = False

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Return the answer, its body unread if *stream*.

        :param timeout: seconds, or ``(to connect, to answer)``; the second also bounds each wait
            for a part of the body.
        :raises requests.RequestException: there was no answer.
        """
        url = request.url or ""
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        key = _key(url, verify, cert, proxies)
        times = {"connect": connect, "read": read, "write": read, "pool": connect}
        sent = httpcore.Request(
            method=request.method or "GET",
            url=_address(url),
            headers=_headers(request, url),
            content=bodies.content(request.body),
            extensions={"timeout": times},
        )
        connection = self._take(key)
        try:
            with limited(read):
                answer = connection.handle_request(sent)
        except failures.FOREIGN as error:
            connection.close()
            raise failures.translated(error, request, proxied=key[2] is not None) from error
        except BaseException:  # Ctrl-C
            connection.close()
            raise

        def done(whole: bool) -> None:
            self._give(key, connection, whole)

        response = bodies.response(request, answer, read, done)
        if not stream:
            try:
                response.content  # noqa: B018 - reads it, which gives the connection back
            except BaseException:
                response.close()
                raise
        return response

    def close(self) -> None:
        """Close the connections."""
        with self._guard:
            self._closed = True
            idle, self._idle = [c for found in self._idle.values() for c in found], {}
        for connection in idle:
            connection.close()

    def _take(self, key: _Key) -> httpcore.ConnectionPool:
        """Return a connection that carries no request: the last that was used, or a new one."""
        with self._guard:
            idle = self._idle.get(key)
            if idle:
                return idle.pop()
        return _new_connection(*key)

    def _give(self, key: _Key, connection: httpcore.ConnectionPool, whole: bool) -> None:
        """Keep *connection* for other requests if its answer was taken whole."""
        with self._guard:
            idle = self._idle.setdefault(key, [])
            kept = whole and not self._closed and len(idle) < self._size
            if kept:
                idle.append(connection)
        if not kept:
            connection.close()


def _key(url: str, verify: Any, cert: Any, proxies: Mapping[str, str] | None) -> _Key:
    secure = url.lower().startswith("https:")
    return (verify if secure else None, cert if secure else None, select_proxy(url, proxies))


def _new_connection(verify: Any, cert: Any, proxy: str | None) -> httpcore.ConnectionPool:
    """Return a pool of one: httpcore's pools make their connection anew when it has ended."""
    options: dict[str, Any] = {
        "ssl_context": None if verify is None else tls.context(verify, cert),
        "max_connections": 1,
        "keepalive_expiry": KEEPALIVE,
        "http1": True,
        "http2": True,
        "retries": 0,
        "network_backend": BoundedBackend(),
    }
    if proxy is None:
        return httpcore.ConnectionPool(**options)
    return httpcore.HTTPProxy(**_proxy(proxy), **options)


def _address(url: str) -> httpcore.URL:
    """Return *url* with its path as it is, to the letter."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        port = parts.port
    except ValueError as error:
        raise requests.exceptions.InvalidURL(str(error)) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise requests.exceptions.InvalidSchema(f"no connection adapters for {parts.scheme!r}")
    return httpcore.URL(
        scheme=parts.scheme.encode("ascii"),
        host=parts.hostname.encode("ascii"),
        port=port,
        target=target.encode("ascii"),
    )


def _headers(request: requests.PreparedRequest, url: str) -> list[tuple[bytes, bytes]]:
    headers = [
        (_encoded(name), _encoded(value))
        for name, value in request.headers.items()
        if name.lower() not in _HOP_BY_HOP
    ]
    if "host" not in request.headers:
        headers.insert(0, (b"Host", urlsplit(url).netloc.rpartition("@")[2].encode("ascii")))
    return headers


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _proxy(address: str) -> dict[str, Any]:
    """Return what httpcore has to know about the proxy at *address*."""
    from requests.utils import get_auth_from_url, prepend_scheme_if_needed, urldefragauth

    address = prepend_scheme_if_needed(address, "http")  # type: ignore[no-untyped-call]
    if address.lower().startswith("socks"):
        raise requests.exceptions.InvalidSchema("SOCKS is not supported by the http2 pool.")
    try:
        url = _address(urldefragauth(address))
    except (requests.RequestException, ValueError) as error:
        raise requests.exceptions.InvalidProxyURL(str(error)) from error
    user, password = get_auth_from_url(address)
    return {"proxy_url": url, "proxy_auth": (user, password) if user else None}
