"""Converts errors of the engine to errors of tinkex, with the default HTTP pool's messages."""

from __future__ import annotations

import re
from typing import Any

from pyqwest import ConnectTimeout, ReadError, RemoteProtocolError, StreamError, WriteError

from tinkex import exceptions as ours
from tinkex.httppools import CA_HINT, host_of, proxy_error, proxy_for, suspension_error

_BROKEN = (RemoteProtocolError, WriteError, ReadError)
#: Exceptions that the engine raises.
FOREIGN = (OSError, RuntimeError, ValueError, *_BROKEN)
_UNTRUSTED = "the certificate of {host} could not be verified: {reason}"
_UNKNOWN = _UNTRUSTED.format(host="{host}", reason="unable to get local issuer certificate")
_MALFORMED = "not a valid URL: {host}"
_NO_TLS = "cannot establish a TLS connection to {host}: {reason}"
_LOST = "the connection to {host} was lost: "
_CUT = "the connection to {host} was lost in the middle of a response"
_DAMAGED = "{host} sent a response that cannot be decompressed"
_HINTS = dict.fromkeys((_UNTRUSTED, _UNKNOWN), CA_HINT) | {_MALFORMED: "Check the base URL."}
#: Class of an error and a pattern of its text, then the error of tinkex and its sentence. The
#: first row that matches counts; the group of its pattern, if any, is the reason.
_TABLE: tuple[tuple[Any, str, type[ours.TinkexError], str], ...] = (
    (ConnectTimeout, "", ours.Unreachable, "{host} does not respond"),
    (TimeoutError, "", ours.TimedOut, "Timed out while awaiting a response from {host}"),
    (OSError, "Too many open files", ours.LimitReached, "too many open files"),
    (ConnectionError, "dns error", ours.Unreachable, "cannot resolve {host}"),
    (ConnectionError, "Connection refused", ours.Unreachable, "connection refused by {host}"),
    (ConnectionError, "peer certificate: UnknownIssuer", ours.TLSError, _UNKNOWN),
    (ConnectionError, "peer certificate: (.*)", ours.TLSError, _UNTRUSTED),
    (ConnectionError, "corrupt message|alert", ours.TLSError, _NO_TLS),
    (ConnectionError, "", ours.Unreachable, "cannot connect to {host}: {reason}"),
    (
        StreamError,
        "REFUSED",
        ours.Unreachable,
        "{host} rejected the request: too many concurrent requests",
    ),
    (_BROKEN, "before message length", ours.ConnectionFailed, _CUT),
    (_BROKEN, "before message", ours.ConnectionFailed, _LOST + "it was closed without a response"),
    (_BROKEN, "content-length", ours.InvalidResponse, "{host} sent an invalid content length"),
    (_BROKEN, "connection error", ours.ConnectionFailed, _LOST + "{reason}"),
    (_BROKEN, "SendRequest", ours.ConnectionFailed, _LOST + "the response was not HTTP"),
    (_BROKEN, "gzip|deflate|unexpected end of file", ours.InvalidResponse, _DAMAGED),
    (_BROKEN, "", ours.ConnectionFailed, _LOST + "{reason}"),
    (Exception, "Invalid URL|URL scheme", ours.SettingsError, _MALFORMED),
    (ValueError, "", ours.SettingsError, "the HTTP pool http2 cannot send the request: {reason}"),
)


def translated(error: Exception, url: str, end: float) -> ours.TinkexError:
    """Return the error of tinkex for *error*, which a request to *url* raised.

    :param end: when its time limit ended, by :func:`time.monotonic`.
    """
    if stopped := suspension_error(url, end):
        return stopped
    host, text = host_of(url), str(error).rpartition("client error ")[2]
    text = error.code.name if isinstance(error, StreamError) else text
    reason = text.rpartition(": ")[2].partition(" (os error")[0].lower()
    is_early = isinstance(error, ConnectionError) or "tunnel error" in text
    if is_early and proxy_for(url):
        return proxy_error(url, reason, 407 if "proxy authorization required" in text else None)
    for kind, pattern, found, sentence in _TABLE:
        if isinstance(error, kind) and (match := re.search(pattern, text)):
            reason = match[1] if match.groups() else reason
            return found(sentence.format(host=host, reason=reason), hint=_HINTS.get(sentence))
    return ours.ConnectionFailed(_LOST.format(host=host) + reason)
