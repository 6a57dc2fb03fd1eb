"""What a server is known to lack, remembered for a day so that it need not be asked again.

Only that is kept for which there is another way, and only after the other way has worked: an
outage must not be taken for a lack. The last way is always asked. One small JSON file for each
base URL, named by its hash and readable by its owner only, holds names of endpoints and times;
never an address, a key or an id. A file that cannot be read counts as empty, one that cannot be
written is left as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
import threading
import time
from pathlib import Path

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
        name = hashlib.sha256(base_url.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self.path = directory / f"{name}.json" if directory else None
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
        if self.path is not None:
            with contextlib.suppress(OSError):
                self._write(self.path, self._missing)

    def _read(self) -> dict[str, float]:
        if self.path is None:
            return {}
        try:
            with self.path.open("rb") as file:
                content = json.loads(file.read(_LONGEST))
            found = {str(name): float(at) for name, at in content["missing"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}
        now = time.time()  # a time to come is of a clock that was wrong
        good = {n: at for n, at in found.items() if math.isfinite(at) and now - EXPIRY < at <= now}
        return dict(list(good.items())[:KEPT])

    @staticmethod
    def _write(path: Path, missing: dict[str, float]) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not missing:
            path.unlink(missing_ok=True)
            return
        _sweep(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent)  # for its owner only
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump({"missing": missing}, stream)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _sweep(directory: Path) -> None:
    """Remove the files of servers that nobody has asked for long."""
    oldest = time.time() - EXPIRY
    for file in directory.iterdir():
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < oldest:
                file.unlink()


def default_directory() -> Path | None:
    """Return where the files of this user are; ``None`` where there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "tinkex" / "servers"
    except RuntimeError:
        return None
