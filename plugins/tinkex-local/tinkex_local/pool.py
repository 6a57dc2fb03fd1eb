"""The ``local`` HTTP pool: requests are handed to the service in this process, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex.exceptions import SettingsError
from tinkex.plugins import HttpPool

if TYPE_CHECKING:
    from requests.adapters import BaseAdapter

    from tinkex.settings import Settings

#: A name that no resolver answers: a request that left this process would fail, not travel.
BASE_URL = "http://local.tinkex.invalid"


class LocalPool(HttpPool):
    """The embedded service."""

    base_url = BASE_URL
    needs_api_key = False

    def build(self, settings: Settings, *, size: int) -> BaseAdapter:
        """Return an adapter over the state in the default home directory.

        :raises SettingsError: an option names the address of another service.
        """
        if settings.base_url != BASE_URL:
            raise SettingsError(
                f"the HTTP pool {settings.http_pool} reaches the embedded service only, "
                f"not {settings.base_url}",
                hint="Leave --base-url out, or choose another way to it: --http-pool default.",
            )
        # Settings and completion ask a pool what it is without ever sending a request.
        from tinkex_local.wire.wsgi import WsgiAdapter

        return WsgiAdapter()
