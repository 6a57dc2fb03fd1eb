"""Checks of the connection to a service, step by step; nothing is created or changed."""

from __future__ import annotations

import dataclasses
import os
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from tinkex import plugins
from tinkex.api.http import adapter, errors, schema
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import (
    HEADERS,
    PROTOCOL_VERSION,
    Request,
    Response,
    Transport,
    read_whole,
)
from tinkex.config import pools
from tinkex.exceptions import Forbidden, InvalidResponse, NotOffered, TinkexError, Unauthorized
from tinkex.plugins import HttpPool, HttpRequest, PoolOptions, Timeouts

if TYPE_CHECKING:
    from tinkex.settings import Settings

#: Any ``fail`` makes the whole diagnosis fail; ``absent``: the server lacks the endpoint.
Status = Literal["ok", "warning", "fail", "skipped", "absent"]

#: Maximum clock difference in seconds that does not invalidate signatures.
_SKEW = 300
_INSECURE_HINT = (
    "Omit the option 'insecure', or remove it from the HTTP pool in the configuration file."
)
_RETRY_HINT = "Try again later. If the problem persists, contact the service operator."
_CLOCK_HINT = "Correct this machine's clock, for example: timedatectl set-ntp true"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    :ivar check: what was checked.
    :ivar status: see :data:`Status`.
    :ivar detail: what was found.
    :ivar hint: how to fix it.
    :ivar error: the error that was raised.
    """

    check: str
    status: Status
    detail: str
    hint: str | None = None
    error: TinkexError | None = field(default=None, compare=False)

    @classmethod
    def from_error(cls, check: str, error: TinkexError) -> CheckResult:
        """Return the result of a check that failed with *error*."""
        return cls(check, "fail", str(error), error.hint or _RETRY_HINT, error)


class Prober:
    """Checks the connection to one service.

    :param settings: the effective settings.
    :param seconds: time limit of each check.
    :param pool: the pool to use instead of the one in the settings.
    """

    def __init__(self, settings: Settings, seconds: float, pool: HttpPool | None = None) -> None:
        self._settings = settings
        self._seconds = seconds
        self._pool = pool
        parts = urlsplit(settings.base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._is_https = parts.scheme == "https"

    def checks(self) -> dict[str, Callable[[], list[CheckResult]]]:
        """Return the checks by name, in the order of the steps of a request."""
        on_the_way = {"proxy": self.proxy, "dns": self.dns, "tls": self.tls}
        asking = {"service": self.service, "access": self.access, "endpoints": self.endpoints}
        return asking if self._pool is not None else on_the_way | asking

    def proxy(self) -> list[CheckResult]:
        """Find the proxy for the service."""
        proxy = adapter.proxy_for(self._settings.base_url)
        found = f"{proxy.rpartition('@')[2]} (bypass it with NO_PROXY)" if proxy else "none"
        return [CheckResult("proxy", "ok", found)]

    def dns(self) -> list[CheckResult]:
        """Resolve the host."""
        elsewhere = self._elsewhere()
        if elsewhere:
            return [CheckResult("dns", "skipped", elsewhere)]
        start = time.monotonic()
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "not a valid host name"
            hint = "Check the host name and the network connection."
            return [CheckResult("dns", "fail", f"cannot resolve {self._host}: {why}", hint)]
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        took = (time.monotonic() - start) * 1000
        detail = f"{self._host} resolves to {', '.join(addresses)} ({took:.0f} ms)"
        return [CheckResult("dns", "ok", detail)]

    def tls(self) -> list[CheckResult]:
        """Make a TLS connection and check the certificate."""
        if not self._is_https:
            return [CheckResult("tls", "skipped", "the base URL uses plain http")]
        elsewhere = self._elsewhere()
        if elsewhere:
            return [CheckResult("tls", "skipped", elsewhere)]
        url = self._settings.base_url
        try:
            version, certificate = self._handshake()
        except TinkexError as error:
            return [CheckResult.from_error("tls", error)]
        except socket.gaierror:
            return [CheckResult("tls", "skipped", f"cannot resolve {self._host}")]
        except OSError as error:
            return [CheckResult.from_error("tls", errors.from_system(error, url))]
        if self._settings.pool_options.insecure:
            return [
                CheckResult(
                    "tls", "warning", f"{version}, certificates are not checked", _INSECURE_HINT
                )
            ]
        issuer = dict(pair for group in certificate.get("issuer", ()) for pair in group)
        name = issuer.get("organizationName") or issuer.get("commonName") or "an unnamed authority"
        return [CheckResult("tls", "ok", f"{version}, certificate issued by {name}")]

    def service(self) -> list[CheckResult]:
        """Send requests without the key to measure latency and compare the server's clock."""
        try:
            with closing(self._transport(with_key=False)) as transport:
                start = time.monotonic()
                deadline = transport.deadline("a response", self._seconds)
                first = transport.once(Request("GET", "healthz"), deadline)
                took = f"{(time.monotonic() - start) * 1000:.0f} ms"
        except TinkexError as error:
            return [CheckResult.from_error("service", error)]
        if 300 <= first.status < 400:
            return [CheckResult.from_error("service", transport.refusal(first))]
        if first.status >= 500:
            host = errors.host_of(transport.base_url)
            detail = f"{host} reports a server error (HTTP {first.status}; {took})"
            return [CheckResult("service", "fail", detail, "Try again later.")]
        if first.content_type == "text/html" or isinstance(first.error(), NotOffered):
            detail = f"responds, but is not a Tinker service (HTTP {first.status}; {took})"
            hint = self._settings.address_warning() or "Check the base URL."
            return [CheckResult("service", "fail", detail, hint), _clock(first)]
        return [CheckResult("service", "ok", f"responds in {took}"), _clock(first)]

    def access(self) -> list[CheckResult]:
        """Find out whether the service accepts the key."""
        try:
            transport = self._transport(with_key=True)
        except TinkexError as error:
            return [CheckResult("access", "skipped", f"no key to check: {error}")]

        def ask(request: Request) -> Response:
            response = transport.once(request, transport.deadline("a response", self._seconds))
            if not response.ok:
                raise transport.refusal(response, request.what)
            return response

        is_proved = False
        try:
            with closing(transport), suppress(NotOffered):
                is_proved = proves_key(ask)
        except TinkexError as error:
            return [CheckResult.from_error("access", error)]
        if not self._settings.needs_api_key:
            return [CheckResult("access", "ok", "no key is needed")]
        if is_proved:
            return [CheckResult("access", "ok", "the key is accepted")]
        detail = "unknown: this server has no endpoint for checking a key"
        return [CheckResult("access", "skipped", detail)]

    def endpoints(self) -> list[CheckResult]:
        """Find out which of the read-only endpoints this server offers."""
        try:
            transport = self._transport(with_key=True)
        except TinkexError:  # reported by another check
            transport = self._transport(with_key=False)
        with closing(transport):
            found = list(map_ordered(partial(self._endpoint, transport), _probes()))
        if all(result.status == "skipped" for result in found):
            return [CheckResult("endpoints", "skipped", found[0].detail)]
        return found

    def _endpoint(self, transport: Transport, request: Request) -> CheckResult:
        name = f"{request.method} {request.path}"
        start = time.monotonic()
        try:
            response = transport.once(request, transport.deadline("a response", self._seconds))
        except TinkexError as error:
            return CheckResult(name, "skipped", f"no response: {error}")
        took = f"HTTP {response.status} in {(time.monotonic() - start) * 1000:.0f} ms"
        if response.ok:
            return CheckResult(name, "ok", took)
        if isinstance(response.error(), NotOffered):
            return CheckResult(name, "absent", f"not offered ({took})")
        if response.status in (401, 403):
            return CheckResult(name, "ok", f"not allowed for this key ({took})")
        if response.status >= 500:
            return CheckResult(name, "warning", f"fails ({took})", "Try again later.")
        return CheckResult(name, "ok", f"offered ({took})")

    def _transport(self, *, with_key: bool) -> Transport:
        settings = self._settings
        if not with_key:
            settings = dataclasses.replace(settings, needs_api_key=False)
        elif self._pool is not None:
            settings = dataclasses.replace(settings, api_key="none", api_key_command=None)
        return Transport(settings, pool=self._pool)

    def _elsewhere(self) -> str | None:
        """Return why this process does not resolve the host, or ``None`` if it does."""
        driver = self._settings.pool_driver
        if driver not in (pools.DEFAULT_DRIVER, plugins.preferred_pool(self._settings)):
            return f"the HTTP pool {self._settings.http_pool} makes the connection"
        return (
            "the proxy resolves the host name"
            if adapter.proxy_for(self._settings.base_url)
            else None
        )

    def _handshake(self) -> tuple[str, Any]:
        """Return the TLS version of a connection and the server's certificate."""
        context = self._tls_settings()
        address = (self._host, self._port)
        with (
            socket.create_connection(address, timeout=self._seconds) as connection,
            context.wrap_socket(connection, server_hostname=self._host) as secured,
        ):
            return secured.version() or "TLS", secured.getpeercert() or {}

    def _tls_settings(self) -> ssl.SSLContext:
        self._settings.check_pool()
        options = self._settings.pool_options
        trusted = pools.authorities(options)
        if trusted is None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif os.path.isdir(trusted):
            context = ssl.create_default_context(capath=trusted)
        else:
            context = ssl.create_default_context(cafile=trusted)
        if options.client_cert:
            context.load_cert_chain(options.client_cert, options.client_key)
        return context


def proves_key(ask: Callable[[Request], Response]) -> bool:
    """Return whether a service accepts the key; ``False`` if no endpoint can confirm it.

    :param ask: sends a request and returns its successful response.
    :raises NotOffered: it has none of the endpoints, so it is probably not a Tinker service.
    :raises tinkex.exceptions.APIError: it rejects the key, or fails.
    """
    for name in ("training_runs", "checkpoints", "sessions"):
        with suppress(NotOffered):
            request = Request("GET", name, params={"limit": 1, "offset": 0})
            schema.items(ask(request).object(), name)
            return True
    ask(Request("GET", "get_server_capabilities", what="an endpoint for checking a key"))
    try:  # some servers need no key for it
        ask(Request("GET", "get_server_capabilities", keyless=True))
    except (Unauthorized, Forbidden):
        return True
    return False


def head(url: str, timeouts: Timeouts) -> int:
    """Send a HEAD request without the key to *url*; return the status.

    :raises tinkex.exceptions.TransportError: there was no response.
    """
    with (
        closing(adapter.RequestsSender(PoolOptions())) as sender,
        closing(sender.send(HttpRequest("HEAD", url, HEADERS), timeouts)) as found,
    ):
        return found.status


def get(url: str, timeouts: Timeouts, options: PoolOptions) -> bytes:
    """Return the content at *url*, requested without the key; redirects are not followed.

    :raises tinkex.exceptions.TransportError: there was no response, or it is a redirect.
    :raises tinkex.exceptions.APIError: the status is 400 or above.
    """
    with closing(adapter.RequestsSender(options)) as sender:
        found = sender.send(HttpRequest("GET", url, HEADERS), timeouts)
        response = read_whole(found, Deadline("the response", timeouts.read))
    if response.status >= 400:
        raise response.error()
    if not response.ok:
        raise InvalidResponse(f"{errors.host_of(url)} redirects (HTTP {response.status})")
    return response.body


def _probes() -> list[Request]:
    """Return requests that are read-only on every server."""
    one = {"limit": 1}
    today = datetime.now(UTC).date().isoformat()
    return [
        Request("GET", "healthz"),
        Request("GET", "get_server_capabilities"),
        Request("POST", "client/config", {"sdk_version": PROTOCOL_VERSION}),
        Request("GET", "auth/apikey/me"),
        Request("GET", "training_runs", params=one),
        Request("GET", "checkpoints", params=one),
        Request("GET", "sessions", params=one),
        Request("POST", "sessions/search", one, repeatable=True),
        Request("GET", "billing/usage/checkpoints/current"),
        Request("GET", "audit", params={"event_type": "checkpoints", "day": today}),
    ]


def _clock(response: Response) -> CheckResult:
    """Compare this machine's clock with the server's."""
    if response.date is None:
        return CheckResult("clock", "skipped", "the server does not report its time")
    apart = (datetime.now(UTC) - response.date).total_seconds()
    direction = "ahead of" if apart > 0 else "behind"
    detail = f"{abs(apart):.0f} s {direction} the server's clock"
    if abs(apart) > _SKEW:
        return CheckResult("clock", "fail", detail, _CLOCK_HINT)
    return CheckResult("clock", "ok", detail)
