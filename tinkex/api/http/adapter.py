"""Connections whose answers have to arrive by a moment, not only each of their bytes.

A socket's timeout starts anew with every byte, so a server that sends one now and then could
keep a client forever: in the status line, headers, chunk sizes, trailers or a compressed header.
Here the socket never waits beyond the :class:`Limit` in force. The limit is that of the thread
that sends the request (:func:`limited`); without one, the socket's own timeout is all there is.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError

from tinkex.api.http.concurrency import run_in_thread
from tinkex.config.values import is_loopback

if TYPE_CHECKING:
    import socket

#: Hosts whose pool of connections is at hand.
_HOSTS = 32

_current: ContextVar[Limit | None] = ContextVar("tinkex_limit", default=None)


class Limit:
    """The moment by which an answer must have arrived.

    :param seconds: from now on.
    :ivar answer: what it bounds, once that has begun, for who wants to read it without urllib3;
        ``None`` if it comes in another way than over a connection of this module.
    """

    def __init__(self, seconds: float) -> None:
        self.answer: http.client.HTTPResponse | None = None
        self.restart(seconds)

    def restart(self, seconds: float, *, rolling: bool = False) -> None:
        """Allow *seconds* from now on; *rolling* means, from the last byte on."""
        self._end = time.monotonic() + seconds
        self._rolling = seconds if rolling else 0.0

    def heard(self) -> None:
        """Note that bytes have come."""
        if self._rolling:
            self._end = time.monotonic() + self._rolling

    def left(self) -> float:
        """Return the seconds left, more than zero.

        :raises TimeoutError: there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


@contextmanager
def limited(seconds: float) -> Iterator[Limit]:
    """Bound the answers to requests that this thread sends inside the block.

    A body that is read later is bounded by the same limit, which may be restarted.
    """
    limit = Limit(seconds)
    token = _current.set(limit)
    try:
        yield limit
    finally:
        _current.reset(token)


class BoundedAdapter(HTTPAdapter):
    """requests' own adapter with bounded connections; proxies included, unless SOCKS.

    What requests works out for every request anew, though it is the same as for the last one to
    the same host, is kept where no proxy is in between: a quarter of what a request costs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._direct: dict[tuple[Any, ...], Any] = {}

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        if proxies:
            return super().get_connection_with_tls_context(request, verify, proxies, cert)
        key = (*urlsplit(request.url or "")[:2], verify, cert)
        pool = self._direct.get(key)
        if pool is None or pool.pool is None:  # the latter: closed, to make room for another host
            if len(self._direct) >= _HOSTS:
                self._direct.clear()
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            self._direct[key] = pool
        return pool

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        path = request.path_url
        if proxies or path.startswith("//"):
            return super().request_url(request, proxies)
        return path

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Return the response as requests has it, but for cookies and the encoding of text."""
        response = Response()
        response.status_code, response.reason = resp.status, resp.reason
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.url = req.url or ""
        response.request = req
        response.connection = self
        return response

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


class _Source(io.RawIOBase):
    """The bytes of a socket, as long as there is time."""

    def __init__(self, sock: socket.socket, limit: Limit) -> None:
        self._sock = sock
        self._raw = cast(io.RawIOBase, sock.makefile("rb", buffering=0))
        self._timeout = sock.gettimeout()
        self._limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._limit.left()
        self._sock.settimeout(left if self._timeout is None else min(left, self._timeout))
        count = self._raw.readinto(buffer)
        self._limit.heard()
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Socket:
    """What a response wants of a socket."""

    def __init__(self, sock: socket.socket, limit: Limit) -> None:
        self._sock, self._limit = sock, limit

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Source(self._sock, self._limit))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        limit = _current.get()
        source = sock if limit is None else cast("socket.socket", _Socket(sock, limit))
        super().__init__(source, *args, **kwargs)
        if limit is not None:
            limit.answer = self


class _Connection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        return _looked_up(self, super()._new_conn)


class _SecureConnection(HTTPSConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        return _looked_up(self, super()._new_conn)


def _looked_up(connection: HTTPConnection, connect: Callable[[], socket.socket]) -> socket.socket:
    """Connect, also where looking up the host's name takes for ever.

    The system's resolver knows no time limit, and keeps Ctrl-C from being heard.
    """
    limit = _current.get()
    if limit is None or is_loopback(f"//{connection.host}"):
        return connect()
    try:
        return run_in_thread(connect, limit.left())
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"{connection.host} cannot be reached") from error


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}
