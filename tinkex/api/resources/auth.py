"""The API key: its owner, whether the service accepts it, and its revocation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.auth import JWT_PREFIX
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.resources.models import list_models
from tinkex.config.credentials import jwt_claims
from tinkex.exceptions import NotOffered

#: Prefix of an organization's URN; tokens have the id without it.
_ORGANIZATION = "tml:organization:"


@dataclass(frozen=True)
class ApiKey:
    """The service's record of a key, with its organization and user; never the key itself."""

    key_id: str
    name: str = ""
    note: str | None = None
    organization: str | None = None
    email: str | None = None

    @classmethod
    def from_json(cls, data: Any) -> ApiKey:
        """Return the key that a response of ``auth/apikey/me`` describes."""
        key = schema.mapping(data, "the key")
        number = key.get("key_id")
        key_id = number if isinstance(number, str) else schema.optional_int(key, "key_id")
        if key_id in (None, ""):
            schema.refuse("no 'key_id'")
        details = schema.optional_mapping(key, "details") or {}
        organization = schema.optional_mapping(details, "org_details") or {}
        user = schema.optional_mapping(details, "user_details") or {}
        return schema.read(
            cls,
            key,
            "the key",
            key_id=str(key_id),
            organization=schema.optional_text(organization, "name"),
            email=schema.optional_text(user, "email"),
        )


@dataclass(frozen=True)
class KeyCheck:
    """The result of a check: the service responded and did not reject the key.

    :ivar api_key: the service's record of the key, or ``None`` if the service does not return it.
    :ivar seconds: response time, including the connection.
    :ivar is_proved: whether the service has accepted the key; some services cannot confirm it.
    """

    api_key: ApiKey | None
    seconds: float
    is_proved: bool = True


@dataclass(frozen=True)
class Identity:
    """The owner of the key; members are ``None`` if the service does not report them."""

    email: str | None = None
    organization: str | None = None
    user_urn: str | None = None
    org_urn: str | None = None
    key_id: str | None = None
    key_name: str | None = None


class Auth:
    """Checks, describes and revokes the key of this client."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def check(self) -> KeyCheck:
        """Check that the service responds and accepts the key.

        If the server has no information about keys, lists are requested instead.

        :raises Unauthorized: the service does not accept the key.
        """
        deadline = self._transport.deadline("a response from the service")
        began = time.monotonic()
        key, is_proved = None, True
        try:
            if self._transport.auth.current is None:
                list_models(self._transport, deadline)
            else:
                key = self._key(deadline)
        except NotOffered:  # a server without such information, or a token instead of a key
            from tinkex.api.http.probe import proves_key

            began = time.monotonic()
            is_proved = proves_key(lambda request: self._transport.call(request, deadline))
        return KeyCheck(key, time.monotonic() - began, is_proved)

    def identity(self) -> Identity:
        """Return the owner of the key, from the key's record and from a token.

        :raises NotOffered: the service offers neither.
        """
        deadline = self._transport.deadline("information about the key")
        missing: NotOffered | None = None
        try:
            key = self._key(deadline)
        except NotOffered as error:
            key, missing = ApiKey(""), error
        # The claims are only shown, so they are not verified.
        claims = {
            name: value
            for name, value in jwt_claims(self._transport.token(deadline) or "").items()
            if isinstance(value, str) and value
        }
        if missing is not None and not claims:
            raise missing
        organization = claims.get("org_id")
        return Identity(
            email=key.email or claims.get("email"),
            organization=key.organization,
            user_urn=claims.get("sub"),
            org_urn=organization and _ORGANIZATION + organization,
            key_id=key.key_id or None,
            key_name=key.name or None,
        )

    def revoke(self) -> None:
        """Delete the key on the server, for every user of it."""
        deadline = self._transport.deadline("key revocation")
        request = Request("DELETE", "auth/apikey/me", what="key revocation")
        self._transport.call(request, deadline)

    def _key(self, deadline: Deadline) -> ApiKey:
        if (self._transport.auth.current or "").startswith(JWT_PREFIX):
            raise NotOffered("the credential is a token, not a key", status=404)
        request = Request("GET", "auth/apikey/me", what="information about keys")
        return ApiKey.from_json(self._transport.call(request, deadline).object())
