"""What came back: status, headers and a body read within limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import requests

from tinkex.api.http.waiting import Deadline
from tinkex.exceptions import APIError, InvalidResponse, from_response

#: No answer of the API proper is anywhere near as large; a checkpoint is not one of them.
MAX_ANSWER = 256 * 1024 * 1024
_BLOCK = 64 * 1024
#: Characters that the key of a service has at least.
_REAL_KEY = 16
#: Names of content types for people.
_FORMS = {"text/html": "a web page", "text/plain": "plain text", "": "nothing"}


class Response:
    """A whole answer of the service, whatever its status; not to be changed.

    :ivar headers: names in lower case.
    """

    # No dataclass: every start would make it anew, and every request pays for freezing one.
    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> None:
        self.status = status
        self.headers = {} if headers is None else headers
        self.body = body

    @property
    def ok(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def request_id(self) -> str | None:
        """The server's id of the request, if it sent one."""
        return self.headers.get("x-request-id")

    @property
    def date(self) -> datetime | None:
        """When the server answered by its own clock, UTC; ``None`` if it does not say."""
        from email.utils import parsedate_to_datetime

        try:
            moment = parsedate_to_datetime(self.headers.get("date", ""))
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            return None

    def without(self, hidden: Callable[..., str]) -> Response:
        """Return the answer without credentials, which must not be told.

        :param hidden: see :meth:`tinkex.api.http.auth.KeyAuth.hidden`.
        """
        # In a success, a short key may be part of a name: only real ones are looked for.
        shortest = _REAL_KEY if self.ok else 0
        headers = {name: hidden(value, shortest=shortest) for name, value in self.headers.items()}
        if self.ok and self.content_type not in ("", "application/json"):
            return Response(self.status, headers, self.body)
        text = self.body.decode("utf-8", "surrogateescape")
        body = hidden(text, shortest=shortest).encode("utf-8", "surrogateescape")
        return Response(self.status, headers, body)

    def error(self) -> APIError:
        """Return the error that this answer is."""
        return from_response(self.status, self.body, self.content_type, self.headers)

    def json(self) -> Any:
        """Return the body's JSON value.

        :raises InvalidResponse: it holds none.
        """
        try:
            return json.loads(self.body.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise self._not_json() from None

    def object(self) -> dict[str, Any]:
        """Return the body's JSON object.

        :raises InvalidResponse: it holds none.
        """
        value = self.json()
        if not isinstance(value, dict):
            raise InvalidResponse(
                f"the server answered with {_json_form(value)} instead of a JSON object"
            )
        return value

    def _not_json(self) -> InvalidResponse:
        kind = "" if not self.body.strip() else self.content_type or "something"
        form = _FORMS.get(kind, kind)
        if kind.endswith("json"):
            form = "broken JSON"
        # Another program answers at this address far more often than the service breaks.
        wrong_address = kind == "text/html"
        error = InvalidResponse(
            f"the server answered with {form} instead of JSON (HTTP {self.status})",
            hint="Is the base URL right? See 'tinkex config show'." if wrong_address else None,
        )
        error.request_id = self.request_id
        return error


def read(response: requests.Response, deadline: Deadline) -> Response:
    """Read the whole *response* and give its connection back.

    :raises InvalidResponse: the body is larger than :data:`MAX_ANSWER`.
    :raises TimedOut: the deadline passes, however slowly bytes keep trickling in.
    """
    with response:
        body = bytearray()
        for block in blocks(response, _BLOCK):
            body += block
            if len(body) > MAX_ANSWER:
                raise InvalidResponse("the server's answer is too large")
            deadline.remaining()
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(response.status_code, headers, bytes(body))


def blocks(response: requests.Response, size: int) -> Iterator[bytes]:
    """Yield the decoded body as it arrives, at most *size* bytes at once."""
    raw = response.raw
    if not hasattr(raw, "read1"):  # an adapter may bring any file-like body
        yield from response.iter_content(size)
        return
    while block := raw.read1(size, decode_content=True):
        yield block


def _json_form(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "a number"
