"""The body of a storage's answer: counted, put straight into its place, no cut unseen."""

from __future__ import annotations

import http.client
import re
import time
from typing import TYPE_CHECKING, Any, Protocol

from tinkex.api.http import errors
from tinkex.exceptions import ConnectionFailed, InvalidResponse, TimedOut, TinkexError

if TYPE_CHECKING:
    import requests

    from tinkex.api.http.adapter import Limit

#: Bytes that are read at a time; no more than that is lost when a program is killed.
BLOCK = 256 * 1024
#: Bytes a second from which data flow; below that, what has come is taken at once, this much of it.
_FLOW, _SIP = 5 * 1024 * 1024, 64 * 1024


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
    :param limit: bounds what is read; it is given *patience* seconds anew with every block.
    """

    def __init__(
        self, response: requests.Response, url: str, limit: Limit, patience: float
    ) -> None:
        self._url = url
        self._limit, self._patience = limit, patience
        headers = response.headers
        self.expected = _count(headers.get("Content-Length", ""))
        self.start, self.total = 0, self.expected
        if response.status_code == 206:
            self.start, self.total = _content_range(headers.get("Content-Range", ""))
        self.ranged = response.status_code == 206 or headers.get("Accept-Ranges") == "bytes"
        self.validator: str | None = None
        self._flows = False
        encoded = headers.get("Content-Encoding", "identity") != "identity"
        if not encoded:
            tag = headers.get("ETag", "")
            strong = len(tag) > 2 and tag.startswith('"') and tag.isascii() and tag.isprintable()
            self.validator = tag if strong else headers.get("Last-Modified") or None
        else:
            self.total = None  # what is counted is not what is written
        self._source: _Source = _Foreign(response.raw, encoded)
        # Chunks, codings and what ends with its connection are left to urllib3.
        plain = self.expected is not None and not encoded
        if plain and limit.answer is not None and limit.answer.length == self.expected:
            self._source = _Straight(limit.answer, response.raw)

    @property
    def received(self) -> int:
        """Bytes received so far, as they came over the wire."""
        return self._source.received

    def readinto(self, room: memoryview) -> int:
        """Put what comes next into *room*; return how many bytes that is, none at the end.

        :raises tinkex.exceptions.TransportError: the connection broke or stayed silent.
        """
        # What has come is taken at once, so that a slow transfer is not taken for silence. A fast
        # one costs less in blocks that are full; nothing but content can come within them.
        self._limit.restart(self._patience, rolling=self._flows)
        began = time.monotonic()
        try:
            count = self._source.readinto(room, full=self._flows)
        except (*errors.FOREIGN, http.client.HTTPException) as error:
            raise self._broken(error) from error
        self._flows = count > _FLOW * (time.monotonic() - began) and self.expected is not None
        if not count and self.expected is not None and self.received != self.expected:
            raise self._cut()
        return count

    def read(self, size: int = BLOCK) -> bytes:
        """Return up to *size* bytes, none at the end; raises as :meth:`readinto`."""
        room = memoryview(bytearray(size))
        return bytes(room[: self.readinto(room)])

    def _broken(self, error: Exception) -> TinkexError:
        ours = errors.translated(error, self._url)
        if isinstance(ours, TimedOut):
            return TimedOut("Timed out while awaiting more of the download")
        return self._cut() if isinstance(ours, ConnectionFailed) else ours

    def _cut(self) -> ConnectionFailed:
        of = f" of {self.expected}" if self.expected is not None else ""
        host = errors.host_of(self._url)
        return ConnectionFailed(
            f"the connection to {host} was cut off after {self.received}{of} bytes"
        )


class _Source(Protocol):
    """Where a body comes from; *full* means that *room* is filled, however long that takes."""

    @property
    def received(self) -> int: ...

    def readinto(self, room: memoryview, *, full: bool) -> int: ...


class _Straight:
    """The content of an answer of :mod:`http.client` that has announced its length.

    urllib3 makes a new object of every block. Where blocks go to another thread, for their sum,
    they are freed there, and the memory is given back to the system and asked for again each time.

    :param raw: urllib3's response around the answer: it gives the connection back.
    """

    def __init__(self, answer: http.client.HTTPResponse, raw: Any) -> None:
        self._answer, self._raw = answer, raw
        self.received = 0

    def readinto(self, room: memoryview, *, full: bool) -> int:
        if full:
            count = self._answer.readinto(room)
        else:
            block = self._answer.read1(min(len(room), _SIP))
            count = len(block)
            room[:count] = block
        self.received += count
        if not self._answer.length:  # read1 of Python 3.12 and older does not notice the end
            self._answer.close()
            self._raw.release_conn()
        return count


class _Foreign:
    """The content of any response that reads as urllib3's does."""

    def __init__(self, raw: Any, encoded: bool) -> None:
        self._raw, self._encoded = raw, encoded

    @property
    def received(self) -> int:
        return int(self._raw.tell())

    def readinto(self, room: memoryview, *, full: bool) -> int:
        read = self._raw.read if full else getattr(self._raw, "read1", self._raw.read)
        block: bytes = read(len(room), decode_content=self._encoded)
        room[: len(block)] = block
        return len(block)


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 19 else None


def _content_range(text: str) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", text, re.ASCII)
    if match is None:
        raise InvalidResponse("the storage sent a part of the file without saying which")
    return int(match[1]), _count(match[3])
