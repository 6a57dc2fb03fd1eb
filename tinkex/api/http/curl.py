"""An HTTP pool that shows requests as curl command lines instead of sending them."""

from __future__ import annotations

import base64
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NoReturn

from tinkex.api.http.auth import HEADER
from tinkex.config.values import CLOUDFLARE
from tinkex.exceptions import RequestShown
from tinkex.plugins import HttpPool, HttpRequest, PoolOptions, PoolSettings, Sender, Timeouts

#: The shell inserts the key when the line is run; the line does not contain it.
KEY_VARIABLE = "TINKER_API_KEY"
#: Headers that curl adds by itself, or that are meaningful for one call only.
_LEFT_OUT = frozenset(
    {"accept-encoding", "connection", "content-length", "user-agent", "x-idempotency-key"}
)


class CurlPool(HttpPool):
    """Sends nothing: the first request ends the call with :class:`RequestShown`."""

    is_dry_run = True

    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender that shows requests with the TLS options of *settings*."""
        self._words = _tls_words(settings.pool_options)
        self._headers = settings.headers
        return self

    def send(self, request: HttpRequest, timeouts: Timeouts) -> NoReturn:
        """Show *request*."""
        raise RequestShown(command_line(request, self._words, self._headers))

    def close(self) -> None:
        """Do nothing."""


def _tls_words(options: PoolOptions) -> list[str]:
    words = ["--insecure"] if options.insecure else []
    pairs = {"--cert": options.client_cert, "--key": options.client_key}
    if options.ca_bundle and not options.insecure:
        is_directory = os.path.isdir(options.ca_bundle)
        pairs["--capath" if is_directory else "--cacert"] = options.ca_bundle
    return words + [shlex.quote(w) for name, path in pairs.items() if path for w in (name, path)]


def command_line(
    request: HttpRequest, options: Sequence[str] = (), secret: Mapping[str, str] | None = None
) -> str:
    """Return the curl command that sends *request*, for a POSIX shell.

    The API key is ``$TINKER_API_KEY``. A binary body is read from a pipe.

    :param options: quoted arguments for curl, placed before the others.
    :param secret: headers whose values are shown as variables: ``$X_NAME``.
    """
    words = ["curl", *options]
    body = request.body
    # curl sends data as a POST by default.
    if request.method != ("GET" if body is None else "POST"):
        words += ["--request", shlex.quote(request.method)]
    for name, value in sorted(request.headers.items()):
        if name.lower() == HEADER.lower():
            words += ["--header", f'"{HEADER}: ${KEY_VARIABLE}"']
        elif value == (secret or {}).get(name):
            variable = CLOUDFLARE.get(name, re.sub(r"\W", "_", name).upper())
            words += ["--header", f'"{name}: ${variable}"']
        elif name.lower() not in _LEFT_OUT:
            words += ["--header", shlex.quote(f"{name}: {value}")]
    before = ""
    if body is not None:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" not in text:
            words += ["--data-raw", shlex.quote(text)]
        else:
            encoded = base64.b64encode(body).decode()
            before = f"printf %s {encoded} | base64 -d | "
            words += ["--data-binary", "@-"]
    if set("[]{}") & set(request.url):
        words.append("--globoff")
    return before + " ".join([*words, shlex.quote(request.url)])
