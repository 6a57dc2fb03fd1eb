"""Errors of httpcore as those of requests and urllib3, which tinkex tells in its own words."""

from __future__ import annotations

import http.client
import socket
import ssl
from urllib.parse import urlsplit

import httpcore
import requests
from urllib3 import exceptions

#: What :func:`translated` is for.
FOREIGN = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    OSError,
)


def translated(
    error: Exception, request: requests.PreparedRequest, proxied: bool
) -> requests.RequestException | OSError:
    """Return the error of requests for *error*, which sending *request* raised.

    :param proxied: the connection is one to a proxy.
    """
    cause = _cause(error)
    if isinstance(error, (httpcore.ConnectTimeout, httpcore.PoolTimeout)):
        return requests.ConnectTimeout(error, request=request)
    if isinstance(error, httpcore.TimeoutException):
        return requests.ReadTimeout(error, request=request)
    if isinstance(error, httpcore.ProxyError):
        return requests.exceptions.ProxyError(error, request=request)
    if isinstance(error, httpcore.ConnectError):
        return _unconnected(error, request, proxied)
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return requests.exceptions.SSLError(cause, request=request)
    return requests.ConnectionError(_lost(error), request=request)


def _cause(error: BaseException) -> BaseException | None:
    # httpcore hides it when it raises the error again.
    return error.__cause__ or error.__context__


def _unconnected(
    error: httpcore.ConnectError, request: requests.PreparedRequest, proxied: bool
) -> requests.RequestException:
    cause = _cause(error)
    if isinstance(cause, ssl.SSLError):
        return requests.exceptions.SSLError(cause, request=request)
    if proxied:
        return requests.exceptions.ProxyError(cause or error, request=request)
    host = urlsplit(request.url or "").hostname or ""
    unmade: exceptions.HTTPError
    if isinstance(cause, socket.gaierror):
        unmade = exceptions.NameResolutionError(host, None, cause)  # type: ignore[arg-type]
    else:
        unmade = exceptions.NewConnectionError(None, str(error))  # type: ignore[arg-type]
        unmade.__cause__ = cause
    return requests.ConnectionError(unmade, request=request)


def _lost(error: Exception) -> exceptions.ProtocolError:
    """Return why there was no whole answer, as urllib3 would have it."""
    text = str(error)
    why: Exception = error
    if isinstance(error, httpcore.RemoteProtocolError):
        # The events of h2 by which a server ends a stream, or all of a connection.
        ended = text.startswith(("<StreamReset", "<ConnectionTerminated"))
        closed = ended or "disconnected" in text or "closed" in text
        why = http.client.RemoteDisconnected(text) if closed else http.client.BadStatusLine(text)
    return exceptions.ProtocolError("Connection aborted.", why)
