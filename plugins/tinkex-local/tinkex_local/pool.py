"""The ``local`` HTTP pool: requests go to the service in this process, without a socket."""

from __future__ import annotations

from tinkex.exceptions import SettingsError
from tinkex.plugins import HttpPool, PoolSettings, Sender
from tinkex_local.wire.wsgi import BASE_URL, WsgiSender


class LocalPool(HttpPool):
    """The HTTP pool that calls the local service."""

    base_url = BASE_URL
    needs_api_key = False

    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender over the state in the default home directory.

        :raises SettingsError: an option names the address of another service.
        """
        if settings.base_url != BASE_URL:
            raise SettingsError(
                f"the HTTP pool {settings.http_pool} only supports the local service, "
                f"not {settings.base_url}",
                hint="Remove the base URL ('tinkex config show' shows where it is set), or use a "
                "pool for other servers: --http-pool default",
            )
        return WsgiSender()
