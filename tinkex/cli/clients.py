"""The service clients of the application, and with them its pools of connections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tinkex.api import ServiceClient

if TYPE_CHECKING:
    import logging

    from tinkex.api.http.retry import OnWait
    from tinkex.settings import Settings


class Clients:
    """A client for each set of settings, kept for the next lines of a shell or script.

    :param on_wait: is called whenever a client waits for its service.
    """

    def __init__(self, on_wait: OnWait) -> None:
        self._on_wait = on_wait
        self._open: dict[Settings, ServiceClient] = {}

    def of(self, settings: Settings) -> ServiceClient:
        """Return the client with *settings*."""
        if settings not in self._open:
            self._open[settings] = ServiceClient(settings, on_wait=self._on_wait)
        return self._open[settings]

    def close(self, log: logging.Logger) -> None:
        """Close all of them; what goes wrong is of interest to *log* only."""
        clients, self._open = self._open, {}
        for client in clients.values():
            try:
                client.close()
            except Exception as error:
                log.debug("closing failed: %s", error)


def showing(settings: Settings) -> ServiceClient:
    """Return a client that sends nothing, and so needs no key: for ``--curl``."""
    from tinkex.api.http.curl import KEY_VARIABLE, CurlPool

    keyless = replace(settings, api_key=KEY_VARIABLE, api_key_command=None)
    return ServiceClient(keyless, pool=CurlPool())
