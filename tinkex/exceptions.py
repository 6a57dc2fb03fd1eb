"""The exceptions that tinkex raises.

::

    TinkexError
    ├── UsageError              invalid or contradictory arguments
    │   └── InvalidName             no checkpoint or training run has this name
    ├── SettingsError           no key, a bad URL, an unreadable configuration file
    ├── LocalError              a local file or directory cannot be used
    │   ├── LimitReached            too many open files or threads
    │   ├── TargetExists            a file already exists
    │   └── TargetInUse             another process is writing to the same place
    ├── SharedName              another checkpoint has the same name and may be changed instead
    ├── TokenizerError          no usable tokenizer
    │   └── ChatTemplateError       no usable chat template
    ├── PluginError             an entry point is missing or does not load
    ├── TransportError          no usable response
    │   ├── ConnectionFailed        reset, closed early, proxy failure
    │   │   └── Unreachable             unknown host, connection refused
    │   ├── TLSError                no TLS connection, or an untrusted certificate
    │   ├── TimedOut                the time limit was exceeded
    │   └── InvalidResponse         a response that the protocol does not allow
    │       └── Redirected              a redirect that would send the key to another server
    ├── APIError                a response with a status of 400 or above
    │   ├── BadRequest (400, 422) · Unauthorized (401) · PaymentRequired (402)
    │   ├── Forbidden (403) · NotFound (404, 410) · NotOffered (404, 405, 501)
    │   └── Conflict (409) · RateLimited (429) · ServerError (5xx)
    ├── OperationFailed         a long-running operation failed
    └── LogprobsUnavailable     the server does not return the requested logprobs

``str(error)`` is a clause without the name of the operation. The command line adds ``<Operation>
failed. …`` (see :meth:`TinkexError.sentence`) and, for each class, a hint about its options and
commands.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Literal

Category = Literal["user", "server", "bug"]

#: Maximum length of the server's own message that is shown, in characters.
MAX_DETAIL = 300
#: Matches an API key, a JSON Web Token, or a hub token, but not in a path.
_KEY = re.compile(r"(?<![\w/-])(?:tml-|eyJ|hf_|sk-)[\w.=-]{12,}")


def without_keys(text: str) -> str:
    """Return *text* with everything that looks like a key masked: ``tml-…9f3c``."""
    return _KEY.sub(lambda found: f"{found[0][:4]}…{found[0][-4:]}", text)


class TinkexError(Exception):
    """The base class of all exceptions of this package.

    :param message: what happened, as a clause: ``Missing --api-key``; keys in it are masked,
        because it may repeat user input with a misplaced key.
    :param hint: what to do next, as a sentence; empty for no hint; ``None``: the command line shows
        its hint for the class.
    :param category: ``user`` if the caller can fix it, ``server`` if a retry may help, ``bug`` if
        tinkex or a plugin has to be fixed. The default depends on the class.
    :ivar status: the HTTP status, for a server error.
    :ivar request_id: the server's id of the request, if it sent one.
    :ivar aftermath: what remains on the server after the failure, as a sentence.
    """

    default_category: ClassVar[Category] = "user"

    def __init__(
        self, message: str, *, hint: str | None = None, category: Category | None = None
    ) -> None:
        message = without_keys(message)
        super().__init__(message)
        self.message = message
        self.hint = hint and without_keys(hint)
        self.category: Category = category or self.default_category
        self.status: int | None = None
        self.request_id: str | None = None
        self.aftermath: str | None = None

    def sentence(self, operation: str) -> str:
        """Return the first line of the message; *operation* is a noun such as ``Sampling``."""
        if self.category == "user":
            return f"{operation} failed. Please check your inputs: {self}"
        if self.category == "bug":
            return f"{operation} failed: {self}"
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
    """The process received SIGTERM or SIGHUP; not an ``Exception``, so it is never suppressed."""


class RequestShown(BaseException):
    """Requests were printed as curl command lines instead of being sent.

    Not an ``Exception``, so that error handling does not catch it.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


class UsageError(TinkexError):
    """Arguments are invalid or contradict each other.

    :param whole_line: the message is the whole first line, without a prefix.
    """

    def __init__(self, message: str, *, hint: str | None = None, whole_line: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.whole_line = whole_line

    def sentence(self, operation: str) -> str:
        return self.message if self.whole_line else super().sentence(operation)


class InvalidName(UsageError):
    """A name of a checkpoint or training run is malformed, or does not exist.

    :param resource: the kind of name: ``checkpoint``, ``run`` or ``alias``.
    """

    def __init__(
        self, message: str, *, resource: str = "checkpoint", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.resource = resource


class SettingsError(TinkexError):
    """A setting is missing, malformed or cannot be read."""


class LocalError(TinkexError):
    """A local file or directory cannot be read, written or used."""


class LimitReached(LocalError):
    """The limit on open files or threads of the process or the machine is reached."""


class TargetExists(LocalError):
    """A file or directory already exists and may not be replaced."""


class TargetInUse(LocalError):
    """Another process is writing to the same place."""


class SharedName(TinkexError):
    """Another checkpoint has the same name, and the server may change that one instead."""


class TokenizerError(TinkexError):
    """A tokenizer is missing or unusable."""


class ChatTemplateError(TokenizerError):
    """A tokenizer has no usable chat template."""


class PluginError(TinkexError):
    """An entry point is missing, defined twice, or does not load."""


class TransportError(TinkexError):
    """The server sent no usable response."""

    default_category: ClassVar[Category] = "server"


class ConnectionFailed(TransportError):
    """The connection failed.

    :ivar suspended: seconds beyond a time limit for which the process was suspended (Ctrl-Z).
    """

    suspended = 0.0


class Unreachable(ConnectionFailed):
    """No connection could be made: an unknown host, no response, or a refused connection.

    The server has not seen the request, so any request may be sent again.
    """


class TLSError(TransportError):
    """No TLS connection could be made, or the server's certificate is not trusted."""

    default_category: ClassVar[Category] = "user"


class TimedOut(TransportError):
    """The time limit was exceeded."""


class InvalidResponse(TransportError):
    """The server sent a response that the protocol does not allow."""


class Redirected(InvalidResponse):
    """The server redirects to another server, which must not receive the API key.

    :param location: base URL of the other server; empty if it does not look like an API address.
    """

    def __init__(self, message: str, *, location: str) -> None:
        super().__init__(message)
        self.location = location


class APIError(TinkexError):
    """The server sent a response with a status of 400 or above.

    :param body: the decoded body, or its text; for callers, not shown to the user as a whole.
    :ivar resource: the kind of resource, if known: ``checkpoint``, ``run``, ``session`` or
        ``model``.
    """

    resource: str | None = None

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
    """The server rejected the request as malformed (400, 422)."""

    def sentence(self, operation: str) -> str:
        if _is_about_filled_in(self.body):
            return f"{operation} failed: {self}"
        return super().sentence(operation)


class Unauthorized(APIError):
    """The API key was not accepted (401).

    :ivar key_origin: the source of the key, such as ``TINKER_API_KEY``, if known.
    """

    key_origin: str | None = None


class PaymentRequired(APIError):
    """The account cannot pay for the request (402)."""


class Forbidden(APIError):
    """The API key is not permitted to make this request (403)."""


class NotFound(APIError):
    """The resource does not exist, or no longer exists (404, 410)."""


class NotOffered(APIError):
    """This server has no such endpoint (405, 501, or 404 without naming a resource)."""


class Conflict(APIError):
    """The request conflicts with the current state (409)."""


class RateLimited(APIError):
    """Too many requests (429).

    :ivar retry_after: seconds to wait as requested by the server, or ``None``.
    """

    default_category: ClassVar[Category] = "server"
    retry_after: float | None = None


class ServerError(APIError):
    """The server failed (5xx)."""

    default_category: ClassVar[Category] = "server"


class OperationFailed(TinkexError):
    """A long-running operation (a *future*) failed.

    The category that the server reports decides whether a retry is suggested.
    """

    default_category: ClassVar[Category] = "server"


class LogprobsUnavailable(TinkexError):
    """The server does not return the requested logprobs."""


_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequest,
    401: Unauthorized,
    402: PaymentRequired,
    403: Forbidden,
    404: NotFound,
    405: NotOffered,
    406: BadRequest,
    409: Conflict,
    410: NotFound,
    413: BadRequest,
    415: BadRequest,
    422: BadRequest,
    429: RateLimited,
    501: NotOffered,
}
#: First line of a Python traceback.
TRACEBACK = "Traceback (most recent call last)"
#: Messages of web frameworks for a missing route.
NO_ROUTE = frozenset({"", "not found", "method not allowed", "not implemented"})
#: Members of requests that tinkex sets without user input.
_FILLED_IN = frozenset(
    {
        *("user_metadata", "session_id", "model_id", "sampling_session_id", "request_id", "type"),
        *("seq_id", "session_seq_id", "model_seq_id", "sampling_session_seq_id", "sdk_version"),
        "allow_metadata_only",
    }
)
_FILLED_IN_HINT = (
    "This server rejects a field that tinkex always sends. Report this error, and which server "
    "software you use, to the maintainers of tinkex."
)

#: Statuses below 500 after which a retry may help.
_TRANSIENT = frozenset({408, 425, 429})


def from_response(
    status: int,
    body: bytes | str,
    content_type: str = "",
    headers: Mapping[str, str] | None = None,
) -> APIError:
    """Create the error for a response of 400 or above; never raises, even for a malformed body.

    :param body: the body as received; JSON, text, HTML, truncated or empty.
    :param headers: the response headers (any case), for the request id and ``Retry-After``.
    """
    headers = {key.lower(): value for key, value in (headers or {}).items()}
    decoded = _decode(body, content_type)
    detail = detail_of(decoded)
    # A server without the route responds with a standard message of its framework, or not in JSON;
    # a 404 for a missing resource names it.
    stock = isinstance(decoded, str) or detail.lower().rstrip(".") in ("", "not found")
    no_route = status == 404 and stock
    cls = _BY_STATUS.get(status, ServerError if status >= 500 else APIError)
    if status == 400 and "api key" in detail.lower():  # a key is missing
        cls = Unauthorized
    phrases = {known.value: known.phrase for known in HTTPStatus if known < 500}
    error = (NotOffered if no_route else cls)(
        detail or phrases.get(status, "API request failed"),
        status=status,
        request_id=headers.get("x-request-id") or headers.get("cf-ray"),
        body=decoded,
        hint=_FILLED_IN_HINT if _is_about_filled_in(decoded) else None,
        category="server" if cls is ServerError or status in _TRANSIENT else "user",
    )
    if isinstance(error, RateLimited):
        with contextlib.suppress(ValueError):
            seconds = float(headers.get("retry-after", ""))
            error.retry_after = seconds if 0 <= seconds < 86400 else None
    return error


def detail_of(body: Any) -> str:
    """Return the server's message in a decoded error body, on one line, or ``''``.

    Understands ``{"detail": "…"}``, FastAPI's ``{"detail": [{"loc", "msg"}, …]}``, plain text, and
    objects with ``message``, ``error_message``, ``error`` or ``reason``, also nested. HTML is
    ignored, and only the last line of a traceback is returned. A sentence takes precedence over an
    error code.
    """
    words = words_of(body).strip()
    text = words.splitlines()[-1] if TRACEBACK in words else words
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"


def words_of(body: Any, depth: int = 8) -> str:
    """Return the unshortened message in a decoded error body; see :func:`detail_of`.

    :param depth: maximum number of nested objects to search.
    """
    if isinstance(body, Mapping) and depth:
        if detail := words_of(body.get("detail"), depth - 1):
            return detail
        names = ("message", "error_message", "error", "reason")
        found = [words for name in names if (words := words_of(body.get(name), depth - 1))]
        return next((words for words in found if " " in words), "".join(found[:1]))
    if isinstance(body, list):
        return "; ".join(filter(None, map(_validation_item, body)))
    return "" if not isinstance(body, str) or body.lstrip().startswith("<") else body


def _is_about_filled_in(body: Any) -> bool:
    """Return whether an error body rejects only members that tinkex sets without user input."""
    detail = body.get("detail") if isinstance(body, Mapping) else None
    items = detail if isinstance(detail, list) else []
    places = [item.get("loc") if isinstance(item, Mapping) else None for item in items]
    return bool(places) and all(
        isinstance(place, list) and str((place or [""])[-1]) in _FILLED_IN for place in places
    )


def _validation_item(item: Any) -> str:
    if not isinstance(item, Mapping):
        return item if isinstance(item, str) else ""
    loc = item.get("loc")
    parts = [str(p) for p in loc if isinstance(p, (str, int))] if isinstance(loc, list) else []
    where = ".".join(part for part in parts if part != "body")
    what = item.get("msg") or item.get("detail")
    return ": ".join(filter(None, (where, what if isinstance(what, str) else "")))


def _decode(body: bytes | str, content_type: str) -> Any:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if "json" in content_type or text[:1] in ("{", "["):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    return text


def a_few(names: Sequence[str], most: int = 8, *, total: int | None = None) -> str:
    """Join *names* for a message: ``a, b and 3 more``.

    :param most: maximum number of names shown.
    :param total: total number of names, if more than in *names*.
    """
    more = (total or len(names)) - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


#: The public names, see the page "Plugin API": all exceptions, and their creation from a response.
__all__ = ["from_response"] + [
    name
    for name, value in globals().items()
    if isinstance(value, type) and issubclass(value, TinkexError)
]
