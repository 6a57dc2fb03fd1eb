"""Addresses that work without a key, for a while."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote

#: Seconds that a signed address works.
LIFETIME = 900


class Signer:
    """Signs paths with a secret of this installation.

    :param secret: anything long and random.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def sign(self, path: str, expires: int) -> str:
        """Return *path*, percent-encoded, with the expiry and the signature as its query."""
        return f"{quote(path, safe='/:')}?expires={expires}&signature={self._mac(path, expires)}"

    def valid(self, path: str, expires: str, signature: str, now: float) -> bool:
        """Tell whether the signature belongs to *path* and has not expired at *now*."""
        if not (expires.isascii() and expires.isdecimal() and len(expires) < 16):
            return False
        expected = self._mac(path, int(expires))
        genuine = hmac.compare_digest(expected.encode(), signature.encode())
        return genuine and now < int(expires)

    def _mac(self, path: str, expires: int) -> str:
        message = f"{expires}\n{path}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
