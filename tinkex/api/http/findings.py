"""What a check of ``tinkex doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tinkex.exceptions import TinkexError

#: ``fail`` makes the whole examination fail; ``absent`` is an endpoint that a server lacks.
Status = Literal["ok", "warning", "fail", "skipped", "absent"]


_AGAIN = "Try it again in a while; if it stays, tell whoever runs the service."


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    :ivar check: what was looked at.
    :ivar status: how it is.
    :ivar detail: what was seen.
    :ivar hint: what to type or do about it.
    :ivar error: the error that was raised.
    """

    check: str
    status: Status
    detail: str
    hint: str | None = None
    error: TinkexError | None = field(default=None, compare=False)


def from_error(check: str, error: TinkexError, status: Status = "fail") -> Finding:
    """Return the finding that *error* is."""
    return Finding(check, status, str(error), error.hint or _AGAIN, error)
