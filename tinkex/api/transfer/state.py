"""The state of a download: sizes, tags and ranges of partial files, for the next attempt.

The state is a log of JSON lines; the last line about a file is the valid one. The cost of a change
therefore does not depend on the number of files. A log whose size has doubled is replaced by one
without outdated lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinkex.api.transfer import manifest
from tinkex.files import private_directory, write_private

_VERSION = 3
#: Exceptions raised if the content was not written by a download.
_FOREIGN = (OSError, ValueError, RecursionError, KeyError, TypeError)
#: Minimum number of appended bytes before a log is replaced.
_SLACK = 256 * 1024


@dataclass
class Segment:
    """A range of a file: its first byte, the next byte to fetch, and the byte after its last."""

    start: int
    position: int
    end: int


@dataclass
class PartialFile:
    """The state of a partial file.

    :ivar size: its size in bytes.
    :ivar tag: the entity tag or date of the version being downloaded.
    :ivar segments: its ranges, in order.
    """

    size: int
    tag: str
    segments: list[Segment]

    @property
    def received(self) -> int:
        """Number of bytes received."""
        return sum(segment.position - segment.start for segment in self.segments)


@dataclass
class State:
    """The state of a download.

    :ivar directory: device and inode of its staging directory.
    :ivar copy: the id of a temporary copy that the service has made for it.
    :ivar files: the partial files, by their names relative to the directory.
    """

    directory: list[int]
    copy: str | None
    files: dict[str, PartialFile]


class StateLog:
    """The log file *path* with the state of a download."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Bytes that may still be appended before it is replaced; the first write replaces it.
        self._room = 0

    def read(self) -> State | None:
        """Return the state, without files if it is damaged; ``None`` without a valid log.

        An incomplete last line, left by a killed process, is ignored.
        """
        try:
            first, *lines = self.path.read_bytes().split(b"\n")[:-1]
            state = _with_head(State([], None, {}), json.loads(first))
        except _FOREIGN:
            return None
        with suppress(*_FOREIGN):
            for line in lines:
                found = json.loads(line)
                if isinstance(found, dict):
                    state = _with_head(state, found)
                    continue
                name, file = _parsed(*found)
                state.files[name] = file
                if not file.segments:
                    del state.files[name]
            return state
        return State(state.directory, None, {})

    def write(self, state: State, changed: Iterable[str]) -> None:
        """Write the changes of *state*: the files *changed* were added, changed or removed.

        :raises tinkex.exceptions.LocalError: it cannot be written.
        """
        text = _text(state, changed)
        if len(text) <= self._room:
            self._room -= len(text)
            # Ranges must be written before their bytes: without them, a file appears to be received
            # from its beginning.
            durable = any(len(state.files[n].segments) > 1 for n in changed if n in state.files)
            try:
                self._append(text.encode(), durable=durable)
                return
            except OSError:
                pass
        text = _text(state, state.files)
        private_directory(self.path.parent)
        write_private(self.path, text)
        self._room = len(text) + _SLACK

    def _append(self, text: bytes, *, durable: bool) -> None:
        with open(os.open(self.path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0) as file:
            if file.write(text) != len(text):
                raise OSError("the disk is full")
            if durable:
                os.fsync(file.fileno())


def _text(state: State, names: Iterable[str]) -> str:
    head = {"version": _VERSION, "directory": state.directory, "copy": state.copy}
    lines = [json.dumps(head)]
    for name in names:
        file = state.files.get(name, PartialFile(0, "", []))
        segments = [[s.start, s.position, s.end] for s in file.segments]
        lines.append(json.dumps([name, file.size, file.tag, segments]))
    return "\n".join(lines) + "\n"


def _with_head(state: State, head: dict[str, Any]) -> State:
    """Return *state* with the directory and the copy from *head*.

    :raises ValueError, KeyError, TypeError: it was not written by a download.
    """
    copy, directory = head["copy"], head["directory"]
    if head["version"] != _VERSION or not isinstance(copy, str | None):
        raise ValueError("unknown format")
    return State(directory, copy, state.files)


def _parsed(name: Any, size: Any, tag: Any, segments: Any) -> tuple[str, PartialFile]:
    """Parse a file's line of the log.

    :raises ValueError, TypeError: it was not written by a download.
    """
    ranges = [Segment(start, position, end) for start, position, end in segments]
    ints = all(type(n) is int for s in segments for n in s) and type(size) is int
    ordered = all(0 <= s.start <= s.position <= s.end <= size for s in ranges)
    if not (ints and ordered and isinstance(tag, str) and manifest.is_relative_name(name)):
        raise ValueError(name)
    return name, PartialFile(size, tag, ranges)
