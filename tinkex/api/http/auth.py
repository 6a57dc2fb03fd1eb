"""The API key of requests, and its exchange for a short-lived token if the service requires one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from tinkex.settings import Settings

HEADER = "X-API-Key"
#: Prefix of every JSON Web Token.
JWT_PREFIX = "eyJ"
#: The text shown in place of a credential.
HIDDEN = "…"
#: Minimum length of a credential to hide: a shorter one may be an ordinary word.
_SHORTEST = 4
#: Names of headers whose values are secret; the values of other headers may be ordinary words.
_SECRET = re.compile("auth|cookie|credential|key|pass|secret|token", re.IGNORECASE)


class KeyAuth:
    """The credential of one client: its API key, or the token that it was exchanged for.

    :param settings: the source of the key; the key is read, or its command run, immediately.
    :raises tinkex.exceptions.SettingsError: there is no usable key.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = settings.credential()
        self._token: str | None = None
        self._lock = threading.Lock()
        #: Strings to hide, longest first so that no part of a string remains, and whether to hide
        #: each one also in successful responses, whose content is data.
        self._secrets: dict[str, bool] = {}
        self._remember(self._key)
        for name, value in settings.headers.items():
            is_secret = bool(_SECRET.search(name))
            self._remember(value, in_data=is_secret)
            self._remember(value.rpartition(" ")[2], in_data=is_secret)  # after "Bearer"

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
        """Replace the credential *refused*; return whether to send the request again.

        :param invalid_token: the service reported that the token itself is no longer valid.
        :param exchange: returns the token that the service issues for a key, if any.
        :param seconds: how long to wait for another thread that is replacing it.
        :raises TimeoutError: that thread took longer.
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
        """Return *text* with all credentials sent so far masked, plain or escaped as in JSON.

        :param shortest: minimum length of the credentials to hide.
        """
        for secret, in_data in self._secrets.items():
            if len(secret) < max(shortest, _SHORTEST) or (shortest and not in_data):
                continue
            text = text.replace(secret, HIDDEN)
            if "\\" in text:
                text = re.sub("".join(map(_escapable, secret)), HIDDEN, text)
        return text

    def _remember(self, secret: str | None, *, in_data: bool = True) -> None:
        if secret:
            in_data = in_data or self._secrets.get(secret, False)
            known = {**self._secrets, secret: in_data}  # other threads may be reading the old one
            self._secrets = dict(sorted(known.items(), key=lambda item: -len(item[0])))


def _escapable(character: str) -> str:
    """Return a pattern for *character*, plain or escaped as in JSON."""
    code = "".join(f"[{d.lower()}{d.upper()}]" for d in f"{ord(character):04x}")
    return rf"(?:\\?{re.escape(character)}|\\u{code})"
