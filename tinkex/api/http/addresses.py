"""Addresses that a server hands out: checked before anything is done with them."""

from __future__ import annotations

from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tinkex.config.values import DEFAULT_BASE_URL
from tinkex.exceptions import InvalidResponse

#: The web console of the official service; other servers have none that we know of.
_CONSOLE = "https://tinker.thinkingmachines.ai"
_PORTS = {"http": 80, "https": 443}


def joined(base: str, location: str) -> str:
    """Return the address that *location* means, seen from *base*.

    :raises InvalidResponse: it is none.
    """
    import requests

    try:
        url = urljoin(base, location.strip())
        urlsplit(url).port  # noqa: B018 - it raises for one that is none
        if url.startswith(("http:", "https:")):
            requests.PreparedRequest().prepare_url(url, None)
    except ValueError as error:  # those of requests are such as well
        raise InvalidResponse("the server hands out a malformed address") from error
    return url


def same_origin(url: str, other: str) -> bool:
    """Tell whether scheme, host and port of both addresses are equal."""
    return _origin(urlsplit(url)) == _origin(urlsplit(other))


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def console_page(base_url: str, *parts: str) -> str | None:
    """Return the page of a thing in the service's web console, or ``None`` where there is none.

    :param base_url: the service; only the official one has a console.
    :param parts: ``training_runs`` and a run, or ``checkpoints``, a run and a checkpoint's id.
    """
    if not same_origin(base_url, DEFAULT_BASE_URL):
        return None
    return "/".join([_CONSOLE, *(quote(part, safe="") for part in parts)])
