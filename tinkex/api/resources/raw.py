"""Requests to any endpoint of the API, also to those without a method here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tinkex.api.http import schema
from tinkex.api.http.answers import Response
from tinkex.api.http.requesting import Request
from tinkex.api.http.transport import Transport
from tinkex.exceptions import InvalidResponse, UsageError

#: Characters of a path that are not percent-encoded.
_SAFE = "/:@!$&'()*+,;=-._~%"
#: A method as in RFC 9110, in upper case.
_METHOD = re.compile(r"[A-Z]{1,20}")
#: The name of a header as in RFC 9110, and the values that http.client accepts.
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: Default items per page.
_PAGE = 100
_HINT = "Give a path below /api/v1, such as training_runs, or below the base URL: /api/v1/healthz."


def request(
    transport: Transport,
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    paginate: bool = False,
) -> Response:
    """Send any request to the service, with the key, and return its successful response.

    :param path: below ``/api/v1``; with a leading slash below the base URL; or a URL below the
        base URL. It may have a query.
    :param body: sent as JSON; bytes are sent unchanged.
    :param paginate: request all pages of a list and return them as one.
    :raises UsageError: *path* is not below the base URL, or such a request has no pages.
    :raises tinkex.exceptions.APIError: the service refused.
    """
    method = method.upper()
    if not _METHOD.fullmatch(method):
        raise UsageError(f"not an HTTP method: {method[:40]!r}", hint="GET, POST, PUT, DELETE")
    below, query = _below(transport.base_url, path)
    _check(headers or {}, params or {})
    call = Request(method, below, body, {**query, **(params or {})}, headers or {})
    deadline = transport.deadline("an answer")
    if not paginate:
        return transport.call(call, deadline)
    if method == "GET":
        return _by_offset(transport, call, deadline)
    if method == "POST" and isinstance(body, (dict, type(None))):
        return _by_cursor(transport, call, deadline)
    raise UsageError("only a GET, or a POST with a JSON object, has pages")


def _check(headers: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Refuse headers and parameters that cannot be sent.

    :raises UsageError: one of them cannot.
    """
    for name, value in headers.items():
        if not _HEADER.fullmatch(name):
            raise UsageError(f"not a header name: {name[:40]!r}")
        if not _VALUE.fullmatch(str(value)):
            raise UsageError(f"the header {name} has a character that is not allowed in headers")
    for name, value in params.items():
        texts = value if isinstance(value, (list, tuple)) else [value]
        if any(
            "\ud800" <= character <= "\udfff" for character in "".join(map(str, [name, *texts]))
        ):
            raise UsageError(f"the value of {name[:40]!r} is not valid Unicode")


def _below(base_url: str, path: str) -> tuple[str, dict[str, Any]]:
    """Return *path* for :class:`Request`, and its query.

    :raises UsageError: it is not below *base_url*.
    """
    base = urlsplit(base_url)
    if path.startswith(("http://", "https://")):
        if not path.startswith(base_url + "/"):
            raise UsageError(f"not below the base URL {base_url}: {path[:200]!r}", hint=_HINT)
        path = path.removeprefix(base_url)
    elif base.path and path.startswith(base.path + "/"):
        path = path.removeprefix(base.path)
    where, _, query = path.partition("?")
    segments = unquote(where).replace("\\", "/").split("/")
    if not where.strip("/") or "#" in path or "://" in where or not path.isprintable():
        raise UsageError(f"not a path of the API: {path[:200]!r}", hint=_HINT)
    if where.startswith("//") or ".." in segments or "." in segments:
        raise UsageError(f"not a path below the base URL: {path[:200]!r}", hint=_HINT)
    return quote(where, safe=_SAFE), _query(query)


def _query(text: str) -> dict[str, Any]:
    """Return the names and values of a query; a repeated name has a list of values."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        found[name] = [*found[name], value] if name in found else [value]
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def _by_offset(transport: Transport, call: Request, deadline: Any) -> Response:
    """Join the pages of a list with ``limit`` and ``offset``."""
    params = dict(call.params)
    size = _count(params.get("limit", _PAGE), "limit") or _PAGE
    params["limit"] = size
    offset = _count(params.get("offset", 0), "offset")
    whole: dict[str, Any] = {}
    name = ""
    items: list[Any] = []
    while True:
        params["offset"] = offset + len(items)
        answer = transport.call(call.but(params=params), deadline)
        page = answer.object()
        name = name or _list_in(page)
        found = schema.items(page, name)
        whole = whole or page
        if found and items and found == items[-len(found) :]:
            break  # the server ignores the offset: the loop would never end
        items += found
        if not found or _is_last(page, len(found) < size, offset + len(items)):
            break
    return _joined(answer, whole, name, items)


def _by_cursor(transport: Transport, call: Request, deadline: Any) -> Response:
    """Join the pages of a search that returns a cursor for its next page."""
    body = dict(call.body or {})
    whole: dict[str, Any] = {}
    name = ""
    items: list[Any] = []
    while True:
        answer = transport.call(call.but(body=body), deadline)
        page = answer.object()
        name = name or _list_in(page)
        items += schema.items(page, name)
        whole = whole or page
        cursor = page.get("next_cursor")
        if not cursor or cursor == body.get("cursor"):
            break
        body["cursor"] = cursor
    return _joined(answer, whole, name, items)


def _joined(answer: Response, whole: dict[str, Any], name: str, items: list[Any]) -> Response:
    import json

    rest = {key: value for key, value in whole.items() if key not in ("cursor", "next_cursor")}
    return Response(answer.status, answer.headers, json.dumps(rest | {name: items}).encode())


def _list_in(page: Mapping[str, Any]) -> str:
    names = [name for name, value in page.items() if isinstance(value, list)]
    if len(names) != 1:
        raise InvalidResponse(
            "the response is not a page of a list",
            hint="Request it without pagination to see what it is.",
        )
    return names[0]


def _is_last(page: Mapping[str, Any], short: bool, end: int) -> bool:
    """Return whether *page*, which ends at *end*, is the last one.

    :param short: it has fewer items than requested; the pages of some servers are smaller.
    """
    cursor = page.get("cursor")
    total = cursor.get("total_count") if isinstance(cursor, Mapping) else None
    if not isinstance(total, int) or total <= 0:
        return short
    return total <= end


def _count(value: Any, name: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{name} is not a whole number: {text[:40]!r}")
    return int(text)
