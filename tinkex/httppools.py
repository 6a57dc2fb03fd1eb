"""Helpers for HTTP pools: proxies, certificates, threads and error messages of the default pool."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tinkex.api.http.concurrency import run_in_thread
from tinkex.api.http.errors import CA_HINT, host_of, suspended
from tinkex.api.http.retry import LATE
from tinkex.config import pools
from tinkex.config.values import is_loopback
from tinkex.exceptions import TinkexError, Unreachable
from tinkex.plugins import PoolOptions

#: What plugins may use, see the page "Plugin API".
__all__ = [
    "CA_HINT",
    "authorities",
    "host_of",
    "proxy_error",
    "proxy_for",
    "run_in_thread",
    "suspension_error",
]


def proxy_for(url: str) -> str | None:
    """Return the URL of the proxy for *url*, or ``None``.

    The rules are those of requests, which is imported only if a proxy may be set. Requests to this
    machine never use a proxy.
    """
    named = any(name.lower().endswith("_proxy") and os.environ[name] for name in os.environ)
    if is_loopback(url) or (sys.platform == "linux" and not named):
        return None
    from tinkex.api.http import adapter

    return adapter.proxy_for(url)


def proxy_error(url: str, reason: str, status: int | None = None) -> TinkexError:
    """Return the error for the proxy for *url*; it names the variable that sets the proxy.

    :param reason: why the proxy failed, as text for the message.
    :param status: the HTTP status of the proxy's response, if the proxy rejected the request.
    """
    from tinkex.api.http import adapter

    host, proxy = host_of(url), proxy_for(url) or ""
    if status is not None:
        return adapter.proxy_refusal(status, host, proxy)
    message = f"the HTTP proxy for {host} failed: {reason}"
    return Unreachable(message, hint=adapter.proxy_hint(proxy))


def suspension_error(url: str, end: float) -> TinkexError | None:
    """Return the error for an exchange that failed long after its time limit, or ``None``.

    In this case, the process was suspended (Ctrl-Z). If a pool raises this error, tinkex does not
    count the time of the suspension. It sends the request again if the request may be repeated.

    :param end: when the time limit ended, by ``time.monotonic()``.
    """
    late = time.monotonic() - end
    return suspended(host_of(url), late) if late > LATE else None


def authorities(options: PoolOptions) -> bytes:
    """Return the certificates of the trusted authorities in PEM; empty: verify nothing.

    :raises SettingsError: a variable names a path that does not exist.
    """
    path = pools.authorities(options)
    if path is None:
        return b""
    files = pools.hashed_files(path) if os.path.isdir(path) else [path]
    return b"\n".join(Path(file).read_bytes() for file in files)
