"""API calls: HTTP requests, retries, redirects and responses.

This module contains what all HTTP pools share: the key, retries, redirects, deadlines.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urljoin, urlsplit, urlunsplit

from tinkex import plugins
from tinkex.api.http import errors
from tinkex.api.http.auth import HEADER, JWT_PREFIX, KeyAuth
from tinkex.api.http.retry import LATE, REPEATABLE, Deadline, OnWait, Retrying, Wait
from tinkex.columns import printable
from tinkex.exceptions import (
    NO_ROUTE,
    TRACEBACK,
    APIError,
    ConnectionFailed,
    InvalidResponse,
    NotOffered,
    RateLimited,
    Redirected,
    SettingsError,
    TimedOut,
    TinkexError,
    Unauthorized,
    UsageError,
    detail_of,
    from_response,
    words_of,
)
from tinkex.plugins import HttpRequest, HttpResponse, Timeouts
from tinkex.version import __version__

if TYPE_CHECKING:
    from tinkex.settings import Settings

#: Seconds to wait for a connection.
CONNECT_TIMEOUT = 5.0
#: Seconds to wait for a response before a repeatable request is sent again.
READ_TIMEOUT = 60.0
#: The version of the official SDK whose protocol tinkex implements; servers check it.
PROTOCOL_VERSION = "0.38.0"
#: Headers of every request.
HEADERS = {"User-Agent": f"tinkex/{__version__}", "Accept": "application/json"}
#: Maximum size of an API response in bytes; file downloads are not limited.
MAX_RESPONSE = 256 * 1024 * 1024
#: Statuses of a redirect; the last two keep the method and the body.
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SAME_REQUEST = frozenset({307, 308})
#: Maximum number of redirects followed for one request.
_HOPS = 5
#: Hint after a 429 without a retry time, for a request that creates something.
_LIMIT_HINT = (
    "The server limits concurrent sessions. Stop another program that is sampling or training, or "
    "wait for idle sessions to end."
)
_CHUNK, _BEGINNING = 64 * 1024, 1024
#: Minimum length of an API key.
_REAL_KEY = 16
#: Names of content types for messages.
_FORMS = {"text/html": "a web page", "text/plain": "plain text", "": "nothing"}
#: The characters of a URL that are not percent-encoded.
_SAFE = "!#$%&'()*+,/:;=?@[]~"
_PORTS = {"http": 80, "https": 443}
_encode = json.JSONEncoder(ensure_ascii=False).encode
_HOST = re.compile(r"[A-Za-z0-9._~-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._~-]+)?")

_log = logging.getLogger("tinkex.http")


@dataclasses.dataclass(slots=True)
class Request:
    """An API call; immutable.

    :ivar path: below ``<base>/api/v1/``, or with a leading slash below the base URL; already
        percent-encoded.
    :ivar body: sent as JSON; bytes are sent unchanged; ``None`` for no body.
    :ivar repeatable: whether the call may be made twice; ``None``: depends on the method.
    :ivar final: statuses that are neither retried nor followed: the caller handles them.
    :ivar settled: statuses that mean success if an earlier attempt may have had an effect.
    :ivar what: name of the feature that a server without this path lacks: ``publishing``.
    :ivar keyless: whether to send the request without the key.
    :ivar is_enough: returns whether the part of the body read so far, up to 1 KiB, is sufficient.
    """

    method: str
    path: str
    body: Any = None
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeatable: bool | None = None
    final: frozenset[int] = frozenset()
    settled: frozenset[int] = frozenset()
    what: str | None = None
    keyless: bool = False
    is_enough: Callable[[Response], bool] | None = None

    @property
    def is_repeatable(self) -> bool:
        """Whether the call may be made twice."""
        return self.method in REPEATABLE if self.repeatable is None else self.repeatable


@dataclasses.dataclass(slots=True)
class Response:
    """A complete response of the service, with any status; immutable.

    :ivar headers: by their names in lower case.
    """

    status: int
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the status means success."""
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
        """When the server responded, by its own clock in UTC; ``None`` if not reported."""
        from email.utils import parsedate_to_datetime

        try:
            return parsedate_to_datetime(self.headers.get("date", "")).astimezone(UTC)
        except (ValueError, OverflowError):
            return None

    def without(self, hidden: Callable[..., str]) -> Response:
        """Return the response with credentials masked; some services repeat them.

        :param hidden: see :meth:`tinkex.api.http.auth.KeyAuth.hidden`.
        """
        # In a successful response, a short key may be part of a name: only full-length keys are
        # masked.
        shortest = _REAL_KEY if self.ok else 0
        headers, body = self.headers, self.body
        values = "\n".join(headers.values())
        masked = hidden(values, shortest=shortest)
        if masked != values:
            headers = dict(zip(headers, masked.split("\n"), strict=True))
        if not self.ok or self.content_type in ("", "application/json"):
            text = body.decode("utf-8", "surrogateescape")
            masked = hidden(text, shortest=shortest)
            if masked != text:
                body = masked.encode("utf-8", "surrogateescape")
        return Response(self.status, headers, body)

    def error(self) -> APIError:
        """Return the response as an error."""
        return from_response(self.status, self.body, self.content_type, self.headers)

    def json(self) -> Any:
        """Return the JSON value of the body.

        :raises InvalidResponse: the body is not JSON.
        """
        try:
            return json.loads(self.body.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            kind = "" if not self.body.strip() else self.content_type or "something"
            form = "malformed data" if kind.endswith("json") else _FORMS.get(kind, kind)
            error = InvalidResponse(
                f"the server returned {form} instead of JSON (HTTP {self.status})"
            )
            error.request_id = self.request_id
            raise error from None

    def object(self) -> dict[str, Any]:
        """Return the JSON object of the body.

        :raises InvalidResponse: the body is not a JSON object.
        """
        value = self.json()
        if not isinstance(value, dict):
            raise InvalidResponse("the server returned JSON that is not an object")
        return value


class Transport:
    """Sends API calls to one service with one key.

    :param settings: base URL, key, HTTP pool and timeout.
    :param on_wait: called for every wait, see :class:`tinkex.api.Wait`.
    :param pool: the pool to use instead of the one in the settings.
    :ivar missing: endpoints that the service lacks, so that they are not requested again. An
        endpoint is added only after its substitute has worked: an outage must not be treated as a
        missing endpoint. The last substitute is always tried.
    :ivar is_dry_run: requests are shown instead of being sent, so nothing may be changed.
    :raises tinkex.exceptions.SettingsError: there is no usable key, or an option of the pool is
        invalid.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_wait: OnWait | None = None,
        pool: plugins.HttpPool | None = None,
    ) -> None:
        self.settings = settings
        self.base_url = settings.base_url.rstrip("/")
        self._on_wait = on_wait
        self.auth = KeyAuth(settings)
        self._headers = {} if settings.is_exposed else settings.headers
        own = {**self._headers, **HEADERS}
        #: Headers of every API call without a body, and with one.
        self._common = [_by_name(own), _by_name({**own, "Content-Type": "application/json"})]
        self.missing: set[str] = set()
        if pool is None:
            pool = plugins.load_driver(plugins.HTTP_POOLS, settings.pool_driver)
        settings.check_pool()
        self._sender = pool.build(settings)
        self.is_dry_run = pool.is_dry_run

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()

    def deadline(
        self, operation: str, seconds: float | None = None, *, patience: float = 0.0
    ) -> Deadline:
        """Return the deadline for *operation*, a noun such as ``the list of runs``."""
        seconds = seconds or self.settings.timeout
        return Deadline(operation, seconds, self._report, patience=patience)

    def _report(self, wait: Wait) -> None:
        if self._on_wait is not None:
            reason = wait.reason and self.auth.hidden(wait.reason)
            note = wait.note and self.auth.hidden(wait.note)
            self._on_wait(dataclasses.replace(wait, reason=reason, note=note))

    def url(self, path: str) -> str:
        """Return the URL of *path*: below the API, or, with a leading slash, below the base URL."""
        if path.startswith("/"):
            return self.base_url + path
        return f"{self.base_url}/api/v1/{path}"

    def call(self, request: Request, deadline: Deadline) -> Response:
        """Send a call, retry it where that can help, and return the successful response.

        :raises tinkex.exceptions.APIError: the service rejected the request.
        :raises tinkex.exceptions.TransportError: there was no usable response in time.
        """
        response, may_be_done = self._persist(request, deadline)
        if response.ok:
            return response
        if may_be_done and response.status in request.settled:
            return Response(204, response.headers)
        error = self.refusal(response, request.what)
        is_limit = isinstance(error, RateLimited) and error.retry_after is None
        if is_limit and request.path.startswith("create_"):
            error.hint = _LIMIT_HINT
        raise error

    def refusal(self, response: Response, what: str | None = None) -> TinkexError:
        """Return the error for the unsuccessful *response*.

        :param what: see :attr:`Request.what`.
        """
        if 300 <= response.status < 400:
            return self._redirected(response)
        error = response.error()
        if isinstance(error, NotOffered) and what:
            name_missing(error, f"this server does not offer {what}")
        log_traceback(error.body)
        if isinstance(error, Unauthorized) and self.settings.origins.get("api_key"):
            error.key_origin = self.settings.origins["api_key"]
        return error

    def _redirected(self, response: Response) -> TinkexError:
        """Return the error for a redirect that is not followed."""
        host, location = errors.host_of(self.base_url), response.headers.get("location")
        if not location:
            return InvalidResponse(
                f"{host} sent a redirect without a Location header (HTTP {response.status})"
            )
        url = join_url(self.base_url, location)
        why = "but tinkex does not send the API key there"
        if same_origin(url, self.base_url):
            why = (
                f"but tinkex follows such redirects only for GET requests (HTTP {response.status})"
            )
        base, api, _ = url.partition("/api/v1/")
        return Redirected(f"{host} redirects to {url}, {why}", location=base if api else "")

    def _persist(self, request: Request, deadline: Deadline) -> tuple[Response, bool]:
        """Retry a call; return the response, and whether an earlier attempt may have worked."""
        retrying = Retrying(request.is_repeatable)
        if request.method == "POST":
            key = {"X-Idempotency-Key": f"tinkex-{os.urandom(16).hex()}"}
            request = dataclasses.replace(request, headers={**key, **request.headers})
        while True:
            try:
                response = self.once(request, deadline)
            except (ConnectionFailed, TimedOut) as error:
                retrying.pause_after(error, deadline)
                continue
            wait = None
            if not response.ok and response.status not in request.final:
                wait = retrying.after_response(response.status, response.headers)
            if wait is None or not deadline.allows(wait):
                return response, retrying.may_be_done
            deadline.pause(wait, f"HTTP {response.status}")

    def once(
        self, request: Request, deadline: Deadline, *, read_timeout: float | None = None
    ) -> Response:
        """Send *request* once and return the response, with any status.

        After a 401, the request is sent again if the credential could be replaced.

        :param read_timeout: seconds to wait for the response.
        :raises tinkex.exceptions.TransportError: there was no response.
        """
        credential = None if request.keyless else self.auth.current
        response = self._exchange(request, credential, deadline, read_timeout)
        if response.status == 401 and not request.keyless:
            invalid = 'error="invalid_token"' in response.headers.get("www-authenticate", "")
            exchange = functools.partial(self._token, deadline=deadline)
            try:
                renewed = self.auth.renew(credential, invalid, exchange, deadline.remaining())
            except TimeoutError:  # another thread is replacing it and has more time
                raise deadline.timed_out() from None
            if renewed:
                response = self._exchange(request, self.auth.current, deadline, read_timeout)
        return response.without(self.auth.hidden)

    def _exchange(
        self,
        request: Request,
        credential: str | None,
        deadline: Deadline,
        read_timeout: float | None = None,
    ) -> Response:
        """Send *request*, follow redirects, and return the last response.

        The response may repeat the credential, which is sent only to the origin of the service.
        """
        prepared = self._prepared(request, credential)
        for _ in range(_HOPS + 1):
            response = self._sent(request, prepared, deadline, read_timeout)
            location = response.headers.get("location")
            follows = REDIRECTS if request.method in ("GET", "HEAD") else _SAME_REQUEST
            if not location or response.status not in follows - request.final:
                return response
            url = join_url(prepared.url, location).partition("#")[0]
            if not same_origin(url, self.base_url):
                return response
            prepared = prepared._replace(url=url)
        host = errors.host_of(prepared.url)
        raise InvalidResponse(f"too many redirects, the last to {host}")

    def _sent(
        self,
        request: Request,
        prepared: HttpRequest,
        deadline: Deadline,
        read_timeout: float | None,
    ) -> Response:
        start = time.monotonic()
        left = deadline.remaining()
        read = read_timeout or (READ_TIMEOUT if request.is_repeatable else left)
        timeouts = Timeouts(min(CONNECT_TIMEOUT, left), min(read, left), left)
        try:
            opened = self._send(prepared, timeouts)
            response = read_whole(opened, deadline, request.is_enough)
        except TimedOut as error:
            if (late := deadline.elapsed - deadline.seconds) > LATE:
                raise errors.suspended(errors.host_of(prepared.url), late) from error
            if not deadline.allows(0.05):  # the whole time limit was spent waiting
                raise deadline.timed_out() from error
            raise
        if _log.isEnabledFor(logging.DEBUG):
            took = round((time.monotonic() - start) * 1000)
            name = self.auth.hidden(response.request_id or "-")
            arguments = (request.method, request.path, response.status, took, name)
            _log.debug("%s %s -> %d in %d ms, request %s", *arguments)
        if response.status == 400 and not response.body:
            # Proxies in front of the service respond like this when the service is unreachable.
            raise ConnectionFailed(f"a proxy lost the connection to {errors.host_of(prepared.url)}")
        return response

    def _prepared(self, request: Request, credential: str | None) -> HttpRequest:
        url = _ascii_base(self.url(request.path))
        if request.params:
            given = {name: value for name, value in request.params.items() if value is not None}
            url += ("&" if "?" in url else "?") + urlencode(given, doseq=True)
        body = None if request.body is None else _encoded(request.body)
        headers = _merged(self._common[body is not None], request.headers, credential)
        return HttpRequest(request.method, url, headers, body)

    def open(self, url: str, headers: Mapping[str, str], timeouts: Timeouts) -> HttpResponse:
        """Send a GET to a URL from the service; return the response before its body is read.

        The key and the headers of the settings are sent only to the origin of the service, so never
        to the storage behind signed URLs.

        :raises tinkex.exceptions.TransportError: there was no response.
        """
        is_own = same_origin(url, self.base_url)
        common = {**self._headers, **HEADERS} if is_own else HEADERS
        credential = self.auth.current if is_own else None
        merged = _merged(_by_name(common), headers, credential)
        return self._send(HttpRequest("GET", url, merged), timeouts)

    def _send(self, request: HttpRequest, timeouts: Timeouts) -> HttpResponse:
        response = self._sender.send(request, timeouts)
        if response.status == 407:
            response.close()
            from tinkex.api.http import adapter  # most pools do not need it

            proxy = adapter.proxy_for(request.url) or ""
            raise adapter.proxy_refusal(407, errors.host_of(request.url), proxy)
        return response

    def read(self, response: HttpResponse, deadline: Deadline) -> Response:
        """Read *response* to its end, and mask credentials in it.

        :raises InvalidResponse: see :func:`read_whole`.
        """
        return read_whole(response, deadline).without(self.auth.hidden)

    def token(self, deadline: Deadline) -> str | None:
        """Exchange the key for a token; return ``None`` if the service does not issue one.

        :raises TransportError: there was no usable response in time.
        """
        key = self.auth.current
        return key if key is None or key.startswith(JWT_PREFIX) else self._token(key, deadline)

    def _token(self, key: str, deadline: Deadline) -> str | None:
        version = {"sdk_version": PROTOCOL_VERSION}
        try:
            config = self._exchange(Request("POST", "client/config", version), key, deadline)
            if not config.ok or config.object().get("pjwt_auth_enabled") is not True:
                return None
            response = self._exchange(Request("POST", "auth/token", {}), key, deadline)
            token = response.object().get("jwt") if response.ok else None
        except (InvalidResponse, APIError):
            return None
        return token if isinstance(token, str) and token.isascii() and token.isprintable() else None


def read_whole(
    response: HttpResponse,
    deadline: Deadline,
    is_enough: Callable[[Response], bool] | None = None,
) -> Response:
    """Read *response* to its end and return its connection to the pool.

    :param is_enough: see :attr:`Request.is_enough`; the connection is closed then.
    :raises InvalidResponse: the body is larger than :data:`MAX_RESPONSE`.
    :raises TimedOut: the deadline passes, even while bytes still arrive.
    """
    with closing(response):
        body = bytearray()
        for chunk in response.chunks(_CHUNK):
            body += chunk
            if len(body) > MAX_RESPONSE:
                raise InvalidResponse("the server's response is too large")
            deadline.remaining()
            if is_enough is not None:
                begun = Response(response.status, response.headers, bytes(body[:_BEGINNING]))
                if is_enough(begun):
                    break
    return Response(response.status, response.headers, bytes(body))


def name_missing(error: NotOffered, message: str) -> None:
    """Give *error* the *message*, which names the missing feature; keep the server's message."""
    words = detail_of(error.body)
    said = "" if words.lower().rstrip(".") in NO_ROUTE else f": {words}"
    error.message = f"{message}{said}"


def log_traceback(body: Any) -> None:
    """Log the traceback in a decoded error body; the error shows only its last line."""
    if TRACEBACK in (words := words_of(body)):
        for line in words.splitlines():
            _log.debug("%s", printable(line))


def _encoded(body: Any) -> bytes:
    try:
        return body if isinstance(body, bytes) else _encode(body).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "the request contains text that is not valid Unicode",
            hint="Convert the input to UTF-8, for example with iconv.",
        ) from error


def _by_name(headers: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {name.lower(): (name, value) for name, value in headers.items()}


def _merged(
    common: Mapping[str, tuple[str, str]], more: Mapping[str, str], credential: str | None
) -> dict[str, str]:
    """Return all headers of a request; no header of *more* replaces the credential."""
    found = {**common, **_by_name(more)}
    if credential:
        found[HEADER.lower()] = (HEADER, credential)
    return dict(found.values())


# URLs ---------------------------------------------------------------------------------------------


def join_url(base: str, location: str) -> str:
    """Return the absolute URL of *location*, sent by a server, relative to *base*.

    :raises InvalidResponse: it is not a URL.
    """
    try:
        url = urljoin(base, location.strip())
        return _ascii(url) if url.startswith(("http:", "https:")) else url
    except ValueError as error:
        raise InvalidResponse("the server sent a malformed URL") from error


@functools.lru_cache(maxsize=64)
def _ascii_base(url: str) -> str:
    try:
        return _ascii(url)
    except ValueError as error:
        host = errors.host_of(url)
        raise SettingsError(f"not a valid URL: {host}", hint="Check the base URL.") from error


def _ascii(url: str) -> str:
    """Return *url* with all non-ASCII characters percent-encoded.

    :raises ValueError: it has no host, or its host or port is malformed.
    """
    parts = urlsplit(url)
    if not _HOST.fullmatch(parts.hostname or "") or parts.port == 0:
        raise ValueError("malformed host or port")
    return quote(urlunsplit(parts), safe=_SAFE)


def same_origin(url: str, other: str) -> bool:
    """Return whether both URLs have the same scheme, host and port."""
    one, two = (
        (parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme))
        for parts in map(urlsplit, (url, other))
    )
    return one == two
