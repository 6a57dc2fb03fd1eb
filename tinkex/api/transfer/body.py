"""The body of a storage's answer: counted, put straight into its place, no cut unseen."""

from __future__ import annotations

import re
from typing import Protocol

from tinkex.api.http import errors
from tinkex.exceptions import ConnectionFailed, InvalidResponse, TimedOut
from tinkex.plugins import HttpResponse

#: Bytes that are read at a time; no more than that is lost when a program is killed.
BLOCK = 256 * 1024


class Readable(Protocol):
    """Anything that gives bytes."""

    def readinto(self, room: memoryview, /) -> int:
        """Put what comes next into *room*; return how many bytes that is, none at the end."""
        ...


class Body:
    """A download under way: a readable object that counts and notices a cut.

    :ivar start: position of its first byte within the file.
    :ivar total: size of the whole file in bytes, or ``None``.
    :ivar expected: bytes announced by the server, or ``None``.
    :ivar validator: a strong entity tag or a date by which the file is known again, or ``None``.
    :ivar ranged: the server sends parts of the file on request.
    """

    def __init__(self, response: HttpResponse, url: str) -> None:
        self._url = url
        headers = response.headers
        encoded = headers.get("content-encoding", "identity") != "identity"
        self.expected = None if encoded else _count(headers.get("content-length", ""))
        self.start, self.total = 0, self.expected
        if response.status == 206:
            self.start, self.total = _content_range(headers.get("content-range", ""))
        self.ranged = response.status == 206 or headers.get("accept-ranges") == "bytes"
        self.validator: str | None = None
        if not encoded:
            tag = headers.get("etag", "")
            strong = len(tag) > 2 and tag.startswith('"') and tag.isascii() and tag.isprintable()
            self.validator = tag if strong else headers.get("last-modified") or None
        else:
            self.total = None
        self.received = 0
        self._chunks = response.chunks(BLOCK)
        self._rest = memoryview(b"")

    def readinto(self, room: memoryview) -> int:
        """Put what comes next into *room*; return how many bytes that is, none at the end.

        :raises tinkex.exceptions.TransportError: the connection broke or stayed silent.
        """
        if not self._rest:
            try:
                self._rest = memoryview(next(self._chunks, b""))
            except TimedOut as error:
                raise TimedOut("Timed out while awaiting more of the download") from error
            except ConnectionFailed as error:
                raise self._cut() from error
            if not self._rest and self.expected is not None and self.received != self.expected:
                raise self._cut()
        count = min(len(room), len(self._rest))
        room[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.received += count
        return count

    def read(self, size: int = BLOCK) -> bytes:
        """Return up to *size* bytes, none at the end; raises as :meth:`readinto`."""
        room = memoryview(bytearray(size))
        return bytes(room[: self.readinto(room)])

    def _cut(self) -> ConnectionFailed:
        of = f" of {self.expected}" if self.expected is not None else ""
        host = errors.host_of(self._url)
        return ConnectionFailed(
            f"the connection to {host} was cut off after {self.received}{of} bytes"
        )


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 19 else None


def _content_range(text: str) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", text, re.ASCII)
    if match is None:
        raise InvalidResponse("the storage sent a part of the file without saying which")
    return int(match[1]), _count(match[3])
