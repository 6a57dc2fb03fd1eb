"""Signed addresses of a checkpoint's files, and how long they are good for."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import TinkerPath
from tinkex.exceptions import APIError, InvalidResponse

#: Life in seconds of a copy that the service makes for a download.
COPY_TTL = 3600
#: Addresses are renewed when they have less than this left.
_MARGIN = timedelta(minutes=5)


class SignedFiles:
    """The signed addresses of a checkpoint's files, renewed before they run out.

    :param keep: the checkpoint is the user's own, so its life is not touched.
    """

    def __init__(self, transport: Transport, path: TinkerPath, keep: bool) -> None:
        self._transport = transport
        self._path = path
        self._keep = keep
        self._urls: dict[str, str] = {}
        self._until: datetime | None = None

    def urls(self) -> dict[str, str]:
        """Return relative name → address, good for some minutes."""
        if not self._urls or (self._until and datetime.now(UTC) > self._until - _MARGIN):
            self.renewed()
        return self._urls

    def renewed(self) -> dict[str, str]:
        """Return new addresses."""
        deadline = self._transport.deadline("addresses of the files")
        what = "downloads of separate files"
        request = Request("GET", f"{self._path.url}/external_weights_urls", what=what)
        data = self._transport.call(request, deadline).object()
        urls = schema.mapping(data.get("urls"), "urls")
        if not all(isinstance(url, str) for url in urls.values()):
            schema.refuse("no addresses as 'urls'")
        self._urls = dict(urls)
        self._until = _expiry(data)
        if not self._keep:
            self._prolong(deadline)
        return self._urls

    def _prolong(self, deadline: Deadline) -> None:
        # The copy has to outlive its addresses.
        body = {"ttl_seconds": COPY_TTL}
        with suppress(APIError):
            self._transport.call(Request("PUT", f"{self._path.url}/ttl", body), deadline)


def _expiry(data: dict[str, Any]) -> datetime | None:
    try:
        until = schema.optional_time(data, "expires")
    except InvalidResponse:
        return None
    # One that is over at once would only be renewed again and again.
    return until if until and until > datetime.now(UTC) + _MARGIN else None
