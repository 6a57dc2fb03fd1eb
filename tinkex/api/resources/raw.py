"""Any request of the API, for what has no method of its own here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tinkex.api.http import schema
from tinkex.api.http.transport import Request, Response, Transport
from tinkex.exceptions import InvalidResponse, UsageError

#: What may stand in a path unescaped; everything else is percent-encoded.
_SAFE = "/:@!$&'()*+,;=-._~%"
#: A method as RFC 9110 has it, in upper case.
_METHOD = re.compile(r"[A-Z]{1,20}")
#: The name of a header as RFC 9110 has it, and what http.client takes for its value.
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: Items that are asked for at once where nobody says how many.
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
    """Make any request of the service, with the key, and return its successful answer.

    :param path: below ``/api/v1``; with a leading slash below the base URL; or an address below
        the base URL. It may hold a query.
    :param body: is sent as JSON; bytes as they are.
    :param paginate: go on until the end of a list and return all of its pages as one.
    :raises UsageError: the path leads elsewhere, or nothing of that kind has pages.
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
    """Refuse what cannot be sent.

    :raises UsageError: as it says.
    """
    for name, value in headers.items():
        if not _HEADER.fullmatch(name):
            raise UsageError(f"not the name of a header: {name[:40]!r}")
        if not _VALUE.fullmatch(str(value)):
            raise UsageError(f"the header {name} holds a character that no header can hold")
    for name, value in params.items():
        texts = value if isinstance(value, (list, tuple)) else [value]
        if any(
            "\ud800" <= character <= "\udfff" for character in "".join(map(str, [name, *texts]))
        ):
            raise UsageError(f"the value of {name[:40]!r} is not valid Unicode")


def _below(base_url: str, path: str) -> tuple[str, dict[str, Any]]:
    """Return *path* for :class:`Request`, and its query; it stays below *base_url*.

    :raises UsageError: it does not.
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
    """Return the names and values of a query; one that is there several times has a list."""
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
        answer = transport.call(dataclasses.replace(call, params=params), deadline)
        page = answer.object()
        name = name or _list_in(page)
        found = schema.items(page, name)
        whole = whole or page
        if found and items and found == items[-len(found) :]:
            break  # the server ignores the offset: going on would never end
        items += found
        if not found or _is_last(page, len(found) < size, offset + len(items)):
            break
    return _joined(answer, whole, name, items)


def _by_cursor(transport: Transport, call: Request, deadline: Any) -> Response:
    """Join the pages of a search that names its next page."""
    body = dict(call.body or {})
    whole: dict[str, Any] = {}
    name = ""
    items: list[Any] = []
    while True:
        answer = transport.call(dataclasses.replace(call, body=body), deadline)
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
            "the answer is no page of a list", hint="Leave out --paginate to see what it is."
        )
    return names[0]


def _is_last(page: Mapping[str, Any], short: bool, end: int) -> bool:
    """Tell whether *page*, which ends at *end*, is the last one.

    :param short: it has fewer items than were asked for: some servers give fewer at a time.
    """
    cursor = page.get("cursor")
    total = cursor.get("total_count") if isinstance(cursor, Mapping) else None
    if not isinstance(total, int) or total <= 0:
        return short
    return total <= end


def _count(value: Any, name: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{name} is no whole number: {text[:40]!r}")
    return int(text)
