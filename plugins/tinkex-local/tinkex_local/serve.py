"""Serves the application over HTTP with waitress, an access log and a clean shutdown."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import waitress

from tinkex_local.engines.runner import MAX_POLLS
from tinkex_local.wire.http import MAX_BODY

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from tinkex_local.app import App

#: Number of threads: for all requests that wait for results, and some others.
THREADS = MAX_POLLS + 32
#: Maximum number of connections. A client has one for each pending result; idle connections can
#: block other clients for two minutes, until waitress closes them.
CONNECTIONS = 768


class Server:
    """A server for *app* on a listening socket.

    :param port: 0 selects a free port.
    :param log: called with one line for each request.
    :ivar url: base URL for clients.
    :raises OSError: the address cannot be used.
    """

    def __init__(self, app: App, host: str, port: int, log: Callable[[str], None]) -> None:
        logging.getLogger("waitress").setLevel(logging.ERROR)
        self._app = app
        guarded: WSGIApplication = own_machine_only(app) if is_loopback(host) else app
        name = host.strip("[]")
        self._server: Any = waitress.create_server(
            logged(guarded, log),
            host=name,
            port=port,
            threads=THREADS,
            connection_limit=_connections(),
            asyncore_use_poll=True,  # select() supports file descriptors up to 1023
            ident=None,
            # The application rejects smaller bodies, with an error of the protocol.
            max_request_body_size=4 * MAX_BODY,
            clear_untrusted_proxy_headers=True,
        )
        # Several sockets if the name has several addresses; they share only the port number.
        number = (
            getattr(self._server, "effective_port", None) or (self._server.effective_listen[0][1])
        )
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{number}"

    def run(self, announce: Callable[[], None]) -> int:
        """Serve requests until SIGTERM or SIGINT; return the number of the signal, or 0.

        Running requests are finished; long polls end at once.

        :param announce: called when the service accepts connections; from then on, a signal ends
            it.
        """
        received: list[int] = []

        def stop(number: int, frame: Any) -> None:
            received.append(number)
            self._app.service.stopping.set()
            if len(received) == 1:  # a second signal does not interrupt the shutdown
                raise SystemExit  # waitress stops on this exception

        in_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        before = {number: signal.signal(number, stop) for number in signals}
        try:
            with contextlib.suppress(SystemExit):  # before waitress catches it
                announce()
                self._server.run()
        finally:
            self._server.close()
            self._app.close()
            for number, handler in before.items():
                signal.signal(number, handler)
        return received[0] if received else 0


def _connections() -> int:
    """Raise the limit on open files, and return half of it as the number of connections."""
    try:
        import resource
    except ImportError:  # not a Unix: no such limit
        return CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS
    if 0 <= soft < wanted:  # below 0 means no limit
        soft = wanted if hard < 0 else min(hard, wanted)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return CONNECTIONS if soft < 0 else min(CONNECTIONS, soft // 2)


def is_loopback(host: str) -> bool:
    """Return whether *host* is a loopback name or address."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def own_machine_only(app: WSGIApplication) -> WSGIApplication:
    """Wrap *app* so that it rejects requests sent by web pages.

    A web page can make a browser on this machine send requests to a loopback address with any host
    name. Such a request has that name in ``Host``, or an ``Origin``.
    """

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if "HTTP_ORIGIN" in environ or (name and not is_loopback(name)):
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [b'{"detail": "Host must be localhost, and Origin must not be set"}']
        return app(environ, start_response)

    return guarded


def logged(app: WSGIApplication, log: Callable[[str], None]) -> WSGIApplication:
    """Wrap *app* to log method, path without the query, status, time and request id."""

    def logging_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began = time.monotonic()
        seen = "-"

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal seen
            seen = status[:3]
            return start_response(status, headers, exc_info)

        try:
            return app(environ, start)
        finally:
            took = (time.monotonic() - began) * 1000
            request_id = environ.get("tinkex_local.request_id", "-")
            path = environ.get("PATH_INFO", "").encode("unicode_escape").decode()
            log(f"{environ.get('REQUEST_METHOD')} {path} {seen} {took:.0f} ms {request_id}")

    return logging_app
