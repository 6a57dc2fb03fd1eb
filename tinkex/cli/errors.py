"""How an error is told on standard error: one sentence and one hint, or one JSON object."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from tinkex.exceptions import LocalError, Terminated, TinkexError, UsageError

_HINTS = {
    errno.ENOENT: "Check the name.",
    errno.ENOTDIR: "Check the name.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EISDIR: "Name a file in it.",
    errno.EACCES: "Check the permissions.",
    errno.EPERM: "Check the permissions.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.ENOSPC: "Free some space, or choose another place.",
    errno.EDQUOT: "Free some space, or choose another place.",
}


def as_tinkex_error(error: Exception) -> TinkexError:
    """Return *error* if it is ours, else one of ours that says as much as can be said."""
    if isinstance(error, TinkexError):
        if error.hint == LocalError.default_hint:
            error.hint = _hint_about(error.__cause__) or error.hint
        return error
    if isinstance(error, OSError) and error.strerror:
        if error.errno == errno.ENOENT and not error.filename:
            return LocalError(
                "the current directory is not there any more", hint="Go to another one with cd."
            )
        # Everything else but the standard streams has a name.
        where = f"{error.filename}: " if error.filename else "cannot write the output: "
        return LocalError(f"{where}{error.strerror}", hint=_hint_about(error))
    what = " ".join(str(error).split())[:200]
    return UsageError(
        f"This is a bug in tinkex or in a plugin: {type(error).__name__}: {what}",
        hint="Run it again with --debug, and report what that prints to its maintainers.",
        whole_line=True,
    )


def _hint_about(error: BaseException | None) -> str | None:
    """Return what to do about an *error* of the system, if that is known."""
    return _HINTS.get(error.errno or 0) if isinstance(error, OSError) else None


def tell(error: TinkexError, operation: str, stream: TextIO, *, as_json: bool) -> None:
    """Write *error* to *stream*.

    :param operation: the subject of the sentence, such as ``Checkpoint list``.
    :param as_json: as one line ``{"error": {…}}``, for programs.
    """
    from tinkex.columns import json_text, printable

    if as_json:
        stream.write(json_text({"error": error.as_dict(operation)}) + "\n")
    else:
        stream.write(printable(error.sentence(operation)) + "\n")
        if error.hint:
            stream.write(f"Hint: {printable(error.hint)}\n")
    stream.flush()


def asks_for_json(words: Sequence[str]) -> bool:
    """Tell whether the words of a line that cannot be parsed ask for JSON."""
    pairs = zip(words, [*words, ""][1:], strict=True)
    return (
        "--json" in words
        or any(f"{word} {after}" in ("-f json", "--format json") for word, after in pairs)
        or not {"-fjson", "-f=json", "--format=json"}.isdisjoint(words)
    )


@contextmanager
def signals_first() -> Iterator[None]:
    """Let what a signal raised come out as itself, whatever became of it on the way.

    It may be raised anywhere: where Python wraps what a class body raises, or just before some
    cleaning up fails because of it.

    :raises KeyboardInterrupt, Terminated: one of them is behind an error.
    """
    try:
        yield
    except Exception as error:
        signal = _signal_behind(error)
        if signal is None:
            raise
        raise signal from None


def _signal_behind(error: BaseException) -> BaseException | None:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, (KeyboardInterrupt, Terminated)):
            return found
        if id(found) not in seen:
            seen.add(id(found))
            waiting += filter(None, (found.__cause__, found.__context__))
    return None
