"""Every error tinkex raises on purpose, and how it is told to a person.

::

    TinkexError
    ├── UsageError            the command line does not make sense
    ├── SettingsError         no key, a bad URL, an unreadable configuration file
    ├── LocalError            a file here: missing, unreadable, already there, disk full
    ├── PluginError           an entry point is missing or does not load
    ├── TransportError        no usable answer
    │   ├── ConnectionFailed      refused, unknown host, reset
    │   ├── TLSError              the certificate does not convince
    │   ├── TimedOut              the time given by --timeout ran out
    │   └── InvalidResponse         an answer that is not what the protocol promises
    ├── APIError              an answer of 400 or above
    │   ├── BadRequest (400, 422) · Unauthorized (401) · PaymentRequired (402)
    │   ├── Forbidden (403) · NotFound (404, 410) · NotOffered (404, 405)
    │   └── Conflict (409) · RateLimited (429) · ServerError (5xx)
    └── OperationFailed       a long-running operation ended in failure

``str(error)`` is a whole clause without the operation's name; the command line puts
``<Operation> failed. …`` before it (see :meth:`TinkexError.sentence`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

#: What plugins may use, see the page "Plugin API".
__all__ = [
    "APIError",
    "BadRequest",
    "Conflict",
    "ConnectionFailed",
    "Forbidden",
    "InvalidResponse",
    "LocalError",
    "NotFound",
    "NotOffered",
    "OperationFailed",
    "PaymentRequired",
    "PluginError",
    "RateLimited",
    "ServerError",
    "SettingsError",
    "TLSError",
    "TimedOut",
    "TinkexError",
    "TransportError",
    "Unauthorized",
    "UsageError",
    "from_response",
]

Category = Literal["user", "server"]

#: Longest excerpt of a server's own words that is shown, in characters.
MAX_DETAIL = 300


class TinkexError(Exception):
    """Base of all errors of this package.

    :param message: what happened, as a clause: ``Missing --api-key``.
    :param hint: what to type or do next; empty where there is nothing, ``None`` if not known.
    :param category: ``user`` when the person at the keyboard can mend it, ``server`` when
        trying again later may help. Each class has its own default.
    """

    default_category: ClassVar[Category] = "user"
    default_hint: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, hint: str | None = None, category: Category | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint
        self.category: Category = category or self.default_category
        self.status: int | None = None
        self.request_id: str | None = None

    def sentence(self, operation: str) -> str:
        """Return the first line a user sees; *operation* is a noun such as ``Sampling``."""
        if self.category == "user":
            return f"{operation} failed. Please check your inputs: {self}"
        return f"{operation} failed due to server or transient error. Consider retrying: {self}"

    def as_dict(self, operation: str) -> dict[str, Any]:
        """Return the members of the JSON error object."""
        return {
            "category": self.category,
            "message": self.sentence(operation),
            "hint": self.hint or None,
            "status": self.status,
            "request_id": self.request_id,
        }


class Terminated(SystemExit):
    """The process was told to end (SIGTERM, SIGHUP); not an error, and never to be swallowed."""


class RequestShown(BaseException):
    """A request was written out instead of being sent (``--curl``).

    Not an error, so nothing that goes on after errors goes on after it.

    :param lines: the requests, as command lines.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


class UsageError(TinkexError):
    """Options or arguments that do not make sense together.

    :param whole_line: the message is already the whole first line and takes no prefix.
    """

    def __init__(self, message: str, *, hint: str | None = None, whole_line: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.whole_line = whole_line

    def sentence(self, operation: str) -> str:
        return self.message if self.whole_line else super().sentence(operation)


class SettingsError(TinkexError):
    """A setting is missing, malformed or cannot be read."""


class LocalError(TinkexError):
    """A file or directory on this machine is not usable as asked."""

    default_hint = "Check the name, the permissions and the free space."


class PluginError(TinkexError):
    """An entry point is missing, claimed twice, or does not load."""


class TransportError(TinkexError):
    """No usable answer came back from the server."""

    default_category: ClassVar[Category] = "server"


class ConnectionFailed(TransportError):
    """The connection was refused, reset, or the host is not known.

    :param unsent: the server cannot have seen the request.
    """

    def __init__(self, message: str, *, hint: str | None = None, unsent: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.unsent = unsent


class TLSError(TransportError):
    """The server's certificate could not be verified."""

    default_category: ClassVar[Category] = "user"


class TimedOut(TransportError):
    """The time allowed by ``--timeout`` ran out."""

    default_hint = "Allow more time with --timeout (milliseconds, or 30s, 5m)."


class InvalidResponse(TransportError):
    """The server answered with something that the protocol does not know."""

    default_hint = "Is the address that of a Tinker service? See: tinkex config show."


class APIError(TinkexError):
    """The server answered with a status of 400 or above.

    :param status: the HTTP status.
    :param request_id: the server's id of the request, if it sent one.
    :param body: the decoded body, or its text; kept for callers, never shown whole.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        request_id: str | None = None,
        body: Any = None,
        hint: str | None = None,
        category: Category | None = None,
    ) -> None:
        super().__init__(message, hint=hint, category=category)
        self.status = status
        self.request_id = request_id
        self.body = body

    def __str__(self) -> str:
        where = f"HTTP {self.status}"
        if self.request_id:
            where += f", request {self.request_id}"
        return f"{self.message} ({where})"


class BadRequest(APIError):
    """The server refused the request as malformed (400, 422)."""


class Unauthorized(APIError):
    """The API key was not accepted (401)."""

    default_hint = "Check the key with 'tinkex config show'; --api-key or TINKER_API_KEY sets it."


class PaymentRequired(APIError):
    """The account cannot pay for the request (402)."""

    default_hint = "See the billing page of the service's console."


class Forbidden(APIError):
    """The key does not permit the request (403)."""

    default_hint = "Check which account the key belongs to; see 'tinkex config show'."


class NotFound(APIError):
    """The thing does not exist, or no longer does (404, 410)."""

    default_hint = "See what there is: tinkex checkpoint list, tinkex run list."


class NotOffered(APIError):
    """This server has no such endpoint (404 or 405 without a word about the thing asked for)."""

    default_hint = "See which server this is: tinkex config show."


class Conflict(APIError):
    """The request contradicts the present state (409)."""

    default_hint = "See what is there already: tinkex checkpoint list, tinkex checkpoint info."


class RateLimited(APIError):
    """Too many requests (429).

    :ivar retry_after: seconds the server asked to wait, if it said so.
    """

    default_category: ClassVar[Category] = "server"
    default_hint = "Wait a while, or ask for less at once."
    retry_after: float | None = None


class ServerError(APIError):
    """The server failed (5xx)."""

    default_category: ClassVar[Category] = "server"
    default_hint = "Try again in a while; if it stays, report it with the time and request id."


class OperationFailed(TinkexError):
    """A long-running operation (a *future*) ended in failure.

    The server's own category decides whether a retry is suggested.
    """

    default_category: ClassVar[Category] = "server"


_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequest,
    401: Unauthorized,
    402: PaymentRequired,
    403: Forbidden,
    404: NotFound,
    405: NotOffered,
    409: Conflict,
    410: NotFound,
    422: BadRequest,
    429: RateLimited,
}

#: Statuses below 500 that say "again, later".
_TRANSIENT = frozenset({408, 425, 429})


def from_response(
    status: int,
    body: bytes | str,
    content_type: str = "",
    headers: Mapping[str, str] | None = None,
) -> APIError:
    """Return the error for an answer of 400 or above; never raises, whatever the body.

    :param status: the HTTP status.
    :param body: the body as received; JSON, text, HTML, cut short or empty.
    :param content_type: the value of ``Content-Type``.
    :param headers: the response headers (any case), for the request id and ``Retry-After``.
    """
    headers = {key.lower(): value for key, value in (headers or {}).items()}
    decoded = _decode(body, content_type)
    detail = detail_of(decoded)
    cls = _class_for(status, detail)
    error = cls(
        detail or _stock_phrase(status),
        status=status,
        request_id=headers.get("x-request-id") or headers.get("cf-ray"),
        body=decoded,
        category="server" if status >= 500 or status in _TRANSIENT else "user",
    )
    if isinstance(error, RateLimited):
        error.retry_after = _seconds(headers.get("retry-after"))
    return error


def detail_of(body: Any) -> str:
    """Return the server's own words out of a decoded error body, on one line, or ``''``.

    Knows ``{"detail": "…"}``, FastAPI's ``{"detail": [{"loc", "msg"}, …]}``,
    ``{"error": …}``, ``{"message": …}`` and plain text; HTML yields nothing.
    """
    try:
        return _detail(body)
    except RecursionError:  # no server means that
        return ""


def _detail(body: Any) -> str:
    if isinstance(body, Mapping):
        for key in ("detail", "error", "message"):
            if body.get(key):
                return _detail(body[key])
        return ""
    if isinstance(body, list):
        return _one_line("; ".join(filter(None, map(_validation_item, body))))
    if isinstance(body, str):
        return "" if body.lstrip().startswith("<") else _one_line(body)
    return ""


def _validation_item(item: Any) -> str:
    if not isinstance(item, Mapping):
        return _detail(item)
    loc = item.get("loc")
    parts = [str(p) for p in loc if isinstance(p, (str, int))] if isinstance(loc, list) else []
    where = ".".join(part for part in parts if part != "body")
    what = _detail(item.get("msg")) or _detail(item.get("detail"))
    return f"{where}: {what}" if where and what else where or what


def _one_line(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"


def _decode(body: bytes | str, content_type: str) -> Any:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if "json" in content_type or text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _class_for(status: int, detail: str) -> type[APIError]:
    # A server without the route answers 404 with a framework's stock phrase or nothing;
    # a 404 about a missing thing names it.
    if status == 404 and detail.lower() in ("", "not found"):
        return NotOffered
    if status >= 500:
        return ServerError
    return _BY_STATUS.get(status, BadRequest if status in (406, 413, 415) else APIError)


def _stock_phrase(status: int) -> str:
    from http import HTTPStatus

    if status >= 500:
        return "API request failed"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "API request failed"


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value) if value is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < 86400 else None
