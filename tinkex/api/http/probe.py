"""Looking at the way to a service, one piece after the other; nothing is created or changed."""

from __future__ import annotations

import dataclasses
import os
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from tinkex.api.http import errors, findings, network, schema
from tinkex.api.http.answers import Response
from tinkex.api.http.concurrency import map_ordered
from tinkex.api.http.findings import Finding
from tinkex.api.http.requesting import Request
from tinkex.api.http.transport import PROTOCOL_VERSION, NoResponse, Transport
from tinkex.exceptions import NotOffered, TinkexError
from tinkex.settings import DEFAULT_POOL

if TYPE_CHECKING:
    from tinkex.plugins import HttpPool
    from tinkex.settings import Settings

#: Seconds of difference between two clocks that matter to nobody, and that break signatures.
_SKEW_TOLD, _SKEW_WRONG = 30, 300
#: Days before the end of a certificate from which on it is told.
_SOON = 14
_CHECK = "Leave out --insecure, or take 'insecure: true' from the HTTP pool."
_CLOCK_HINT = "Set the clock of this machine (timedatectl set-ntp true): signatures depend on it."


class Prober:
    """Probes one service.

    :param settings: the effective settings.
    :param seconds: the time for each probe.
    :param pool: carries the requests in place of the driver that the settings name.
    """

    def __init__(self, settings: Settings, seconds: float, pool: HttpPool | None = None) -> None:
        self._settings = settings
        self._seconds = seconds
        self._pool = pool
        parts = urlsplit(settings.base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._is_https = parts.scheme == "https"

    def checks(self) -> dict[str, Callable[[], list[Finding]]]:
        """Return the probes by name, in the order of a request's way."""
        on_the_way = {"proxy": self.proxy, "dns": self.dns, "tls": self.tls}
        asking = {"service": self.service, "access": self.access, "endpoints": self.endpoints}
        return asking if self._pool is not None else on_the_way | asking

    def proxy(self) -> list[Finding]:
        """Say whether a proxy is on the way."""
        proxy = self._proxy()
        if proxy is None:
            return [Finding("proxy", "ok", "none")]
        try:
            parts = urlsplit(proxy)
            known = bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            known = False
        if not known:
            return [
                Finding(
                    "proxy",
                    "fail",
                    "the address of the HTTP proxy is malformed",
                    "It comes from HTTPS_PROXY, HTTP_PROXY or ALL_PROXY.",
                )
            ]
        return [Finding("proxy", "ok", f"{without_user(proxy)}; NO_PROXY lists exceptions")]

    def dns(self) -> list[Finding]:
        """Resolve the host."""
        elsewhere = self._elsewhere()
        if elsewhere:
            return [Finding("dns", "skipped", elsewhere)]
        start = time.monotonic()
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "not a name"
            hint = "Is the name right, and is there a network? See 'tinkex config show'."
            return [Finding("dns", "fail", f"{self._host} is not found: {why}", hint)]
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        took = (time.monotonic() - start) * 1000
        return [Finding("dns", "ok", f"{self._host} is {', '.join(addresses)} ({took:.0f} ms)")]

    def tls(self) -> list[Finding]:
        """Shake hands, and look at the certificate."""
        if not self._is_https:
            return [Finding("tls", "skipped", "the base URL is plain http")]
        elsewhere = self._elsewhere()
        if elsewhere:
            return [Finding("tls", "skipped", elsewhere)]
        url = self._settings.base_url
        try:
            version, certificate = self._handshake()
        except TinkexError as error:
            return [findings.from_error("tls", error)]
        except socket.gaierror:
            return [Finding("tls", "skipped", f"{self._host} is not found")]
        except OSError as error:
            return [findings.from_error("tls", errors.translated(error, url))]
        if self._settings.pool_options.insecure:
            return [Finding("tls", "warning", f"{version}, certificates are not checked", _CHECK)]
        return [_judged(version, certificate)]

    def service(self) -> list[Finding]:
        """Ask for a sign of life, without the key: latency, and the clock of the server."""
        try:
            with closing(self._transport(with_key=False)) as transport:
                first, took = self._timed(transport)
                again = min(self._timed(transport)[1] for _ in range(2))
        except NoResponse as failure:
            return [findings.from_error("service", failure.error)]
        except TinkexError as error:
            return [findings.from_error("service", error)]
        times = f"{again * 1000:.0f} ms, the first in {took * 1000:.0f} ms"
        if 300 <= first.status < 400:
            return [findings.from_error("service", transport.refusal(first))]
        if first.status >= 500:
            detail = f"{errors.host_of(transport.base_url)} fails (HTTP {first.status}; {times})"
            return [Finding("service", "fail", detail, "Try again in a while.")]
        if first.content_type == "text/html" or isinstance(first.error(), NotOffered):
            detail = f"something answers (HTTP {first.status}; {times}), but no Tinker service"
            return [Finding("service", "fail", detail, "Is the base URL right?"), _clock(first)]
        return [Finding("service", "ok", f"answers in {times}"), _clock(first)]

    def access(self) -> list[Finding]:
        """Make a request with the key."""
        request = Request("GET", "training_runs", params={"limit": 1})
        try:
            transport = self._transport(with_key=True)
        except TinkexError as error:
            return [Finding("access", "skipped", f"no key to try: {error}")]
        try:
            with closing(transport):
                answer = transport.once(request, transport.deadline("an answer", self._seconds))
                if not answer.ok:
                    return [findings.from_error("access", transport.refusal(answer))]
                schema.items(answer.object(), "training_runs")  # it is the service it claims to be
        except NoResponse as failure:
            return [findings.from_error("access", failure.error)]
        except TinkexError as error:
            return [findings.from_error("access", error)]
        who = "the key is accepted" if self._settings.needs_api_key else "no key is needed"
        return [Finding("access", "ok", who)]

    def endpoints(self) -> list[Finding]:
        """Ask which of the endpoints that only tell something this server has."""
        try:
            transport = self._transport(with_key=True)
        except TinkexError:  # told by another check
            transport = self._transport(with_key=False)
        with closing(transport):
            found = list(map_ordered(partial(self._endpoint, transport), _probes()))
        if all(finding.status == "skipped" for finding in found):
            return [Finding("endpoints", "skipped", found[0].detail)]
        return found

    def _endpoint(self, transport: Transport, request: Request) -> Finding:
        name = f"{request.method} {request.path}"
        start = time.monotonic()
        try:
            answer = transport.once(request, transport.deadline("an answer", self._seconds))
        except NoResponse as failure:
            return Finding(name, "skipped", f"no answer: {failure.error}")
        except TinkexError as error:
            return Finding(name, "skipped", f"no answer: {error}")
        took = f"HTTP {answer.status} in {(time.monotonic() - start) * 1000:.0f} ms"
        if answer.ok:
            return Finding(name, "ok", took)
        if isinstance(answer.error(), NotOffered):
            return Finding(name, "absent", f"not offered ({took})")
        if answer.status in (401, 403):
            return Finding(name, "ok", f"there, but not for this key ({took})")
        if answer.status >= 500:
            return Finding(name, "warning", f"fails ({took})", "Try again in a while.")
        return Finding(name, "ok", f"there ({took})")

    def _timed(self, transport: Transport) -> tuple[Response, float]:
        start = time.monotonic()
        deadline = transport.deadline("an answer", self._seconds)
        answer = transport.once(Request("GET", "healthz"), deadline)
        return answer, time.monotonic() - start

    def _transport(self, *, with_key: bool) -> Transport:
        settings = self._settings
        if not with_key:
            settings = dataclasses.replace(settings, needs_api_key=False)
        elif self._pool is not None:
            settings = dataclasses.replace(settings, api_key="none", api_key_command=None)
        return Transport(settings, pool=self._pool)

    def _proxy(self) -> str | None:
        proxies = network.proxies_for(self._settings.base_url)
        scheme = "https" if self._is_https else "http"
        for name in (f"{scheme}://{self._host}", scheme, f"all://{self._host}", "all"):
            if proxies.get(name):
                return proxies[name]
        return None

    def _elsewhere(self) -> str | None:
        """Return who else finds the host, if it is not this process."""
        if self._settings.pool_driver != DEFAULT_POOL:
            return f"the HTTP pool {self._settings.http_pool} carries the requests"
        return "the proxy does it" if self._proxy() else None

    def _handshake(self) -> tuple[str, Any]:
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
        where = network.trusted(options)
        if where is True or where is False:
            from requests.utils import DEFAULT_CA_BUNDLE_PATH

            insecure, where = where is False, DEFAULT_CA_BUNDLE_PATH
        else:
            insecure = False
        is_directory = os.path.isdir(where)
        context = ssl.create_default_context(
            cafile=None if is_directory else where, capath=where if is_directory else None
        )
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.client_cert:
            context.load_cert_chain(options.client_cert, options.client_key)
        return context


def without_user(address: str) -> str:
    """Return *address* without the user name and password that it may hold."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _probes() -> list[Request]:
    """Return requests that every server may be asked: they read, or read as a POST."""
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


def _clock(answer: Response) -> Finding:
    """Compare this machine's clock with the one of the server."""
    if answer.date is None:
        return Finding("clock", "skipped", "the server does not tell its time")
    apart = (datetime.now(UTC) - answer.date).total_seconds()
    direction = "ahead of" if apart > 0 else "behind"
    detail = f"{abs(apart):.0f} s {direction} the server's"
    if abs(apart) > _SKEW_WRONG:
        return Finding("clock", "fail", detail, _CLOCK_HINT)
    if abs(apart) > _SKEW_TOLD:
        return Finding("clock", "warning", detail, _CLOCK_HINT)
    return Finding(
        "clock", "ok", "agrees with the server's to the second" if abs(apart) < 2 else detail
    )


def _judged(version: str, certificate: Any) -> Finding:
    issuer = dict(pair for group in certificate.get("issuer", ()) for pair in group)
    name = issuer.get("organizationName") or issuer.get("commonName") or "an unnamed authority"
    detail = f"{version}, certificate of {name}"
    try:
        end = ssl.cert_time_to_seconds(certificate["notAfter"])
    except (KeyError, ValueError):
        return Finding("tls", "ok", detail)
    days = int((end - time.time()) // 86400)
    detail += f", valid for {days} more days"
    if days < _SOON:
        return Finding("tls", "warning", detail, "Tell whoever runs the service.")
    return Finding("tls", "ok", detail)
