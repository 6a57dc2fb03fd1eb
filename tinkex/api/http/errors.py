"""Conversion of socket and TLS errors to tinkex errors whose message names the host."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from tinkex.exceptions import (
    ConnectionFailed,
    LimitReached,
    SettingsError,
    TimedOut,
    TinkexError,
    TLSError,
    Unreachable,
)
from tinkex.files import limit_error

CA_HINT = (
    "If a private CA, such as a proxy's, signed the certificate, set REQUESTS_CA_BUNDLE, or "
    "ca_bundle of the HTTP pool, to the CA's certificate."
)


def host_of(url: str) -> str:
    """Return ``host:port`` of *url*, or ``host`` if the URL has no port."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "the server", parts.port
    except ValueError:
        return "a malformed URL"
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host


def from_system(error: Exception, url: str) -> TinkexError:
    """Convert *error*, raised by a socket or TLS during a request to *url*."""
    causes, host = chain(error), host_of(url)
    return (
        local_limit(causes)
        or tls_error(causes, host)
        or connection_error(causes, host)
        or lost(causes, host)
    )


def chain(error: BaseException) -> list[BaseException]:
    """Return *error* and every exception that it wraps, outermost first."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or any(cause is known for known in found):
            continue
        found.append(cause)
        waiting += [*cause.args, getattr(cause, "reason", None)]
        waiting += [getattr(cause, "original_error", None), cause.__cause__, cause.__context__]
    return found


def local_limit(causes: Sequence[BaseException]) -> LimitReached | None:
    """Return the error for a connection that would need more open files than are allowed."""
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        try:  # the resolver does not report that it could not open its files
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            causes = [*causes, error]
    return next(filter(None, map(limit_error, causes)), None)


def tls_error(causes: Sequence[BaseException], host: str) -> TinkexError | None:
    """Return the error for a failed handshake or a certificate that is not trusted."""
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message or "it is not trusted"
            message = f"the certificate of {host} could not be verified: {why}"
            return TLSError(message, hint=CA_HINT)
    for cause in causes:
        if isinstance(cause, OSError) and "CA certificate" in str(cause):
            return SettingsError("the CA certificate file does not exist", hint=CA_HINT)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            reason = (cause.reason or "handshake failed").replace("_", " ").lower()
            hint = CA_HINT if "no certificate" in reason else None
            return TLSError(f"cannot establish a TLS connection to {host}: {reason}", hint=hint)
    return None


def connection_error(causes: Sequence[BaseException], host: str) -> Unreachable | None:
    """Return the error for a host that is unknown or refuses the connection."""
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return Unreachable(f"cannot resolve {host}")
        if isinstance(cause, ConnectionRefusedError):
            return Unreachable(f"connection refused by {host}")
    return None


def lost(causes: Sequence[BaseException], host: str) -> TinkexError:
    """Return the error for a connection that was lost or timed out."""
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return timed_out(host)
    return ConnectionFailed(f"the connection to {host} was lost{because(causes)}")


def timed_out(host: str) -> TimedOut:
    """Return the error for a server that accepted the request and sent no response in time."""
    return TimedOut(f"Timed out while awaiting a response from {host}")


def suspended(host: str, seconds: float) -> ConnectionFailed:
    """Return the error for a connection that was lost while the process was suspended (Ctrl-Z)."""
    error = ConnectionFailed(f"the connection to {host} was lost while the program was suspended")
    error.suspended = seconds
    return error


def because(causes: Sequence[BaseException]) -> str:
    """Return ``: <system message>`` of the first cause that has a message, or ``''``."""
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in errno.errorcode and cause.strerror:
            return f": {cause.strerror.lower()}"
    names = {type(cause).__name__ for cause in causes}
    if names & {"RemoteDisconnected"}:
        return ": it was closed without a response"
    if names & {"BadStatusLine", "LineTooLong", "HTTPException"}:
        return ": the response was not HTTP"
    return ""
