"""Whether a stream may be drawn on: NO_COLOR, CLICOLOR_FORCE and TERM, as people know them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TextIO


def can_move(stream: TextIO) -> bool:
    """Tell whether a line on *stream* can be changed after it was written: bars, elapsed times."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colour(stream: TextIO) -> bool:
    """Tell whether *stream* gets colour and other emphasis.

    ``NO_COLOR`` that is not empty means no, wherever the output goes; else ``CLICOLOR_FORCE``
    that is neither empty nor ``0`` means yes; else a terminal that is not a dumb one does.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return can_move(stream)


def can_link(stream: TextIO) -> bool:
    """Tell whether a word on *stream* can be a link: on a terminal, where emphasis is wanted."""
    return can_move(stream) and not os.environ.get("NO_COLOR")


class LinkingStream:
    """Writes to *stream*, each of the words in *links* as a link to its address (OSC 8).

    What is written is laid out already, so that no width counts what a terminal does not show;
    a copied word is the word alone. https://gist.github.com/egmontkob/eb114294efbcd5adb1944c9f3cb5feda
    """

    def __init__(self, stream: TextIO, links: Mapping[str, str]) -> None:
        self._stream = stream
        self._links = links
        words = "|".join(map(re.escape, links))
        # An id is also a part of paths: those are words of their own.
        self._pattern = re.compile(rf"(?<![\w/:-])(?:{words})(?![\w/:-])")

    def write(self, text: str) -> int:
        """Write *text*; ids do not come in parts."""
        return self._stream.write(self._pattern.sub(self._linked, text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _linked(self, match: re.Match[str]) -> str:
        return f"\x1b]8;;{self._links[match[0]]}\x1b\\{match[0]}\x1b]8;;\x1b\\"
