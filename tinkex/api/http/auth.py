"""The API key on requests, and its exchange for a short-lived token where the service wants one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import requests
from requests.auth import AuthBase

from tinkex.settings import Settings

HEADER = "X-API-Key"
#: How every JSON Web Token begins.
JWT_PREFIX = "eyJ"
#: What is shown in place of a credential.
HIDDEN = "…"
#: Characters from which on a credential is hidden: shorter ones are words, or parts of them.
_SHORTEST = 4


class KeyAuth(AuthBase):
    """Puts the credential on a request.

    As an auth object it is applied after everything else, so nothing can replace the header.

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

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        credential = self._token or self._key
        if credential:
            request.headers[HEADER] = credential
        return request

    @property
    def current(self) -> str | None:
        """What is being sent; for telling whether :meth:`renew` has been overtaken."""
        return self._token or self._key

    def renew(
        self,
        refused: str | None,
        invalid_token: bool,
        exchange: Callable[[str], str | None],
        seconds: float = threading.TIMEOUT_MAX,
    ) -> bool:
        """Get another credential after *refused* was; return whether it is worth trying again.

        :param invalid_token: the service said that the token as such is no longer valid.
        :param exchange: asks the service for a token in exchange for a key.
        :param seconds: how long to wait for another thread that is at it.
        :raises TimeoutError: it takes longer.
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

        :param shortest: leave those of fewer characters.
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
            # Another thread may be reading; the longest first, lest a part of it remain.
            known = {*self._secrets, secret}
            self._secrets = dict.fromkeys(sorted(known, key=len, reverse=True))


def _escapable(character: str) -> str:
    """Return a pattern for *character* as any JSON writer may write it."""
    code = "".join(f"[{d.lower()}{d.upper()}]" for d in f"{ord(character):04x}")
    return rf"(?:\\?{re.escape(character)}|\\u{code})"


class RawKey(AuthBase):
    """Sends one key and never anything else: for the exchange itself."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers[HEADER] = self._key
        return request
