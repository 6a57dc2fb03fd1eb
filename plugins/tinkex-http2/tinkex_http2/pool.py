"""The HTTP pool ``http2``."""

from __future__ import annotations

from tinkex.exceptions import SettingsError
from tinkex.httppools import proxy_for
from tinkex.plugins import HttpPool, PoolSettings, Sender


class Http2Pool(HttpPool):
    """Many requests at once on one connection of HTTP/2; HTTP/1.1 where the server has no other."""

    @classmethod
    def preference(cls, settings: PoolSettings) -> int:
        """Return 10; 0 where the engine lacks something: it hides what a proxy answers."""
        return 0 if settings.pool_options.insecure or proxy_for(settings.base_url) else 10

    def build(self, settings: PoolSettings) -> Sender:
        """Return a sender with the TLS options of *settings*.

        :raises SettingsError: certificates are not to be checked, or a file cannot be used.
        """
        if settings.pool_options.insecure:
            raise SettingsError(
                "the HTTP pool http2 always checks certificates",
                hint="Use --http-pool default, or set ca_bundle to the server's authority.",
            )
        # The engine is imported when it is used: choosing a pool takes next to no time.
        from tinkex_http2.sender import EngineSender

        return EngineSender(settings)
