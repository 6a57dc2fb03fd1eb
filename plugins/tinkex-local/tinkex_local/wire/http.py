"""The layer between bottle and the service: request bodies, JSON responses and errors."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import bottle

from tinkex_local.access import EXPIRED
from tinkex_local.problems import Problem, note_fault
from tinkex_local.state.store import is_damaged, reason
from tinkex_local.wire import bodies

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: Largest request body in bytes; a multiple of the longest prompt of a large model.
MAX_BODY = 16 * 1024 * 1024
#: The key of a body that was read, in the WSGI environment.
_READ = "tinkex_local.body"

_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_B = TypeVar("_B", bound=bodies.Body)


def body_as(kind: type[_B]) -> _B:
    """Return the decoded body of the current request.

    :raises Problem: it is too large (413), encoded (415), not JSON (400) or invalid (422).
    """
    return bodies.decode(body_bytes() or b"{}", kind)


def body_bytes() -> bytes:
    """Return the body of the current request; may be called more than once.

    :raises Problem: it is too large (413), encoded (415) or incomplete (400).
    """
    given = environ()
    if _READ in given:
        return bytes(given[_READ])
    if given.get("HTTP_CONTENT_ENCODING", "identity").lower() not in ("identity", ""):
        raise Problem(415, "Content-Encoding must be identity or omitted")
    try:
        length = int(given.get("CONTENT_LENGTH") or 0)
    except ValueError as error:
        raise Problem(400, "Content-Length is not a number") from error
    if length > MAX_BODY:
        raise Problem(413, f"The body is larger than {MAX_BODY} bytes")
    raw = given["wsgi.input"].read(length) if length > 0 else b""
    if len(raw) < length:
        raise Problem(400, "The body is shorter than its Content-Length")
    given[_READ] = raw
    return raw


def environ() -> dict[str, Any]:
    """Return the WSGI environment of the current request."""
    value: dict[str, Any] = bottle.request.environ
    return value


def own_url() -> str:
    """Return the base URL that the current request was sent to, without a path."""
    parts = bottle.request.urlparts
    return f"{parts.scheme}://{parts.netloc}"


def page(default: int, largest: int) -> tuple[int, int]:
    """Return ``limit`` and ``offset`` of the current request.

    :raises Problem: one of them is not a number or out of range.
    """
    return _number("limit", default, largest), _number("offset", 0, 2**53)


def check_scope() -> None:
    """Check ``access_scope``; there is only one account, so both values mean the same.

    :raises Problem: it is neither ``owned`` nor ``accessible``.
    """
    if query_values().get("access_scope", "owned") not in ("owned", "accessible"):
        message = "must be 'owned' or 'accessible'"
        raise Problem(422, [{"type": "enum", "loc": ["query", "access_scope"], "msg": message}])


def query_values() -> dict[str, str]:
    """Return the query parameters of the current request; the last of repeated names counts."""
    return dict(parse_qsl(environ().get("QUERY_STRING", "")))


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    """Return a JSON response."""
    return raw(json.dumps(value).encode(), "application/json", status, headers)


def raw(
    content: Any, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Any:
    """Return a response with *content*: bytes or an iterator of them."""
    response = bottle.HTTPResponse(content, status)
    response.set_header("Content-Type", content_type)
    for name, value in (headers or {}).items():
        response.set_header(name, value)
    return response


def file_of(directory: Path, name: str) -> Any:
    """Return a response with a file, or with the range that the request specifies."""
    return bottle.static_file(name, str(directory), mimetype="application/octet-stream")


def problem(error: Problem) -> Any:
    """Return the response that reports *error*."""
    # For clients that retry every 409.
    headers = {"X-Should-Retry": "false"} if error.status == 409 else {}
    return answer({"detail": error.detail}, error.status, headers)


class Routes:
    """A WSGI application with routes below a prefix.

    Handlers return a dictionary (sent as JSON), ``None`` (no content) or a response.

    :param home: the directory of the state, for error messages.
    :param refusal: returns why a request (a WSGI environment) is rejected (401), or ``None``.
    """

    def __init__(
        self, prefix: str, home: Path, refusal: Callable[[WSGIEnvironment], str | None]
    ) -> None:
        self._prefix = prefix
        self._home = home
        self._app = bottle.Bottle()
        self._app.default_error_handler = _on_error
        self._app.add_hook("before_request", lambda: _refuse(refusal(environ())))

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        result: Iterable[bytes] = self._app(environ, start)
        return result

    def on(self, method: str, path: str) -> Callable[[_Handler], _Handler]:
        """Return a decorator for the handler of *method* and *path*."""

        def add(handler: _Handler) -> _Handler:
            callback = _guarded(handler, self._home)
            self._app.route(f"{self._prefix}/{path}", method, callback=callback)
            return handler

        return add


def _guarded(handler: Callable[..., Any], home: Path) -> Callable[..., Any]:
    """Wrap *handler* to convert its exceptions to responses."""

    def call(*args: Any, **values: Any) -> Any:
        try:
            result = handler(*args, **values)
        except Problem as error:
            return problem(error)
        except bottle.HTTPResponse:
            raise
        except sqlite3.OperationalError as error:
            # Not logged, because the client, often in this process, reports it.
            return problem(
                Problem(503, f"The service state is currently unavailable: {reason(error, home)}")
            )
        except OSError as error:  # files were removed, or the disk failed
            words = f"Cannot access the service state: {error.strerror or error}"
            return problem(Problem(500, words))
        except Exception as error:
            if is_damaged(error):
                again = "run 'tinkex local reset' to start over"
                return problem(Problem(500, f"The service state is damaged ({error}); {again}"))
            note_fault(bottle.request.path, error)
            return problem(Problem(500, "Internal error"))
        if result is None:
            return bottle.HTTPResponse(status=204)
        return answer(result) if isinstance(result, dict) else result

    return call


def _on_error(error: Any) -> Any:
    """Return the response for errors from bottle: unknown route, wrong method."""
    if error.exception is not None:
        note_fault(bottle.request.path, error.exception)
    detail = HTTPStatus(error.status_code).phrase
    bottle.response.content_type = "application/json"
    return json.dumps({"detail": detail})


def _refuse(refusal: str | None) -> None:
    if refusal:
        response = problem(Problem(401, refusal))
        if refusal == EXPIRED:
            response.set_header("WWW-Authenticate", 'Bearer error="invalid_token"')
        raise response


def _number(name: str, default: int, largest: int) -> int:
    text = query_values().get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 17):
        message = "must be a whole number >= 0"
        finding = {"type": "int_parsing", "loc": ["query", name], "msg": message}
        raise Problem(422, [finding])
    return min(int(text), largest)
