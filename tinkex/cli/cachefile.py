"""Small JSON files that make the next command quicker, and may vanish at any time.

Each is about one thing, a server say, and is named by a hash of it, so that neither its name nor a
listing of the directory tells anything. Only its owner can read it. A file that cannot be read
counts as empty, and one that cannot be written is left as it is: no command fails for a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tinkex.files import replacing


class CacheFile:
    """One such file.

    :param directory: where it lies, with others of its kind only; it is made when needed. Without
        one nothing is kept.
    :param about: what it is about, an address say.
    :param expiry: seconds after which a file that was not written again is of no use.
    :param longest: bytes of it that are read.
    """

    def __init__(self, directory: Path | None, about: str, *, expiry: float, longest: int) -> None:
        name = hashlib.sha256(about.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self.path = directory / f"{name}.json" if directory else None
        self._expiry = expiry
        self._longest = longest

    def read(self) -> Any:
        """Return what it holds, or ``None``: anybody may have written it, so look closely."""
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                return json.loads(file.read(self._longest))
        except (OSError, ValueError, RecursionError):
            return None

    def write(self, content: Any) -> None:
        """Write *content* if that is possible, and remove files of this kind that are too old."""
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(self.path.parent, time.time() - self._expiry)
            # Not durable: that takes longer than what this file saves.
            with replacing(self.path, mode=0o600, durable=False) as stream:
                stream.write(json.dumps(content).encode())

    def remove(self) -> None:
        """Remove the file if that is possible."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def cache_directory(kind: str) -> Path | None:
    """Return where this user's files of *kind* are; ``None`` where there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "tinkex" / kind
    except RuntimeError:
        return None


def _sweep(directory: Path, oldest: float) -> None:
    for file in directory.iterdir():
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < oldest:
                file.unlink()
