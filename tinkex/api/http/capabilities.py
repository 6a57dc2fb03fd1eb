"""The endpoints that a server was found to lack, so that it is not asked for them again.

Only those with a substitute, and only after the substitute has worked: an outage must not be taken
for a missing endpoint. The last way is always tried.
"""

from __future__ import annotations

ACCOUNT_LIST = "GET checkpoints"
FINISH = "POST sessions/{id}/finish"
CREATE_BY_LOADING = "POST load_weights without a model"
FULL_ARCHIVE = "GET training_runs/{run}/checkpoints/{kind}/{name}/archive"


class Capabilities:
    """What one server lacks, as long as its client lives."""

    def __init__(self) -> None:
        self._missing: set[str] = set()

    def lacks(self, endpoint: str) -> bool:
        """Return whether the server was found not to offer *endpoint*."""
        return endpoint in self._missing

    def missing(self, endpoint: str) -> None:
        """Remember that the server does not offer *endpoint*."""
        self._missing.add(endpoint)

    def offered(self, endpoint: str) -> None:
        """Remember that the server offers *endpoint*: it has just answered."""
        self._missing.discard(endpoint)
