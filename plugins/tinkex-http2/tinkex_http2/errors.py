"""Errors of the engine as errors of tinkex, with the sentences of the default HTTP pool.

The engine tells most of them apart by their text only.
"""

from __future__ import annotations

import pyqwest

from tinkex.api.http import errors
from tinkex.exceptions import (
    ConnectionFailed,
    InvalidResponse,
    SettingsError,
    TinkexError,
    TLSError,
    Unreachable,
)

#: What the engine raises.
FOREIGN = (
    *(OSError, RuntimeError, ValueError),
    *(pyqwest.ReadError, pyqwest.WriteError, pyqwest.RemoteProtocolError),
)


def translated(error: Exception, url: str, proxied: bool = False) -> TinkexError:
    """Return the error of tinkex for *error*, which a request to *url* raised.

    :param proxied: a proxy was on the way.
    """
    host, text = errors.host_of(url), str(error).rpartition("client error ")[2]
    if proxied and ("tunnel error" in text or isinstance(error, ConnectionError)):
        return _proxy_error(text, url)
    if isinstance(error, pyqwest.ConnectTimeout):
        return Unreachable(f"{host} does not answer")
    if isinstance(error, TimeoutError):
        return errors.timed_out(host)
    if isinstance(error, ConnectionError):
        return _not_connected(text, host)
    if isinstance(error, pyqwest.StreamError):
        return _stream_error(error, host)
    if isinstance(error, pyqwest.RemoteProtocolError | pyqwest.WriteError | pyqwest.ReadError):
        return _broken(text, host)
    if "Invalid URL" in text or "URL scheme" in text:
        return SettingsError(f"not a usable address: {host}", hint="Check the base URL.")
    return errors.lost(errors.chain(error), host)


def _proxy_error(text: str, url: str) -> TinkexError:
    from tinkex.api.http import adapter  # a proxy has imported it already

    host, proxy = errors.host_of(url), adapter.proxy_for(url) or ""
    if "proxy authorization required" in text:
        return adapter.proxy_refusal(407, host, proxy)
    if "unsuccessful" in text:
        return adapter.proxy_refusal(403, host, proxy)
    message = f"the HTTP proxy on the way to {host} failed: {_reason(text)}"
    kind = Unreachable if "underlying connection" in text else ConnectionFailed
    return kind(message, hint=adapter.proxy_hint(proxy))


def _not_connected(text: str, host: str) -> TinkexError:
    if "dns error" in text:
        return Unreachable(f"cannot resolve {host}")
    if "Connection refused" in text:
        return Unreachable(f"connection refused by {host}")
    if "invalid peer certificate: " in text:
        why = text.rpartition("invalid peer certificate: ")[2]
        why = "unable to get local issuer certificate" if why == "UnknownIssuer" else why
        message = f"the certificate of {host} could not be verified: {why}"
        return TLSError(message, hint=errors.CA_HINT)
    if "corrupt message" in text or "alert" in text:
        return TLSError(f"no TLS connection to {host}: {_reason(text)}")
    return Unreachable(f"cannot connect to {host}: {_reason(text)}")


def _stream_error(error: pyqwest.StreamError, host: str) -> TinkexError:
    if error.code == pyqwest.StreamErrorCode.REFUSED_STREAM:
        return Unreachable(f"{host} refused the request: too many at once")
    return ConnectionFailed(f"the connection to {host} was lost: {error.code.name.lower()}")


def _broken(text: str, host: str) -> TinkexError:
    if "before message completed" in text:
        return ConnectionFailed(
            f"the connection to {host} was lost: it was closed without a response"
        )
    if "SendRequest" in text and "connection error" not in text:
        return ConnectionFailed(f"the connection to {host} was lost: the response was not HTTP")
    if "end of file before message length" in text:
        return ConnectionFailed(f"the connection to {host} was cut in the middle of a response")
    if any(word in text for word in ("gzip", "deflate", "unexpected end of file")):
        return InvalidResponse(f"{host} sent a response whose compression is damaged")
    return ConnectionFailed(f"the connection to {host} was lost: {_reason(text)}")


def _reason(text: str) -> str:
    """Return the innermost cause in the engine's text, without the number of the system."""
    return text.rpartition(": ")[2].partition(" (os error")[0].lower()
