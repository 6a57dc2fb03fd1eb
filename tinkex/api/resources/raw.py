"""Requests to any endpoint of the API, including those that this client has no method for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from tinkex.api.http import schema
from tinkex.api.http.pagination import total_count
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Response, Transport
from tinkex.exceptions import InvalidResponse, UsageError

#: Characters of a path that are not percent-encoded.
_SAFE = "/:@!$&'()*+,;=-._~%"
#: A method as in RFC 9110, in upper case.
_METHOD = re.compile(r"[A-Z]{1,20}")
#: The name of a header as in RFC 9110, and the values that http.client accepts.
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: Default number of items per page.
_PAGE = 100
_HINT = (
    "Use a path relative to /api/v1, such as training_runs, or to the base URL, such as "
    "/api/v1/healthz."
)


def request(transport: Transport, given: Request, *, paginate: bool = False) -> Response:
    """Check and send *given*; see :meth:`tinkex.api.ServiceClient.request`."""
    method, body = given.method.upper(), given.body
    if not _METHOD.fullmatch(method):
        raise UsageError(
            f"not an HTTP method: {method[:40]!r}", hint="Use GET, POST, PUT or DELETE."
        )
    below, query = _below(transport.base_url, given.path)
    _check(given.headers, given.params)
    call = Request(method, below, body, {**query, **given.params}, given.headers)
    deadline = transport.deadline("a response")
    if not paginate:
        return transport.call(call, deadline)
    if method == "GET":
        return _joined(_by_offset(transport, call, deadline))
    if method == "POST" and isinstance(body, (dict, type(None))):
        return _joined(_by_cursor(transport, call, deadline))
    raise UsageError("only a GET request, or a POST request with a JSON object, can be paginated")


def _check(headers: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Raise an error for headers and parameters that cannot be sent."""
    for name, value in headers.items():
        if not _HEADER.fullmatch(name):
            raise UsageError(f"not a header name: {name[:40]!r}")
        if not _VALUE.fullmatch(str(value)):
            raise UsageError(f"the value of the header {name} contains an invalid character")
    for name, value in params.items():
        texts = value if isinstance(value, (list, tuple)) else [value]
        try:
            "".join(map(str, [name, *texts])).encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the parameter {name[:40]!r} is not valid Unicode") from error


def _below(base_url: str, path: str) -> tuple[str, dict[str, Any]]:
    """Split *path* into a path for :class:`Request` and a query.

    :raises UsageError: it is not below *base_url*.
    """
    if path.startswith(("http://", "https://")):
        if not path.startswith(base_url + "/"):
            raise UsageError(
                f"the URL does not begin with the base URL {base_url}: {path[:200]!r}", hint=_HINT
            )
        path = path.removeprefix(base_url)
    where, _, query = path.partition("?")
    segments = unquote(where).replace("\\", "/").split("/")
    if not where.strip("/") or "#" in path or "://" in where or not path.isprintable():
        raise UsageError(f"not an API path: {path[:200]!r}", hint=_HINT)
    if where.startswith("//") or ".." in segments or "." in segments:
        raise UsageError(f"not a path below the base URL: {path[:200]!r}", hint=_HINT)
    values = parse_qs(query, keep_blank_values=True)
    return quote(where, safe=_SAFE), {k: v if len(v) > 1 else v[0] for k, v in values.items()}


def _by_offset(transport: Transport, call: Request, deadline: Deadline) -> Iterator[Response]:
    """Yield the pages of a list with ``limit`` and ``offset``."""
    size = _count(call.params.get("limit", _PAGE), "limit") or _PAGE
    offset = _count(call.params.get("offset", 0), "offset")
    before: list[Any] = []
    while True:
        params = {**call.params, "limit": size, "offset": offset}
        answer = transport.call(dataclasses.replace(call, params=params), deadline)
        page = answer.object()
        found = page[_list_in(page)]
        if found and found == before:
            return  # the server ignores the offset: the loop would never end
        yield answer
        before, offset = found, offset + len(found)
        # The pages of some servers are smaller than requested, and some report a total of 0.
        total = total_count(page)
        if not found or (offset >= total if total else len(found) < size):
            return


def _by_cursor(transport: Transport, call: Request, deadline: Deadline) -> Iterator[Response]:
    """Yield the pages of a search that returns a cursor for its next page."""
    body = dict(call.body or {})
    while True:
        answer = transport.call(dataclasses.replace(call, body=body), deadline)
        yield answer
        cursor = answer.object().get("next_cursor")
        if not cursor or cursor == body.get("cursor"):
            return
        body["cursor"] = cursor


def _joined(answers: Iterator[Response]) -> Response:
    """Return the first page with the items of all pages."""
    from tinkex.columns import json_dumps

    first = next(answers)
    whole = first.object()
    name = _list_in(whole)
    items = whole[name]
    for answer in answers:
        items += schema.items(answer.object(), name)
    rest = {key: value for key, value in whole.items() if key not in ("cursor", "next_cursor")}
    return Response(first.status, first.headers, json_dumps(rest).encode())


def _list_in(page: Mapping[str, Any]) -> str:
    names = [name for name, value in page.items() if isinstance(value, list)]
    if len(names) != 1:
        raise InvalidResponse(
            "cannot paginate a response that does not contain exactly one JSON array",
            hint="Repeat the request without pagination to see the response.",
            category="user",
        )
    return names[0]


def _count(value: Any, name: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{name} is not a whole number: {text[:40]!r}")
    return int(text)
