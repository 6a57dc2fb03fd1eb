"""Whether a stream may be drawn on: NO_COLOR, CLICOLOR_FORCE and TERM, as people know them."""

from __future__ import annotations

import os
from typing import TextIO


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
