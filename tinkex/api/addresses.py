"""Addresses that a server hands out: checked before anything is done with them."""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit

from tinkex.exceptions import InvalidAnswer

_PORTS = {"http": 80, "https": 443}


def joined(base: str, location: str) -> str:
    """Return the address that *location* means, seen from *base*.

    :raises InvalidAnswer: it is none.
    """
    import requests

    try:
        url = urljoin(base, location.strip())
        urlsplit(url).port  # noqa: B018 - it raises for one that is none
        if url.startswith(("http:", "https:")):
            requests.PreparedRequest().prepare_url(url, None)
    except ValueError as error:  # those of requests are such as well
        raise InvalidAnswer("the server hands out a malformed address") from error
    return url


def same_origin(url: str, other: str) -> bool:
    """Tell whether scheme, host and port of both addresses are equal."""
    return _origin(urlsplit(url)) == _origin(urlsplit(other))


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
