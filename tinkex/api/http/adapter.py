"""The default HTTP pool: the requests library, with keep-alive connections (HTTP/1.1).

The only module that imports requests and urllib3.
"""

from __future__ import annotations

import http.client
import io
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import parse_url

from tinkex import plugins
from tinkex.api.http import errors
from tinkex.api.http.concurrency import run_in_thread
from tinkex.api.http.retry import LATE
from tinkex.config import pools
from tinkex.config.values import is_loopback
from tinkex.exceptions import (
    ConnectionFailed,
    InvalidResponse,
    SettingsError,
    TinkexError,
    Unreachable,
)

if TYPE_CHECKING:
    import socket

    from tinkex.plugins import HttpRequest, PoolOptions, PoolSettings, Timeouts

#: Maximum number of idle connections to one host, and of hosts with idle connections.
_CONNECTIONS, _HOSTS = 256, 4
#: How http.client reports a proxy that refuses to make a connection.
_NO_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
#: Exceptions that requests and its dependencies raise.
_FOREIGN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


class DefaultPool(plugins.HttpPool):
    """Keep-alive connections over HTTP/1.1, with the proxies from the environment."""

    def build(self, settings: PoolSettings) -> RequestsSender:
        """Return a sender with the TLS options of *settings*."""
        return RequestsSender(settings.pool_options)


class RequestsSender:
    """Sends requests with the transport adapter of the requests library.

    A :class:`requests.Session` would add cookies, ``.netrc`` and redirects, which are not needed
    here, and triple the CPU time of a request.
    """

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._adapter = DeadlineAdapter(
            pool_connections=_HOSTS, pool_maxsize=_CONNECTIONS, max_retries=0
        )
        certificate, key = options.client_cert, options.client_key
        self._certificate = (certificate, key) if certificate and key else certificate
        self._verify: str | bool | None = None
        self._proxies: dict[str, dict[str, str]] = {}

    def send(self, request: HttpRequest, timeouts: Timeouts) -> RequestsResponse:
        """Send *request*; see :class:`tinkex.plugins.Sender`."""
        try:
            with deadline_scope(timeouts.read):
                response = self._adapter.send(
                    _prepared(request),
                    stream=True,
                    timeout=(timeouts.connect, timeouts.read),
                    verify=self._trusted(request.url),
                    cert=self._certificate,
                    proxies=self._proxies_for(request.url),
                )
        except (*_FOREIGN, Stopped) as error:
            raise translated(error, request.url, self._proxy_for(request.url)) from error
        return RequestsResponse(response, request.url, timeouts.read)

    def close(self) -> None:
        """Close the connections."""
        self._adapter.close()

    def _trusted(self, url: str) -> str | bool:
        if self._verify is None and url.startswith("https:"):
            self._verify = pools.authorities(self._options) or False
        return True if self._verify is None else self._verify

    def _proxies_for(self, url: str) -> dict[str, str]:
        # The environment is read once for each host: reading it takes longer than a request.
        host = url.split("/", 3)[2]
        if host not in self._proxies:
            self._proxies[host] = proxies_for(url)
        return self._proxies[host]

    def _proxy_for(self, url: str) -> str:
        return select_proxy(url, self._proxies_for(url)) or ""


class RequestsResponse:
    """A response of the requests library as a :class:`tinkex.plugins.HttpResponse`.

    :param read: seconds that each chunk may take.
    """

    def __init__(self, response: requests.Response, url: str, read: float) -> None:
        self.status = response.status_code
        self.headers = dict(response.headers.lower_items())
        if response.raw.chunked:  # a length is meaningless with this transfer coding
            self.headers.pop("content-length", None)
        self._response, self._url, self._read = response, url, read

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the body as it arrives; see :class:`tinkex.plugins.HttpResponse`."""
        # iter_content() of requests waits for *size* bytes, however long that takes.
        read = self._response.raw.read1
        decode = "content-encoding" in self.headers
        while True:
            try:
                with deadline_scope(self._read):
                    chunk = read(size, decode_content=decode)
            except (*_FOREIGN, Stopped) as error:
                raise translated(error, self._url) from error
            if not chunk:
                return
            yield chunk

    def close(self) -> None:
        """Return the connection to the pool, or close it if the body was not read to its end."""
        self._response.close()


def _prepared(request: HttpRequest) -> requests.PreparedRequest:
    prepared = requests.PreparedRequest()
    prepared.method, prepared.url, prepared.body = request.method, request.url, request.body
    given = {name.lower() for name in request.headers}
    headers = dict(request.headers)
    if "accept-encoding" not in given:
        headers["Accept-Encoding"] = "gzip, deflate"
    if request.body is not None or request.method not in ("GET", "HEAD"):
        headers["Content-Length"] = str(len(request.body or b""))
    prepared.headers = cast(Any, headers)
    return prepared


# The environment ----------------------------------------------------------------------------------


def proxies_for(url: str) -> dict[str, str]:
    """Return the proxies for *url* (scheme → URL), empty for a direct connection.

    Honors HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in upper or lower case. Requests to this
    machine never go through a proxy: they, and the API key in them, may be unencrypted.
    """
    return {} if is_loopback(url) else dict(get_environ_proxies(url))


def proxy_for(url: str) -> str | None:
    """Return the URL of the proxy for *url*, or an empty string."""
    return select_proxy(url, proxies_for(url))


# Deadlines ----------------------------------------------------------------------------------------

#: When the current scope ends, by the monotonic clock, in seconds.
_end: ContextVar[float] = ContextVar("tinkex_deadline", default=math.inf)


@contextmanager
def deadline_scope(seconds: float) -> Iterator[None]:
    """Limit all connection activity of this thread inside the block to *seconds* in total.

    A socket timeout starts over with every byte. A server that sends single bytes could therefore
    keep a client waiting forever, in any part of a response: the status line, headers, chunk sizes,
    trailers, or the header of a compressed body.

    :raises Stopped: the block failed long after its time limit, because the process was suspended
        (Ctrl-Z).
    """
    token = _end.set(time.monotonic() + seconds)
    try:
        yield
    except _FOREIGN as error:
        late = time.monotonic() - _end.get()
        if late > LATE:
            raise Stopped(late) from error
        raise
    finally:
        _end.reset(token)


def _seconds_left() -> float:
    """Return the seconds left in the current scope.

    :raises TimeoutError: no time is left.
    """
    left = _end.get() - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class DeadlineAdapter(HTTPAdapter):
    """The transport adapter of requests, with connections limited by :func:`deadline_scope`.
    Connections to a SOCKS proxy are not limited.
    """

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the connection pool for a request."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if pool.ConnectionCls in _BOUNDED:
            pool.ConnectionCls = _BOUNDED[pool.ConnectionCls]
        return pool


class _Reader(io.RawIOBase):
    """Reads from a socket, and waits only slightly longer than the current scope allows."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock, self._raw = sock, raw
        self._timeout = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left, current = _seconds_left(), self._sock.gettimeout()
        # Setting a timeout is a system call, so a slightly longer one stays.
        if left < math.inf and (current is None or not 0.9 * current <= left <= current):
            self._sock.settimeout(left if self._timeout is None else min(left, self._timeout))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Reader(sock, self.fp.detach()))

    def begin(self) -> None:
        """Read the head of the response, and skip interim responses such as 102 and 103."""
        super().begin()
        while 101 < self.status < 200:  # http.client skips 100 only
            self.headers = self.msg = cast(Any, None)
            super().begin()
        coding = self.headers.get("Transfer-Encoding", "identity").strip().lower()
        if coding not in ("chunked", "identity"):
            raise InvalidResponse(f"the server sent an unsupported transfer coding: {coding!r}")
        if coding == "chunked" and not self.chunked:  # http.client does not strip spaces
            self.chunked, self.chunk_left, self.length = True, cast(Any, None), None


class _Connection(HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        _connect(self, super().connect)


class _SecureConnection(HTTPSConnection):
    response_class = _Response

    def connect(self) -> None:
        _connect(self, super().connect)


_BOUNDED: dict[Any, Any] = {HTTPConnection: _Connection, HTTPSConnection: _SecureConnection}


def _connect(connection: HTTPConnection, connect: Any) -> None:
    """Connect within the current scope.

    This runs in a thread, because the system's resolver has no time limit and blocks signals.
    """
    left = _seconds_left()
    if left == math.inf or is_loopback(f"//{connection.host}"):
        connect()
        return
    try:
        run_in_thread(connect, left)
    except TimeoutError as error:
        message = f"cannot reach {connection.host}"
        raise urllib3.exceptions.ConnectTimeoutError(connection, message) from error


# Errors -------------------------------------------------------------------------------------------


class Stopped(Exception):
    """The process was suspended (Ctrl-Z) while it waited; the argument is the number of seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def translated(error: Exception, url: str, proxy: str = "") -> TinkexError:
    """Convert *error*, raised by a request to *url*, to a tinkex error.

    :param proxy: URL of the proxy in use, empty if there is none.
    """
    causes, host = errors.chain(error), errors.host_of(url)
    return (
        errors.local_limit(causes)
        or (errors.suspended(host, error.seconds) if isinstance(error, Stopped) else None)
        or _settings_error(causes, host, proxy)
        or _proxy_error(causes, host, proxy)
        or errors.tls_error(causes, host)
        or errors.connection_error(causes, host)
        or _urllib3_error(causes, host)
        or errors.lost(causes, host)
    )


def _settings_error(causes: list[BaseException], host: str, proxy: str) -> TinkexError | None:
    of_proxy = (requests.exceptions.InvalidProxyURL, urllib3.exceptions.ProxySchemeUnknown)
    of_url = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
    if any(isinstance(cause, of_proxy) for cause in causes) or _is_malformed(proxy):
        message = f"malformed HTTP proxy URL: {_public(proxy)}"
        encode = "Percent-encode the password (# as %23, / as %2F). " if "@" in proxy else ""
        return SettingsError(message, hint=encode + proxy_hint(proxy))
    for cause in causes:
        if isinstance(cause, requests.exceptions.InvalidSchema) and "SOCKS" in str(cause):
            return SettingsError(
                "a SOCKS proxy is set, but SOCKS support is not installed",
                hint=f"Install it: pip install 'requests[socks]'. {proxy_hint(proxy)}",
            )
        if isinstance(cause, of_url):
            return SettingsError(f"not a valid URL: {host}", hint="Check the base URL.")
    return None


def _proxy_error(causes: list[BaseException], host: str, proxy: str) -> TinkexError | None:
    if not any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes):
        return None
    for cause in causes:
        if found := _NO_TUNNEL.match(str(cause)):
            return proxy_refusal(int(found[1]), host, proxy)
        if "WRONG_VERSION_NUMBER" in str(cause):  # https_proxy=https://… is a common mistake
            message = f"the HTTP proxy {_public(proxy)} does not support TLS"
            return SettingsError(message, hint=f"Use http:// in the proxy URL. {proxy_hint(proxy)}")
    if error := errors.tls_error(causes, f"the HTTP proxy {_public(proxy)}"):
        return error
    unknown = any(isinstance(c, urllib3.exceptions.NameResolutionError) for c in causes)
    why = ": cannot resolve the proxy's host name" if unknown else errors.because(causes)
    message = f"the HTTP proxy {_public(proxy)} for {host} failed{why}"
    unsent = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    is_unsent = any(isinstance(cause, unsent) for cause in causes)
    return (Unreachable if is_unsent else ConnectionFailed)(message, hint=proxy_hint(proxy))


def proxy_refusal(status: int, host: str, proxy: str) -> TinkexError:
    """Return the error for a *proxy* that rejected a tunnel to *host* with *status*."""
    hint = proxy_hint(proxy)
    if status == 407 and "@" in proxy:
        message = "the HTTP proxy rejected the user name and password (407)"
        return SettingsError(message, hint=hint)
    if status == 407:
        message = "the HTTP proxy requires a user name and password (407)"
        return SettingsError(message, hint=f"Use http://USER:PASSWORD@HOST:PORT. {hint}")
    if status < 500 and status not in (408, 429):
        message = f"the HTTP proxy rejected the connection to {host} ({status})"
        return SettingsError(message, hint=hint)
    return ConnectionFailed(f"the HTTP proxy cannot reach {host} ({status})", hint=hint)


def _is_malformed(proxy: str) -> bool:
    try:
        return parse_url(proxy).port == 0
    except urllib3.exceptions.LocationParseError:
        return True


def _public(proxy: str) -> str:
    """Return the URL *proxy* without its user name and password."""
    return re.sub(r"^(\w+://)?.*@", r"\1", proxy)


def proxy_hint(proxy: str) -> str:
    """Return a hint that names the source of the proxy URL *proxy*."""
    if not proxy:
        return "No proxy is configured for this URL, but the network may use a transparent proxy."
    names = sorted(n for n, value in os.environ.items() if value == proxy and "proxy" in n.lower())
    origin = " and ".join(names) or "the environment"
    return f"The proxy {_public(proxy)} is set in {origin}. To bypass it, add the host to NO_PROXY."


def _urllib3_error(causes: list[BaseException], host: str) -> TinkexError | None:
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.NewConnectionError):
            return Unreachable(f"cannot connect to {host}{errors.because(causes)}")
        if isinstance(cause, urllib3.exceptions.ConnectTimeoutError):
            return Unreachable(f"{host} does not respond")
        if isinstance(cause, urllib3.exceptions.ReadTimeoutError):
            return errors.timed_out(host)
        if isinstance(cause, http.client.IncompleteRead):  # or urllib3's subclass
            return ConnectionFailed(f"the connection to {host} was closed during a response")
        if isinstance(cause, urllib3.exceptions.InvalidHeader):
            return InvalidResponse(f"{host} sent conflicting Content-Length values")
        if isinstance(cause, urllib3.exceptions.DecodeError):
            return InvalidResponse(f"{host} sent a response that cannot be decompressed")
    return None
