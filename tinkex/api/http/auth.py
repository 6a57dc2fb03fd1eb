"""The API key of requests, and its exchange for a short-lived token if the service wants one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from tinkex.settings import Settings

HEADER = "X-API-Key"
#: How every JSON Web Token begins.
JWT_PREFIX = "eyJ"
#: What is shown in place of a credential.
HIDDEN = "…"
#: Minimum length of a credential to hide: shorter ones are words, or parts of them.
_SHORTEST = 4


class KeyAuth:
    """The credential of one client: its API key, or the token that it was exchanged for.

    :param settings: where the key comes from; it is read, or its command run, now.
    :raises tinkex.exceptions.SettingsError: there is no usable key.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = settings.credential()
        self._token: str | None = None
        self._lock = threading.Lock()
        self._secrets: dict[str, None] = {}
        self._remember(self._key)

    @property
    def current(self) -> str | None:
        """The value of :data:`HEADER`, ``None`` if requests carry no key."""
        return self._token or self._key

    def renew(
        self,
        refused: str | None,
        invalid_token: bool,
        exchange: Callable[[str], str | None],
        seconds: float = threading.TIMEOUT_MAX,
    ) -> bool:
        """Replace the credential *refused*; return whether another try makes sense.

        :param invalid_token: the service said that the token as such is no longer valid.
        :param exchange: returns the token that the service gives for a key, if any.
        :param seconds: how long to wait for another thread that is replacing it.
        :raises TimeoutError: that thread takes longer.
        """
        if not self._lock.acquire(timeout=seconds):
            raise TimeoutError
        try:
            return self._renewed(refused, invalid_token, exchange)
        finally:
            self._lock.release()

    def _renewed(
        self, refused: str | None, invalid_token: bool, exchange: Callable[[str], str | None]
    ) -> bool:
        if self.current != refused:  # another thread was faster
            return True
        key = self._key
        if key is None:
            return False
        if self._settings.api_key_command and not self._settings.api_key:
            self._key = self._settings.credential()
        if self._key != key:
            self._remember(self._key)
            self._token = None
            return True
        if key.startswith(JWT_PREFIX) or (self._token and not invalid_token):
            return False
        self._token = exchange(key)
        self._remember(self._token)
        return self._token is not None

    def hidden(self, text: str, *, shortest: int = 0) -> str:
        """Return *text* without the credentials that have been sent, plain or escaped as in JSON.

        :param shortest: minimum length of the credentials to hide.
        """
        for secret in self._secrets:
            if len(secret) < max(shortest, _SHORTEST):
                continue
            text = text.replace(secret, HIDDEN)
            if "\\" in text:
                text = re.sub("".join(map(_escapable, secret)), HIDDEN, text)
        return text

    def _remember(self, secret: str | None) -> None:
        if secret:
            # A new mapping, as other threads read the old one; the longest first, so that no part
            # of one remains.
            known = {*self._secrets, secret}
            self._secrets = dict.fromkeys(sorted(known, key=len, reverse=True))


def _escapable(character: str) -> str:
    """Return a pattern for *character*, plain or escaped as in JSON."""
    code = "".join(f"[{d.lower()}{d.upper()}]" for d in f"{ord(character):04x}")
    return rf"(?:\\?{re.escape(character)}|\\u{code})"
