"""Errors of requests and urllib3 as ours: one sentence that names the host, never the key."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
import urllib3

from tinkex.exceptions import (
    ConnectionFailed,
    InvalidResponse,
    SettingsError,
    TimedOut,
    TinkexError,
    TLSError,
)

#: What :func:`translated` is for; everything else is a mistake in the code.
FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)

_CA_HINT = (
    "If a proxy or a private authority signs it, set REQUESTS_CA_BUNDLE, or ca_bundle of an "
    "HTTP pool, to its certificate."
)
_URL_HINT = "Is the address right? See 'tinkex config show'."


def host_of(url: str) -> str:
    """Return ``host:port`` of *url*, or ``host`` where the port is the usual one."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "the server", parts.port
    except ValueError:
        return "a malformed address"
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host


def translated(error: Exception, url: str) -> TinkexError:
    """Return our error for *error*, which a request to *url* raised."""
    causes = list(_causes(error))
    host = host_of(url)
    for translate in (_bad_url, _tls, _proxy, _connection, _timeout, _body):
        ours = translate(causes, host)
        if ours is not None:
            return ours
    return ConnectionFailed(f"the connection to {host} was lost{_because(causes)}")


def never_connected(error: Exception) -> bool:
    """Tell whether *error* means that the server cannot have seen the request."""
    made = (urllib3.exceptions.ConnectTimeoutError, requests.ConnectTimeout)
    return any(isinstance(cause, made) for cause in _causes(error))


def is_read_timeout(error: Exception) -> bool:
    """Tell whether *error* means that the server took the request and did not answer in time."""
    late = (urllib3.exceptions.ReadTimeoutError, requests.ReadTimeout, TimeoutError)
    return not never_connected(error) and any(isinstance(c, late) for c in _causes(error))


def is_lasting(error: Exception) -> bool:
    """Tell whether the same request would fail in the same way again."""
    causes = list(_causes(error))
    return _bad_url(causes, "") is not None or _tls(causes, "") is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and what it wraps, outermost first, each once."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or any(cause is known for known in seen):
            continue
        seen.append(cause)
        yield cause
        waiting += [*cause.args, getattr(cause, "reason", None)]
        waiting += [getattr(cause, "original_error", None), cause.__cause__, cause.__context__]


def _bad_url(causes: list[BaseException], host: str) -> TinkexError | None:
    for cause in causes:
        if isinstance(
            cause, (requests.exceptions.InvalidProxyURL, urllib3.exceptions.ProxySchemeUnknown)
        ):
            return SettingsError("the address of the HTTP proxy is malformed", hint=_proxy_hint())
        if isinstance(cause, requests.exceptions.InvalidSchema) and "SOCKS" in str(cause):
            return SettingsError(
                "a SOCKS proxy is set, which needs another package",
                hint="Install it: pip install 'requests[socks]'",
            )
        if isinstance(cause, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
            return SettingsError(f"not a usable address: {host}", hint=_URL_HINT)
    return None


def _proxy_hint() -> str:
    return "It comes from HTTPS_PROXY, HTTP_PROXY or ALL_PROXY; NO_PROXY lists exceptions."


def _tls(causes: list[BaseException], host: str) -> TinkexError | None:
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message or "it is not trusted"
            message = f"the certificate of {host} could not be verified: {why}"
            return TLSError(message, hint=_CA_HINT)
    for cause in causes:
        if isinstance(cause, OSError) and "CA certificate" in str(cause):
            return SettingsError("the file with CA certificates does not exist", hint=_CA_HINT)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            reason = (cause.reason or "handshake failed").replace("_", " ").lower()
            hint = _CA_HINT if "no certificate" in reason else _URL_HINT
            return TLSError(f"no TLS connection to {host}: {reason}", hint=hint)
    return None


def _proxy(causes: list[BaseException], host: str) -> TinkexError | None:
    for cause in causes:
        if isinstance(cause, (urllib3.exceptions.ProxyError, requests.exceptions.ProxyError)):
            why = _because(causes)
            return ConnectionFailed(
                f"the HTTP proxy on the way to {host} failed{why}", hint=_proxy_hint()
            )
    return None


def _connection(causes: list[BaseException], host: str) -> TinkexError | None:
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.NameResolutionError):
            return ConnectionFailed(f"no host is known as {host}", hint=_URL_HINT)
        if isinstance(cause, ConnectionRefusedError):
            return ConnectionFailed(f"connection refused by {host}", hint=_URL_HINT)
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.NewConnectionError):
            return ConnectionFailed(f"cannot connect to {host}{_because(causes)}", hint=_URL_HINT)
        if isinstance(cause, urllib3.exceptions.ConnectTimeoutError):
            return ConnectionFailed(f"{host} does not answer", hint=_URL_HINT)
    return None


def _timeout(causes: list[BaseException], host: str) -> TinkexError | None:
    late = (urllib3.exceptions.TimeoutError, requests.Timeout, TimeoutError)
    if any(isinstance(cause, late) for cause in causes):
        return TimedOut(f"Timed out while awaiting an answer of {host}")
    return None


def _body(causes: list[BaseException], host: str) -> TinkexError | None:
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return ConnectionFailed(
                f"the connection to {host} was cut off in the middle of an answer"
            )
        if isinstance(
            cause, (urllib3.exceptions.DecodeError, requests.exceptions.ContentDecodingError)
        ):
            return InvalidResponse(f"{host} sent an answer whose compression is damaged")
        if isinstance(cause, urllib3.exceptions.InvalidChunkLength):
            return InvalidResponse(f"{host} sent a malformed answer")
    return None


def _because(causes: list[BaseException]) -> str:
    """Return ``: <what the system said>`` for the first cause that the system named."""
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in errno.errorcode and cause.strerror:
            return f": {cause.strerror.lower()}"
    names = {type(cause).__name__ for cause in causes}
    if names & {"RemoteDisconnected"}:
        return ": it was closed without an answer"
    if names & {"BadStatusLine", "LineTooLong", "HTTPException"}:
        return ": the answer was not HTTP"
    return ""
