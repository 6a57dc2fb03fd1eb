"""What tarfile reads headers from, while contents go by it: nothing is copied twice."""

from __future__ import annotations

import zlib

from tinkex.api.transfer.body import Readable
from tinkex.exceptions import InvalidResponse

_BLOCK = 256 * 1024
GZIP_MAGIC = b"\x1f\x8b"
#: Of :func:`zlib.decompressobj`: the largest window, and a gzip header and trailer (CRC, length).
_GZIP_WBITS = 16 + zlib.MAX_WBITS


class Peeked:
    """A source whose first bytes were looked at."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._head = b""

    def starts_with(self, magic: bytes) -> bool:
        """Tell whether *magic* comes first."""
        room = memoryview(bytearray(_BLOCK))
        while len(self._head) < len(magic):
            count = self._source.readinto(room)
            if not count:
                return False
            self._head += room[:count]
        return self._head.startswith(magic)

    def forget(self) -> None:
        """Go on with what the source has next: it has moved."""
        self._head = b""

    def readinto(self, room: memoryview, /) -> int:
        """Put what comes next into *room*; return how many bytes that is, none at the end."""
        if not self._head:
            return self._source.readinto(room)
        block, self._head = self._head[: len(room)], self._head[len(room) :]
        room[: len(block)] = block
        return len(block)


class Gunzipped:
    """The content of a gzip stream (RFC 1952), which may have several members.

    :class:`gzip.GzipFile` takes its input in pieces of 8 KiB, at twice the cost.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._member = zlib.decompressobj(_GZIP_WBITS)
        self._room = memoryview(bytearray(_BLOCK))
        self._input: bytes | memoryview = b""

    def readinto(self, room: memoryview, /) -> int:
        """Put what comes next into *room*; return how many bytes that is, none at the end.

        :raises zlib.error: it is damaged.
        :raises EOFError: it ends too early.
        """
        while True:
            if self._member.eof and not self._next_member():
                return 0
            taken = self._input or self._room[: self._source.readinto(self._room)]
            block = self._member.decompress(taken, len(room))
            self._input = self._member.unconsumed_tail
            if block:
                room[: len(block)] = block
                return len(block)
            if not taken and not self._member.eof:
                raise EOFError

    def _next_member(self) -> bool:
        """Begin another member; zeros between and after members mean nothing."""
        rest = self._member.unused_data
        while not (begun := rest.lstrip(b"\0")):
            rest = bytes(self._room[: self._source.readinto(self._room)])
            if not rest:
                return False
        self._member, self._input = zlib.decompressobj(_GZIP_WBITS), begun
        return True


class Forward:
    """A source that tarfile takes for a file: it knows how far it is, and skips forward.

    :ivar position: bytes read so far.
    :ivar last_data: where the last byte other than zero ended, or content that went by.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._room = memoryview(bytearray(_BLOCK))
        self._ahead = self._room[:0]
        self._last: int | None = None
        self.position = 0
        self.last_data = 0

    def allow(self, size: int | None) -> None:
        """Let no more than *size* bytes be read from now on."""
        self._last = None if size is None else self.position + size

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self.position

    def seek(self, position: int, whence: int = 0, /) -> int:
        """Skip to *position*.

        :raises EOFError: it is behind the end.
        """
        assert whence == 0
        if position < self.position:
            raise ValueError("seek backwards")
        while self.position < position:
            if not self.some(position - self.position):
                raise EOFError
        return self.position

    def read(self, size: int = -1, /) -> bytes:
        """Return *size* bytes, less only at the end."""
        assert size >= 0
        if self._last is not None and self.position + size > self._last:
            raise InvalidResponse("the archive holds a header that is too large")
        parts = []
        while size and (block := self.some(size)):
            parts.append(block)
            size -= len(block)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def some(self, size: int = _BLOCK) -> bytes:
        """Return some bytes, *size* at most; none at the end."""
        if not self._ahead:
            self._ahead = self._room[: self._source.readinto(self._room)]
        block, self._ahead = bytes(self._ahead[:size]), self._ahead[size:]
        data = len(block.rstrip(b"\0"))
        if data:
            self.last_data = self.position + data
        self.position += len(block)
        return block

    def jump(self, position: int) -> None:
        """Go on at *position*, where the source has moved to."""
        self._ahead = self._room[:0]
        self.position = self.last_data = position

    def readinto(self, room: memoryview, /) -> int:
        """Put content that comes next into *room*; return how many bytes, none at the end."""
        if self._ahead:
            count = min(len(room), len(self._ahead))
            room[:count], self._ahead = self._ahead[:count], self._ahead[count:]
        else:
            count = self._source.readinto(room)
        self.position += count
        self.last_data = self.position
        return count
