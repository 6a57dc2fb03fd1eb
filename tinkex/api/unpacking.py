"""What tarfile reads headers from, while contents go by it: nothing is copied twice."""

from __future__ import annotations

import zlib
from typing import Protocol

from tinkex.exceptions import InvalidAnswer

_BLOCK = 256 * 1024
GZIP_MAGIC = b"\x1f\x8b"
#: Of :func:`zlib.decompressobj`: the largest window, and a gzip header and trailer (CRC, length).
_GZIP_WBITS = 16 + zlib.MAX_WBITS


class Readable(Protocol):
    """Anything that gives bytes."""

    def read(self, size: int = ..., /) -> bytes:
        """Return up to *size* bytes, none at the end."""
        ...


class Peeked:
    """A source whose first bytes were looked at."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._head = b""

    def starts_with(self, magic: bytes) -> bool:
        """Tell whether *magic* comes first."""
        while len(self._head) < len(magic):
            block = self._source.read(_BLOCK)
            if not block:
                return False
            self._head += block
        return self._head.startswith(magic)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to *size* bytes, none at the end."""
        if not self._head:
            return self._source.read(size if size > 0 else _BLOCK)
        size = size if size > 0 else len(self._head)
        block, self._head = self._head[:size], self._head[size:]
        return block


class Gunzipped:
    """The content of a gzip stream (RFC 1952), which may have several members.

    :class:`gzip.GzipFile` takes its input in pieces of 8 KiB, at twice the cost.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._member = zlib.decompressobj(_GZIP_WBITS)
        self._input = b""

    def read(self, size: int = _BLOCK, /) -> bytes:
        """Return up to *size* bytes, none at the end.

        :raises zlib.error: it is damaged.
        :raises EOFError: it ends too early.
        """
        while True:
            if self._member.eof and not self._next_member():
                return b""
            taken = self._input or self._source.read(_BLOCK)
            block = self._member.decompress(taken, size)
            self._input = self._member.unconsumed_tail
            if block:
                return block
            if not taken and not self._member.eof:
                raise EOFError

    def _next_member(self) -> bool:
        """Begin another member; zeros between and after members mean nothing."""
        rest = self._member.unused_data
        while not (begun := rest.lstrip(b"\0")):
            rest = self._source.read(_BLOCK)
            if not rest:
                return False
        self._member, self._input = zlib.decompressobj(_GZIP_WBITS), begun
        return True


class Forward:
    """A source that tarfile takes for a file: it knows how far it is, and skips forward.

    :ivar position: bytes read so far.
    :ivar last_data: where the last byte other than zero ended.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._ahead = b""
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
            raise InvalidAnswer("the archive holds a header that is too large")
        parts = []
        while size and (block := self.some(size)):
            parts.append(block)
            size -= len(block)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def some(self, size: int = _BLOCK) -> bytes:
        """Return some bytes, *size* at most; none at the end."""
        block = self._ahead or self._source.read(_BLOCK)
        block, self._ahead = block[:size], block[size:]
        data = len(block) if block[-1:] != b"\0" else len(block.rstrip(b"\0"))
        if data:
            self.last_data = self.position + data
        self.position += len(block)
        return block
