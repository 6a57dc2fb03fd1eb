"""What a server is known to lack, remembered for a day so that it need not be asked again.

Only that is kept for which there is another way, and only after the other way has worked: an
outage must not be taken for a lack. The last way is always asked. One small file of the cache for
each base URL holds names of endpoints and times; never an address, a key or an id.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

from tinkex.cli.cachefile import CacheFile

#: Seconds after which a lack is looked at anew.
EXPIRY = 86400.0
#: Lacks of one server that are kept, and bytes of a file that are read: far more than there are.
KEPT = 32
_LONGEST = 16384

ACCOUNT_LIST = "GET checkpoints"
FINISH = "POST sessions/{id}/finish"
CREATE_BY_LOADING = "POST load_weights without a model"
FULL_ARCHIVE = "GET training_runs/{run}/checkpoints/{kind}/{name}/archive"


class Capabilities:
    """What one server lacks.

    :param base_url: the server.
    :param directory: where the files are; without one nothing outlives this object.
    """

    def __init__(self, base_url: str = "", directory: Path | None = None) -> None:
        self._file = CacheFile(directory, base_url, expiry=EXPIRY, longest=_LONGEST)
        self.path = self._file.path
        self._missing: dict[str, float] | None = None
        self._lock = threading.Lock()

    def lacks(self, endpoint: str) -> bool:
        """Tell whether the server was found not to have *endpoint*, less than a day ago."""
        with self._lock:
            return endpoint in self._known()

    def missing(self, endpoint: str) -> None:
        """Remember that *endpoint* is missing."""
        with self._lock:
            if endpoint not in self._known():
                self._change({endpoint: time.time()}, drop=None)

    def offered(self, endpoint: str) -> None:
        """Forget that *endpoint* was missing: it has just answered."""
        with self._lock:
            if endpoint in self._known():
                self._change({}, drop=endpoint)

    def _known(self) -> dict[str, float]:
        if self._missing is None:
            self._missing = self._read()
        oldest = time.time() - EXPIRY
        return {name: at for name, at in self._missing.items() if at > oldest}

    def _change(self, more: dict[str, float], drop: str | None) -> None:
        # Another process may have learnt something meanwhile.
        known = self._known() | self._read() | more
        known.pop(drop or "", None)
        latest = sorted(known, key=lambda name: -known[name])[:KEPT]
        self._missing = {name: known[name] for name in latest}
        if self._missing:
            self._file.write({"missing": self._missing})
        else:
            self._file.remove()

    def _read(self) -> dict[str, float]:
        content = self._file.read()
        try:
            found = {str(name): float(at) for name, at in content["missing"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            return {}
        now = time.time()  # a time to come is of a clock that was wrong
        good = {n: at for n, at in found.items() if math.isfinite(at) and now - EXPIRY < at <= now}
        return dict(list(good.items())[:KEPT])
