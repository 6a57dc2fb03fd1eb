"""Requests to the service: one session, one place where they are sent, repeated and refused."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import requests
from requests.adapters import BaseAdapter
from requests.auth import AuthBase

from tinkex import plugins
from tinkex.api.http import answers, errors, network
from tinkex.api.http.adapter import BoundedAdapter, limited
from tinkex.api.http.addresses import joined
from tinkex.api.http.answers import Response
from tinkex.api.http.auth import JWT_PREFIX, KeyAuth, RawKey
from tinkex.api.http.capabilities import Capabilities
from tinkex.api.http.requesting import Request, prepared
from tinkex.api.http.retry import Retrying
from tinkex.api.http.waiting import Deadline, OnWait
from tinkex.config.pools import PoolOptions
from tinkex.exceptions import (
    APIError,
    ConnectionFailed,
    InvalidResponse,
    NotOffered,
    TimedOut,
    TinkexError,
    Unauthorized,
)
from tinkex.version import __version__

if TYPE_CHECKING:
    from tinkex.api.http.waits import Wait
    from tinkex.settings import Settings

#: Seconds to wait for a connection.
CONNECT_TIMEOUT = 5.0
#: Seconds to wait for an answer before a repeatable request is made again.
READ_TIMEOUT = 60.0
#: The version of the official SDK whose protocol is spoken; servers want to know.
PROTOCOL_VERSION = "0.38.0"
USER_AGENT = f"tinkex/{__version__}"

_log = logging.getLogger("tinkex.http")


class DefaultPool(plugins.HttpPool):
    """Keep-alive connections over HTTP/1.1, by requests and urllib3."""

    def build(self, settings: Settings, *, size: int) -> BaseAdapter:
        """Return requests' own adapter with room for *size* connections a host."""
        return BoundedAdapter(pool_connections=4, pool_maxsize=size, max_retries=0)


class Transport:
    """Sends requests to one service with one key.

    :param settings: address, key, pool and time allowance.
    :param on_wait: is told about every wait, see :class:`tinkex.api.Wait`.
    :param pool: carries the requests in place of the driver that the settings name.
    :ivar capabilities: what the service is known to lack.
    :raises tinkex.exceptions.SettingsError: there is no usable key.
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
        if pool is None:
            pool = plugins.load_driver(plugins.HTTP_POOLS, settings.pool_driver)
        self.capabilities = Capabilities()
        settings.check_pool()
        if settings.pool_options.insecure:
            _warn(self.base_url)
        self.session = new_session(self.base_url, settings.pool_options)
        adapter = pool.build(settings, size=settings.pool_options.size)
        #: Requests are shown instead of being sent: nothing is to be changed anywhere.
        self.is_dry_run = bool(getattr(pool, "is_dry_run", False))
        self._headers = dict(self.session.headers)
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)

    def close(self) -> None:
        """Close the connections."""
        self.session.close()

    def deadline(
        self, operation: str, seconds: float | None = None, *, patience: float = 0.0
    ) -> Deadline:
        """Start the time allowance of one public operation, a noun."""
        seconds = seconds or self.settings.timeout
        return Deadline(operation, seconds, self._told, patience=patience)

    def retrying(self, method: str, repeatable: bool) -> Retrying:
        """Start counting the repetitions of one call, as many as the HTTP pool allows.

        :param repeatable: repeating the call does no harm even if the server has acted on it.
        """
        return Retrying(method, repeatable, self.settings.pool_options.retries)

    def _told(self, wait: Wait) -> None:
        if self._on_wait is not None:
            reason = wait.reason and self.auth.hidden(wait.reason)
            note = wait.note and self.auth.hidden(wait.note)
            self._on_wait(dataclasses.replace(wait, reason=reason, note=note))

    def read(self, response: requests.Response, deadline: Deadline) -> Response:
        """Read the whole *response*, leaving out the credentials that it may repeat.

        :raises InvalidResponse: see :func:`tinkex.api.http.answers.read`.
        """
        return answers.read(response, deadline).without(self.auth.hidden)

    def url(self, path: str) -> str:
        """Return the whole address of *path* below the API, or below the base if it has a slash."""
        if path.startswith("/"):
            return self.base_url + path
        return f"{self.base_url}/api/v1/{path}"

    def call(self, request: Request, deadline: Deadline) -> Response:
        """Make a call, repeating it where that helps, and return its successful answer.

        :raises tinkex.exceptions.APIError: the service refused.
        :raises tinkex.exceptions.TransportError: there was no usable answer in time.
        """
        answer, may_be_done = self._persist(request, deadline)
        if answer.ok:
            return answer
        if may_be_done and answer.status in request.settled:
            return Response(204, answer.headers)
        raise self.refusal(answer, request.what)

    def refusal(self, answer: Response, what: str | None = None) -> TinkexError:
        """Return the error that the unsuccessful *answer* is."""
        if 300 <= answer.status < 400:
            target = errors.host_of(joined(self.base_url, answer.headers.get("location", "")))
            return InvalidResponse(
                f"{errors.host_of(self.base_url)} redirects to {target}, "
                "and the API key does not go along",
                hint="Set --base-url to the address that it redirects to.",
            )
        error = answer.error()
        if isinstance(error, NotOffered) and what:
            error.message = f"this server does not offer {what}"
        if isinstance(error, Unauthorized) and self.settings.origins.get("api_key"):
            error.key_origin = self.settings.origins["api_key"]
        return error

    def _persist(self, request: Request, deadline: Deadline) -> tuple[Response, bool]:
        """Return the last answer, and whether the server may have acted on an earlier try."""
        retrying = self.retrying(request.method, request.is_repeatable)
        headers = dict(request.headers)
        if request.method == "POST":
            import uuid  # with platform: 4 ms that reading does not pay

            headers.setdefault("X-Idempotency-Key", f"tinkex-{uuid.uuid4()}")
        while True:
            try:
                answer = self.once(request, deadline, headers=headers)
            except NoResponse as failure:
                retrying.pause_after(failure.original, failure.error, deadline)
                continue
            done = answer.ok or answer.status in request.final
            wait = None if done else retrying.after_answer(answer)
            if wait is None or not deadline.allows(wait):
                return answer, retrying.may_be_done
            deadline.pause(wait, f"HTTP {answer.status}")

    def once(
        self,
        request: Request,
        deadline: Deadline,
        *,
        headers: Mapping[str, str] | None = None,
        read_timeout: float | None = None,
    ) -> Response:
        """Send *request* once and return the answer, whatever its status.

        The credential is renewed, and the request sent again, if that is what a 401 asks for.

        :raises NoResponse: there was none.
        """
        credential = self.auth.current
        answer = self._exchange(request, deadline, self.auth, headers, read_timeout)
        if answer.status != 401:
            return answer
        invalid = 'error="invalid_token"' in answer.headers.get("www-authenticate", "")
        if self._renew(credential, invalid, deadline):
            answer = self._exchange(request, deadline, self.auth, headers, read_timeout)
        return answer

    def _renew(self, refused: str | None, invalid_token: bool, deadline: Deadline) -> bool:
        def exchange(key: str) -> str | None:
            return self._token(key, deadline)

        try:
            return self.auth.renew(refused, invalid_token, exchange, deadline.remaining())
        except TimeoutError:  # another thread is at it, with more time
            raise deadline.timed_out() from None

    def _exchange(
        self,
        request: Request,
        deadline: Deadline,
        auth: AuthBase,
        headers: Mapping[str, str] | None = None,
        read_timeout: float | None = None,
    ) -> Response:
        start = time.monotonic()
        url = self.url(request.path)
        read = read_timeout or (READ_TIMEOUT if request.is_repeatable else deadline.remaining())
        left = deadline.remaining()
        try:
            with limited(left):
                response = self._sent(
                    prepared(self._headers, request, url, headers, auth),
                    (min(CONNECT_TIMEOUT, left), min(read, left)),
                )
            # The exchange itself has to see the token, whether or not it is a new one.
            read_answer = self.read if auth is self.auth else answers.read
            answer = read_answer(response, deadline)
        except TinkexError:
            raise
        except errors.FOREIGN as error:
            raise self._failure(error, url, deadline) from error
        self._trace(request, answer, start)
        if answer.status == 400 and not answer.body:
            # Proxies in front of the service say so when they lost it.
            lost = ConnectionFailed(f"a proxy lost the connection to {errors.host_of(url)}")
            raise NoResponse(lost, requests.ConnectionError())
        return answer

    def _sent(
        self, ready: requests.PreparedRequest, timeout: tuple[float, float]
    ) -> requests.Response:
        # Straight to the adapter: Session.send adds hooks, cookies and redirects, none of which
        # are wanted here, and a third of the time that a request costs.
        session = self.session
        adapter = session.get_adapter(self.base_url)
        return adapter.send(
            ready,
            stream=True,
            timeout=timeout,
            verify=True if session.verify is None else session.verify,
            cert=session.cert,
            proxies=session.proxies,
        )

    def _failure(self, error: Exception, url: str, deadline: Deadline) -> TinkexError:
        ours = errors.translated(error, url)
        if isinstance(ours, TimedOut) and not deadline.allows(0.05):
            return deadline.timed_out()  # it waited for all the time there was
        return NoResponse(ours, error)

    def token(self, deadline: Deadline) -> str | None:
        """Return the token that the service has for the key, or ``None`` where it has none.

        :raises TransportError: there was no usable answer in time.
        """
        key = self.auth.current
        if key is None or key.startswith(JWT_PREFIX):
            return key
        try:
            return self._token(key, deadline)
        except NoResponse as failure:
            raise failure.error from failure

    def _token(self, key: str, deadline: Deadline) -> str | None:
        """Exchange *key* for a token, or return ``None`` where the service has none to give."""
        raw = RawKey(key)
        version = {"sdk_version": PROTOCOL_VERSION}
        try:
            config = self._exchange(Request("POST", "client/config", version), deadline, raw)
            if not config.ok or config.object().get("pjwt_auth_enabled") is not True:
                return None
            answer = self._exchange(Request("POST", "auth/token", {}), deadline, raw)
            token = answer.object().get("jwt") if answer.ok else None
        except (InvalidResponse, APIError):
            return None
        return token if isinstance(token, str) and token.isascii() and token.isprintable() else None

    def _trace(self, request: Request, answer: Response, start: float) -> None:
        took = round((time.monotonic() - start) * 1000)
        arguments = (request.method, request.path, answer.status, took, answer.request_id or "-")
        _log.debug("%s %s -> %d in %d ms, request %s", *arguments)


class NoResponse(TinkexError):
    """No answer: our error and the one it came from, which says whether to try again."""

    def __init__(self, error: TinkexError, original: Exception) -> None:
        super().__init__(str(error))
        self.error = error
        self.original = original

    @property
    def is_read_timeout(self) -> bool:
        """Whether the server took the request and has not answered yet."""
        return errors.is_read_timeout(self.original)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return nothing: where an answer leads is looked at above, and may be no address."""


def new_session(url: str, options: PoolOptions | None = None) -> requests.Session:
    """Return a session without a key for *url* that ignores cookies, ``.netrc`` and redirects.

    :param options: TLS of the HTTP pool; without them the machine says what is trusted.
    """
    from http.cookiejar import DefaultCookiePolicy

    session = _Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, BoundedAdapter())
    session.trust_env = False
    session.proxies = network.proxies_for(url)
    options = options or PoolOptions()
    session.cert = options.certificate
    if url.startswith("https:") or options.insecure:
        session.verify = network.trusted(options)
    session.headers["User-Agent"] = USER_AGENT
    session.headers["Accept"] = "application/json"
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


def _warn(url: str) -> None:
    """Warn who calls from Python, whatever the driver; the program has words of its own."""
    import warnings

    from urllib3.exceptions import InsecureRequestWarning

    message = f"Unverified HTTPS requests are made to {errors.host_of(url)}"
    warnings.warn(message, InsecureRequestWarning, stacklevel=4)
