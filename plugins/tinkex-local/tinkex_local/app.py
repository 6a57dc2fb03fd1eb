"""The service as one WSGI application."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex.exceptions import LocalError
from tinkex_local.access import Access
from tinkex_local.engines import DEFAULT
from tinkex_local.engines.runner import MAX_POLLS, Runner
from tinkex_local.home import HOME_VARIABLE, default_home
from tinkex_local.problems import Problem, log
from tinkex_local.state import checkpoints, operations
from tinkex_local.state.models import ModelError
from tinkex_local.state.service import Service
from tinkex_local.state.store import StateError, is_damaged, reason
from tinkex_local.wire import PREFIX, http, routes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


#: Seconds between two looks for what has expired.
TIDY_SECONDS = 3600.0
#: Needs no key, so that a watchdog can ask.
_OPEN = f"{PREFIX}/healthz"


class App:
    """A WSGI application over one home directory.

    :ivar service: the state behind it.
    """

    def __init__(self, service: Service, runner: Runner, api_key: str | None) -> None:
        self.service = service
        self._access = Access(api_key, service.clock)
        self._routes = http.Routes(PREFIX, service.home, self._refusal)
        _add_basics(self._routes, service)
        _add_access(self._routes, self._access)
        routes.add(self._routes, service, runner)
        self._tidied = float("-inf")
        self._tidy()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request_id = uuid.uuid4().hex
        environ["tinkex_local.request_id"] = request_id

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            headers = [*headers, ("X-Request-ID", request_id)]
            return start_response(status, headers, exc_info)

        try:
            self._tidy()
        except (sqlite3.Error, OSError) as error:  # what is expired is not shown even so
            log.warning("could not tidy up: %s", error)
        return self._routes(environ, start)

    def close(self) -> None:
        """Let long polls end and close the state."""
        self.service.close()

    def _tidy(self) -> None:
        now = self.service.clock()
        if now - self._tidied < TIDY_SECONDS:
            return
        self._tidied = now
        checkpoints.sweep(self.service)
        operations.forget_old(self.service)

    def _refusal(self, environ: WSGIEnvironment) -> str | None:
        path = environ.get("PATH_INFO", "")
        if path == _OPEN or path.startswith(f"{PREFIX}/{routes.SIGNED}/"):
            return None
        return self._access.refusal(environ.get("HTTP_X_API_KEY"))


def create_app(
    home: Path,
    api_key: str | None = None,
    *,
    engine: str = DEFAULT,
    clock: Callable[[], float] = time.time,
) -> App:
    """Return the service over the state in *home*.

    :param home: directory of the state, created when missing.
    :param api_key: what clients must send as ``X-API-Key``; ``None`` needs no key.
    :param engine: name of the driver that computes.
    :param clock: the present in seconds since the epoch.
    :raises OSError: the directory cannot be used.
    :raises StateError: the state file cannot be used.
    """
    service = Service(home, clock=clock)
    return App(service, Runner(service, engine), api_key)


def _add_basics(app: http.Routes, service: Service) -> None:
    @app.on("GET", "healthz")
    def healthz() -> Any:
        return {"status": "ok"}

    @app.on("POST", "telemetry")
    def telemetry() -> Any:
        return {"status": "accepted"}  # and dropped, unread

    @app.on("GET", "get_server_capabilities")
    def get_server_capabilities() -> Any:
        models = []
        for model in service.models.all():
            try:
                context = model.facts.context_length
            except ModelError:  # its directory has gone; ``local model list`` reports it
                continue
            models.append(
                {
                    "model_name": model.name,
                    "max_context_length": context,
                    "trainable": False,
                    "sampleable": True,
                }
            )
        return {"supported_models": models}


def _add_access(app: http.Routes, access: Access) -> None:
    @app.on("POST", "client/config")
    def client_config() -> Any:
        # Each result that the SDK waits for is a connection and a thread here.
        return {
            "pjwt_auth_enabled": not access.is_open,
            "sample_max_concurrent_requests": MAX_POLLS // 2,
        }

    if access.is_open:  # without a key there is nothing to describe
        return

    @app.on("POST", "auth/token")
    def token() -> Any:
        return {"jwt": access.token()}

    @app.on("GET", "auth/apikey/me")
    def apikey_me() -> Any:
        return access.describe()

    @app.on("DELETE", "auth/apikey/me")
    def revoke() -> Any:
        raise Problem(403, "The key of 'local serve --api-key' cannot be revoked; stop the service")


_ELSEWHERE = f"{HOME_VARIABLE} names another directory."


def open_default(api_key: str | None = None) -> App:
    """Return the service over the state in the default home directory.

    :param api_key: as for :func:`tinkex_local.app.create_app`.
    :raises LocalError: the directory or the state file cannot be used.
    """
    home = default_home()
    try:
        return create_app(home, api_key)
    except OSError as error:
        why = error.strerror or str(error)
        raise LocalError(f"cannot use {home}: {why}", hint=_ELSEWHERE) from error
    except (StateError, sqlite3.Error) as error:
        raise unusable(error) from error


def unusable(error: StateError | sqlite3.Error) -> LocalError:
    """Return the error that says why the state cannot be used; damage alone asks for a reset."""
    if isinstance(error, StateError):
        words = str(error)
    else:
        words = f"cannot use the state: {reason(error, default_home())}"
    again = "'tinkex local reset' starts over; " if is_damaged(error) else ""
    return LocalError(words, hint=again + _ELSEWHERE)
