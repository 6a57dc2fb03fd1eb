"""How an error is told on standard error: one sentence and one hint, or one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from tinkex.exceptions import LocalError, TinkexError, UsageError


def as_tinkex_error(error: Exception) -> TinkexError:
    """Return *error* if it is ours, else one of ours that says as much as can be said."""
    if isinstance(error, TinkexError):
        return error
    if isinstance(error, FileNotFoundError) and not error.filename:  # of os.getcwd() alone
        return LocalError(
            "the current directory is no longer there", hint="Go to another one: cd ~"
        )
    if isinstance(error, OSError) and error.strerror:
        # Everything but the standard streams has a name.
        where = f"{error.filename}: " if error.filename else "cannot write the output: "
        return LocalError(f"{where}{error.strerror}")
    what = " ".join(str(error).split())[:200]
    return UsageError(
        f"This is a bug in tinkex or in a plugin: {type(error).__name__}: {what}",
        hint="Run it again with --debug, and report what that prints to its maintainers.",
        whole_line=True,
    )


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
