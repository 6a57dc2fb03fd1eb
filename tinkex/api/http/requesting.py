"""A call of the API, and the HTTP request that it becomes."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import requests
from requests.auth import AuthBase
from requests.structures import CaseInsensitiveDict

from tinkex.api.http.retry import REPEATABLE
from tinkex.exceptions import UsageError


class Request:
    """A call of the API; not to be changed.

    :ivar path: below ``<base>/api/v1/``, or with a leading slash below the base URL; already
        percent-encoded.
    :ivar body: is sent as JSON; bytes as they are, ``None`` not at all.
    :ivar repeatable: overrides what the method says.
    :ivar final: statuses that are never answered by a repetition: the caller sees to them.
    :ivar settled: statuses that mean, after a try that the server may have acted on, that it has.
    :ivar what: what a server lacks that does not know the path: ``publishing``.
    """

    # No dataclass, for the reasons of Answer.
    __slots__ = (
        "body",
        "final",
        "headers",
        "method",
        "params",
        "path",
        "repeatable",
        "settled",
        "what",
    )

    def __init__(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        final: frozenset[int] = frozenset(),
        settled: frozenset[int] = frozenset(),
        what: str | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.body = body
        self.params = params or {}
        self.headers = headers or {}
        self.repeatable = repeatable
        self.final = final
        self.settled = settled
        self.what = what

    def but(self, **changed: Any) -> Request:
        """Return the same call with some members *changed*."""
        return Request(**{**{name: getattr(self, name) for name in self.__slots__}, **changed})

    @property
    def is_repeatable(self) -> bool:
        """Whether the request may be made twice."""
        return self.method in REPEATABLE if self.repeatable is None else self.repeatable


def _encoded(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    text = json.dumps(body)
    if "\\ud" in text:  # half of a character, where the other half may be missing
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            bad = ascii(error.object[max(error.start - 20, 0) : error.end].rpartition('"')[2])
            raise UsageError(
                f"a text that is to be sent is not valid Unicode: {bad}",
                hint="Its bytes are not UTF-8: convert them, say with iconv.",
            ) from error
    return text.encode()


def prepared(
    common: Mapping[str, Any],
    request: Request,
    url: str,
    headers: Mapping[str, str] | None,
    auth: AuthBase,
) -> requests.PreparedRequest:
    """Return *request* ready to be sent: as Session.prepare_request, without its detours.

    :param common: headers of every request.
    :param headers: those of this one, in place of the request's own.
    """
    made = requests.PreparedRequest()
    made.prepare_method(request.method)
    if request.params:
        made.prepare_url(url, dict(request.params))
    else:
        made.url = _quoted(url)
    more = request.headers if headers is None else headers
    made.headers = CaseInsensitiveDict[Any]({**common, **more})
    made.hooks = {}
    if request.body is not None:
        made.body = _encoded(request.body)
        made.headers.setdefault("Content-Type", "application/json")
    if request.method != "GET":
        made.headers["Content-Length"] = str(len(made.body or b""))
    auth(made)
    return made


@functools.lru_cache(maxsize=64)
def _quoted(url: str) -> str:
    """Return *url* as requests would send it; a refused address raises what requests raises."""
    made = requests.PreparedRequest()
    made.prepare_url(url, None)
    return str(made.url)
