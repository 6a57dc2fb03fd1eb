"""SHA-256 of what arrives, worked out while more arrives."""

from __future__ import annotations

import hashlib
import queue
import threading
from types import TracebackType

#: Blocks that may wait; with those of 256 KiB, two MiB.
_AHEAD = 8
#: Bytes of a file from which a thread is worth its start.
_WORTH = 4 * 1024 * 1024


class Digest:
    """A SHA-256 sum that a thread of its own works out; a context manager.

    hashlib lets other threads run meanwhile, so that on two cores the sum costs next to no time.

    :param size: bytes to come; for few there is no thread. ``None`` if nobody knows.
    """

    def __init__(self, size: int | None = None) -> None:
        self._sum = hashlib.sha256()
        self._waiting: queue.Queue[bytes | None] | None = None
        if size is None or size >= _WORTH:
            self._waiting = queue.Queue(_AHEAD)
            self._thread = threading.Thread(target=self._work, args=(self._waiting,), daemon=True)
            self._thread.start()

    def __enter__(self) -> Digest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def update(self, block: bytes) -> None:
        """Add *block*."""
        if self._waiting is None:
            self._sum.update(block)
        else:
            self._waiting.put(block)

    def hexdigest(self) -> str:
        """Return the sum; nothing can be added afterwards."""
        if self._end():
            self._thread.join()
        return self._sum.hexdigest()

    def _end(self) -> bool:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.put(None)
        return waiting is not None

    def _work(self, waiting: queue.Queue[bytes | None]) -> None:
        while (block := waiting.get()) is not None:
            self._sum.update(block)
