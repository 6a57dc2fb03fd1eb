"""A file from storage that survives cuts, outages and addresses that run out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

from tinkex.api.transfer.body import Body
from tinkex.api.transfer.storage import Span, Storage
from tinkex.exceptions import (
    APIError,
    BadRequest,
    ConnectionFailed,
    Forbidden,
    InvalidResponse,
    NotFound,
)

#: What a storage answers when a signature has run out.
_EXPIRED = (Forbidden, BadRequest, NotFound)
_UNSATISFIABLE = 416


class Changed(InvalidResponse):
    """The file is not the one that the first part of it came from, or comes only as a whole."""

    def __init__(self) -> None:
        super().__init__(
            "the file has changed while it was being downloaded",
            hint="Run the same command again: it begins anew.",
        )


class Address:
    """A signed address that can be had anew; several threads may use it.

    :param find: returns an address that is good now.
    :param renew: returns a new one, whatever is known about the last.
    """

    def __init__(self, find: Callable[[], str], renew: Callable[[], str]) -> None:
        self._find, self._renew = find, renew
        self._lock = threading.Lock()
        self._renewed: str | None = None

    def url(self) -> str:
        """Return the address."""
        with self._lock:
            return self._renewed or self._find()

    def renewed(self, refused: str) -> str:
        """Return another address than *refused*; one thread alone asks for it."""
        with self._lock:
            if self._renewed is None or self._renewed == refused:
                self._renewed = self._renew()
            return self._renewed


class Stream:
    """The bytes of *span* in order; a context manager and a readable object.

    A connection that breaks is made again from where it broke, if the storage can do that.

    :ivar position: where the next byte stands in the file.
    :raises Changed: at any time, when the bytes would not be of one and the same file.
    """

    def __init__(self, storage: Storage, address: Address, span: Span) -> None:
        self._storage, self._address, self._span = storage, address, span
        self._stack = ExitStack()
        self._is_closed = False
        self._retrying, self._is_tried = storage.retrying(), False
        self.position = span.start
        self.received = 0
        self.body = self._open(span)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go; nothing more can be read."""
        self._is_closed = True
        self._stack.close()

    def readinto(self, room: memoryview) -> int:
        """Put what comes next into *room*; return how many bytes that is, none at the end.

        :raises tinkex.exceptions.TransportError: it cannot go on.
        """
        while True:
            try:
                if self._is_closed:
                    raise ConnectionFailed("the download was closed")
                count = self.body.readinto(room)
            except ConnectionFailed as error:
                if self.position == (self._span.end or self.body.total):
                    return 0  # nothing but the end was lost
                self._resume(error)
                continue
            if not count and self._is_short():
                short = ConnectionFailed("the storage sent less than it was asked for")
                self._resume(short, at_once=self.body.received > 0)
                continue
            if count:
                self.position += count
                self.received += count
                if self._is_tried:  # it went on: the next trouble is another one
                    self._retrying, self._is_tried = self._storage.retrying(), False
            return count

    def _is_short(self) -> bool:
        """Tell whether a part has ended early, as RFC 9110 (15.3.7) lets a storage do."""
        end = self._span.end or self.body.total
        return self.body.validator is not None and end is not None and self.position < end

    def _resume(self, error: ConnectionFailed, *, at_once: bool = False) -> None:
        validator, total = self.body.validator, self.body.total
        # Who closes it, because another part of the file failed, may do so under a reader's hands.
        if validator is None or total is None or self._is_closed:
            raise error
        if not at_once:
            self._is_tried = True
            self._retrying.pause_after(error, self._storage.deadline())
        self._stack.close()
        self.body = self._open(Span(self.position, self._span.end, validator, total))

    def _open(self, span: Span) -> Body:
        url = self._address.url()
        try:
            body = self._enter(url, span)
        except _EXPIRED:
            # The signature may have run out, whatever the service said about its life.
            body = self._enter(self._address.renewed(url), span)
        same = not span.validator or span.validator == body.validator
        same = same and (span.total is None or span.total == body.total)
        if body.start != span.start or not same:
            self._stack.close()
            raise Changed
        return body

    def _enter(self, url: str, span: Span) -> Body:
        try:
            return self._stack.enter_context(self._storage.open(url, span))
        except APIError as error:
            if error.status == _UNSATISFIABLE:
                raise Changed from error
            raise
