"""The service as a WSGI application."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex.exceptions import LocalError
from tinkex_local.access import Access
from tinkex_local.engines import Engine
from tinkex_local.engines.choice import Engines
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


#: Seconds between two searches for expired items.
TIDY_SECONDS = 3600.0
#: Needs no key, so that monitoring can use it.
_OPEN = f"{PREFIX}/healthz"


class App:
    """The WSGI application for the state in one home directory.

    :ivar service: the state of the service.
    :ivar engines: the engines of this process.
    """

    def __init__(self, service: Service, runner: Runner, api_key: str | None) -> None:
        self.service = service
        self.engines = runner.engines
        self._access = Access(api_key, service.clock)
        self._routes = http.Routes(PREFIX, service.home, self._refusal)
        _add_basics(self._routes, service, runner.engines)
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
        except (sqlite3.Error, OSError) as error:  # expired items are not shown in any case
            log.warning("could not remove expired items: %s", error)
        return self._routes(environ, start)

    def close(self) -> None:
        """End long polls and close the state."""
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
    engines: Sequence[Engine] | None = None,
    clock: Callable[[], float] = time.time,
) -> App:
    """Create the application for the state in *home*.

    :param home: directory of the state, created if missing.
    :param api_key: the key that clients must send as ``X-API-Key``; ``None`` for no key.
    :param engines: the engines to choose from, preferred first; by default the installed ones.
    :param clock: returns the current time in seconds since the epoch.
    :raises OSError: the directory cannot be used.
    :raises StateError: the state file cannot be used.
    """
    service = Service(home, clock=clock)
    return App(service, Runner(service, Engines(engines)), api_key)


def _add_basics(app: http.Routes, service: Service, engines: Engines) -> None:
    @app.on("GET", "healthz")
    def healthz() -> Any:
        return {"status": "ok"}

    @app.on("POST", "telemetry")
    def telemetry() -> Any:
        return {"status": "accepted"}  # and ignored

    @app.on("GET", "get_server_capabilities")
    def get_server_capabilities() -> Any:
        models = []
        for model in service.models.all():
            try:
                context = model.facts.context_length
            except ModelError:  # its directory is missing; ``local model list`` reports it
                continue
            models.append(
                {
                    "model_name": model.name,
                    "max_context_length": context,
                    "trainable": engines.trains(model),
                    "sampleable": engines.name_for(model) is not None,
                }
            )
        return {"supported_models": models}


def _add_access(app: http.Routes, access: Access) -> None:
    @app.on("POST", "client/config")
    def client_config() -> Any:
        # Each result that the SDK waits for uses a connection and a thread.
        return {
            "pjwt_auth_enabled": not access.is_open,
            "sample_max_concurrent_requests": MAX_POLLS // 2,
        }

    if access.is_open:  # without a key there is no record to return
        return

    @app.on("POST", "auth/token")
    def token() -> Any:
        return {"jwt": access.token()}

    @app.on("GET", "auth/apikey/me")
    def apikey_me() -> Any:
        return access.describe()

    @app.on("DELETE", "auth/apikey/me")
    def revoke() -> Any:
        raise Problem(
            403,
            "The key set by 'local serve --api-key' cannot be revoked; stop the service instead",
        )


_ELSEWHERE = f"Set {HOME_VARIABLE} to another directory."


def open_default(api_key: str | None = None) -> App:
    """Create the application for the state in the default home directory.

    :param api_key: see :func:`tinkex_local.app.create_app`.
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
    """Return the error for an unusable state; its hint suggests a reset only if it is damaged."""
    if isinstance(error, StateError):
        words = str(error)
    else:
        words = f"cannot use the service state: {reason(error, default_home())}"
    hint = _ELSEWHERE
    if is_damaged(error):
        hint = (
            f"Run 'tinkex local reset' to start over, or set {HOME_VARIABLE} to another directory."
        )
    return LocalError(words, hint=hint)
