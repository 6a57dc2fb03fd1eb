"""Access control: the key of ``local serve --api-key``, tokens, and signed URLs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

#: Lifetime of a token in seconds.
TOKEN_LIFETIME = 3600
#: The error message after which a client may repeat the request with a new token.
EXPIRED = "The token has expired"
EMAIL = "local@localhost"
ORGANIZATION = "tinkex-local"

_HEADER = {"alg": "HS256", "typ": "JWT"}


class Access:
    """Checks keys, and creates and checks tokens.

    :param api_key: the key that clients must send; ``None`` for no key.
    :param clock: returns the current time in seconds since the epoch.
    """

    def __init__(self, api_key: str | None, clock: Callable[[], float]) -> None:
        self._key = None if api_key is None else api_key.encode()
        self._clock = clock

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return self._key is None

    def refusal(self, given: str | None) -> str | None:
        """Return why a request with the credential *given* is rejected; ``None`` if accepted."""
        if self._key is None:
            return None
        if given is None:
            return "Missing API key"
        if hmac.compare_digest(given.encode("latin-1"), self._key):  # headers are latin-1 text
            return None
        return self._fault_of_token(given)

    def describe(self) -> dict[str, Any]:
        """Return the response of ``auth/apikey/me``."""
        details = {"org_details": {"name": ORGANIZATION}, "user_details": {"email": EMAIL}}
        about = {"key_id": 1, "name": "local", "note": "local serve --api-key"}
        return {**about, "details": details}

    def token(self) -> str:
        """Return a token that can replace the key until it expires."""
        now = int(self._clock())
        claims = {
            "sub": "tml:user:local",
            "org_id": ORGANIZATION,
            "email": EMAIL,
            "iat": now,
            "exp": now + TOKEN_LIFETIME,
        }
        signed = f"{_encoded(json.dumps(_HEADER).encode())}.{_encoded(json.dumps(claims).encode())}"
        return f"{signed}.{self._signature(signed)}"

    def _fault_of_token(self, given: str) -> str | None:
        signed, _, signature = given.rpartition(".")
        expected = self._signature(signed)
        if not hmac.compare_digest(signature.encode("latin-1"), expected.encode()):
            return "Invalid API key"
        payload = signed.partition(".")[2]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return None if self._clock() < claims["exp"] else EXPIRED

    def _signature(self, signed: str) -> str:
        # Derived from the key, so that a token remains valid after a restart of the service.
        secret = hashlib.sha256(b"tinkex-local token\n" + (self._key or b"")).digest()
        return _encoded(hmac.new(secret, signed.encode("latin-1"), hashlib.sha256).digest())


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


#: Lifetime of a signed URL in seconds.
SIGNATURE_LIFETIME = 900


class Signer:
    """Signs URL paths with the secret of this installation.

    :param secret: a long random string.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def sign(self, path: str, expires: int) -> str:
        """Return *path*, percent-encoded, with the expiry and the signature as its query."""
        return f"{quote(path, safe='/:')}?expires={expires}&signature={self._mac(path, expires)}"

    def valid(self, path: str, expires: str, signature: str, now: float) -> bool:
        """Return whether the signature belongs to *path* and has not expired at *now*."""
        if not (expires.isascii() and expires.isdecimal() and len(expires) < 16):
            return False
        expected = self._mac(path, int(expires))
        genuine = hmac.compare_digest(expected.encode(), signature.encode())
        return genuine and now < int(expires)

    def _mac(self, path: str, expires: int) -> str:
        message = f"{expires}\n{path}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
