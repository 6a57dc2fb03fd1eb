"""Requests as curl command lines, for an HTTP pool that shows them instead of sending them."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import requests
from requests.adapters import BaseAdapter

from tinkex.api.http.auth import HEADER
from tinkex.exceptions import RequestShown
from tinkex.plugins import HttpPool

if TYPE_CHECKING:
    from tinkex.config.pools import PoolOptions
    from tinkex.settings import Settings

#: The shell puts the key here when the line is run; it never stands in the line.
KEY_VARIABLE = "TINKER_API_KEY"
#: What curl adds by itself, and what has a meaning for one call only.
_LEFT_OUT = frozenset(
    {"accept-encoding", "connection", "content-length", "user-agent", "x-idempotency-key"}
)


class CurlPool(HttpPool):
    """Sends nothing: the first request ends the call with :class:`RequestShown`."""

    #: So that nothing else is done either.
    is_dry_run = True

    def build(self, settings: Settings, *, size: int) -> BaseAdapter:
        """Return the adapter."""
        return _Showing(_tls_words(settings.pool_options))


def _tls_words(options: PoolOptions) -> list[str]:
    words = ["--insecure"] if options.insecure else []
    pairs = {"--cert": options.client_cert, "--key": options.client_key}
    if options.ca_bundle and not options.insecure:
        is_directory = os.path.isdir(options.ca_bundle)
        pairs["--capath" if is_directory else "--cacert"] = options.ca_bundle
    return words + [shlex.quote(w) for name, path in pairs.items() if path for w in (name, path)]


class _Showing(BaseAdapter):
    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self._words = words

    def send(self, request: requests.PreparedRequest, **_: Any) -> NoReturn:  # type: ignore[override]
        raise RequestShown(command_line(request, self._words))

    def close(self) -> None:
        """There is nothing to close."""


def command_line(request: requests.PreparedRequest, options: Sequence[str] = ()) -> str:
    """Return the curl command that makes *request*, for a POSIX shell.

    The API key is ``$TINKER_API_KEY``. A body that is no text comes out of a pipe.

    :param options: words for curl that go before, quoted.
    """
    words = ["curl", *options]
    body = request.body
    # A POST is what curl makes of data.
    if request.method != ("GET" if body is None else "POST"):
        words += ["--request", shlex.quote(str(request.method))]
    for name, value in sorted(request.headers.items()):
        if name.lower() == HEADER.lower():
            words += ["--header", f'"{HEADER}: ${KEY_VARIABLE}"']
        elif name.lower() not in _LEFT_OUT:
            words += ["--header", shlex.quote(f"{name}: {_text(value)}")]
    before = ""
    if body is not None:
        content = body if isinstance(body, bytes) else str(body).encode()
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" not in text:
            words += ["--data-raw", shlex.quote(text)]
        else:
            encoded = base64.b64encode(content).decode()
            before = f"printf %s {encoded} | base64 -d | "
            words += ["--data-binary", "@-"]
    url = str(request.url)
    if set("[]{}") & set(url):
        words.append("--globoff")
    return before + " ".join([*words, shlex.quote(url)])


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
