"""The HTTP pool ``http2``."""

from __future__ import annotations

from tinkex.exceptions import SettingsError
from tinkex.httppools import proxy_for
from tinkex.plugins import HttpPool, PoolSettings, Sender


class Http2Pool(HttpPool):
    """Sends concurrent requests over one HTTP/2 connection; uses HTTP/1.1 if necessary."""

    @classmethod
    def preference(cls, settings: PoolSettings) -> int:
        """Return 10, or 0 without TLS checks or with a proxy, whose errors the engine hides."""
        return 0 if settings.pool_options.insecure or proxy_for(settings.base_url) else 10

    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender with the TLS options of *settings*.

        :raises SettingsError: certificate checks are disabled, or a file cannot be used.
        """
        if settings.pool_options.insecure:
            raise SettingsError(
                "the HTTP pool http2 cannot disable certificate checks",
                hint="Use --http-pool default, or set ca_bundle to the server's CA certificate "
                "instead of using insecure.",
            )
        # The engine is imported on first use, so that choosing a pool is fast.
        from tinkex_http2.sender import EngineSender

        return EngineSender(settings)
