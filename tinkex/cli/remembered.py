"""Ids and paths that commands have printed, remembered for a while so that Tab can offer them.

One small JSON file for each profile and address, readable by its owner only. It holds names and
the time each was seen; never a key.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tinkex.cli.cachefile import CacheFile, cache_directory

if TYPE_CHECKING:
    from tinkex.settings import Settings

KINDS = ("checkpoints", "runs", "models", "sessions")
#: Seconds after which a name is not offered any more unless it was seen again.
EXPIRY = 3600.0
#: Seconds after which the service may be asked again.
FRESH = 60.0
#: Names of each kind that are kept: the latest.
KEPT = 1000
#: Bytes of a file that are read: room for that many long names.
_LONGEST = 16 * 1024 * 1024


class Remembered:
    """The names seen with one profile at one address.

    :param directory: where the file is.
    """

    def __init__(self, base_url: str, profile: str | None, directory: Path | None = None) -> None:
        self._file = CacheFile(
            directory or cache_directory("completion"),
            f"{profile or ''}\n{base_url}",
            expiry=EXPIRY,
            longest=_LONGEST,
        )
        self.path = self._file.path

    @classmethod
    def of(cls, settings: Settings) -> Remembered:
        """Return what is remembered for *settings*."""
        return cls(settings.base_url, settings.profile)

    def names(self, kind: str) -> list[str]:
        """Return the names of *kind* that are not too old, the latest first."""
        seen = self._read().get(kind, {})
        oldest = time.time() - EXPIRY
        latest = sorted(seen.items(), key=lambda item: -item[1])
        return [name for name, at in latest if name and at > oldest]

    def is_fresh(self, kind: str) -> bool:
        """Tell whether *kind* was listed, or asked for in vain, just now."""
        return self._read().get(kind, {}).get("", 0.0) > time.time() - FRESH

    def add(self, kind: str, names: Iterable[str | None], *, whole: bool = False) -> None:
        """Remember *names*, the first as the latest.

        :param whole: these are all there are; others are forgotten.
        """
        now = time.time()
        content = self._read()
        # A little apart, so that they come back in this order.
        new = {name: now - place / 1e6 for place, name in enumerate(names) if name}
        old = {} if whole else content.get(kind, {})
        merged = {name: at for name, at in (old | new).items() if at > now - EXPIRY}
        latest = sorted(merged, key=lambda name: -merged[name])[:KEPT]
        before = content.get(kind, {})
        if before.get("", 0.0) > now - FRESH and [name for name in before if name] == latest:
            return  # the same a moment ago: not worth a file
        self._file.write(content | {kind: {name: merged[name] for name in latest} | {"": now}})

    def drop(self, kind: str, names: Iterable[str]) -> None:
        """Forget *names*."""
        content = self._read()
        known = content.get(kind, {})
        gone = known.keys() & set(names)
        if gone:
            self._file.write(content | {kind: {n: at for n, at in known.items() if n not in gone}})

    def mark_asked(self, kind: str) -> None:
        """Note that the service is being asked for *kind*."""
        content = self._read()
        self._file.write(content | {kind: content.get(kind, {}) | {"": time.time()}})

    def _read(self) -> dict[str, dict[str, float]]:
        """Return kind → name → time seen; the name ``""`` is the time of the last listing."""
        content = self._file.read()
        now = time.time()
        try:
            # A time to come is of a clock that was wrong: it would not pass for long.
            return {
                kind: {str(name): float(at) for name, at in content[kind].items() if at <= now}
                for kind in KINDS
                if kind in content
            }
        except (ValueError, TypeError, AttributeError):
            return {}
