"""Command lines of the interactive shell, split as a POSIX shell splits them.

Quotes and backslashes work as there, ``|``, ``>`` and ``>>`` stand for themselves only outside of
quotes, ``#`` begins a comment, a backslash at the end of a line joins the next one to it. Nothing
is expanded: neither variables nor file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinkex.exceptions import UsageError

#: What a backslash inside double quotes takes the meaning of.
_ESCAPABLE = '"\\$`'


@dataclass(frozen=True)
class Line:
    """One command line.

    :ivar words: the words of the tinkex command.
    :ivar target: file that takes the output, or ``None``.
    :ivar append: the output goes to the end of that file.
    :ivar pipe: command of the system that reads the output, as it was typed, or ``None``.
    """

    words: list[str]
    target: str | None = None
    append: bool = False
    pipe: str | None = None


@dataclass(frozen=True)
class Unfinished:
    """A line up to the cursor, for completion.

    :ivar words: the words before the one under the cursor.
    :ivar current: the word under the cursor, without quotes; may be empty.
    :ivar start: where that word begins in the line, its quotes included.
    :ivar after: the last operator: ``""``, ``|``, ``>`` or ``>>``.
    """

    words: list[str]
    current: str
    start: int
    after: str = ""


@dataclass
class _Token:
    """A word, or an operator, and where it stands."""

    text: str
    start: int
    end: int
    operator: bool = False
    #: The quote that is still open at the end of the line.
    quote: str = ""
    #: It was typed as it is, without quotes.
    bare: bool = True


def parse(text: str) -> Line:
    """Return the command line that *text* means.

    :raises UsageError: a quote is left open, or an operator has nothing to work on.
    """
    words: list[str] = []
    target: str | None = None
    append = False
    tokens = _tokens(text)
    for token in tokens:
        if token.quote:
            raise _unreadable("No closing quotation", text)
        if not token.operator:
            words.append(token.text)
        elif token.text == "|":
            return Line(words, pipe=_pipe(text, token.end, words, target))
        elif target is not None:
            raise _unreadable("the output can go to one file only", text)
        else:
            target, append = _target(text, token, tokens), token.text == ">>"
    if target is not None and not words:
        raise _unreadable("there is no command before the '>'", text)
    return Line(words, target, append)


def commands(text: str) -> Iterator[str]:
    """Yield the command lines in *text*, which was pasted and may have several."""
    begin = end = 0
    for token in _tokens(text):
        gap = text[end : token.start]
        # A backslash at the end of a comment is part of it.
        if "\n" in (gap if "#" in gap else gap.replace("\\\n", "")):
            yield text[begin : token.start]
            begin = token.start
        end = token.end
    yield text[begin:]


def is_continued(text: str) -> bool:
    """Tell whether *text* ends with a backslash that joins the next line to it."""
    *_, last = [None, *_tokens(text)]
    backslashes = len(text) - len(text.rstrip("\\"))
    inside = last is not None and last.end == len(text) and last.quote != "'"
    return inside and backslashes % 2 == 1


def unfinished(text: str) -> Unfinished:
    """Return what *text*, a line up to the cursor, holds; no mistake in it is an error."""
    words: list[str] = []
    after = ""
    last: _Token | None = None
    for token in _tokens(text):
        last = token
        if token.operator:
            after, words = token.text, []
            if after == "|":
                return Unfinished([], "", len(text), after)
        else:
            words.append(token.text)
    if last is not None and not last.operator and (last.end == len(text) or last.quote):
        return Unfinished(words[:-1], last.text, last.start, after)
    return Unfinished(words, "", len(text), after)


def _pipe(text: str, begin: int, words: list[str], target: str | None) -> str:
    command = text[begin:].strip()
    if not words or not command or command[0] in "|&":
        raise _unreadable("a '|' stands between a tinkex command and one of the system", text)
    if target is not None:
        raise _unreadable("the output goes to a file or through a '|', not both", text)
    return command


def _target(text: str, operator: _Token, tokens: Iterator[_Token]) -> str:
    if text[operator.start - 1 : operator.start].isdigit():
        before = text[: operator.start].split()[-1]
        if before.isdigit():
            raise _unreadable("only standard output can be redirected", text)
    name = next(tokens, None)
    if name is None or name.operator or name.text == "" or (name.bare and name.text[0] == "&"):
        raise _unreadable(f"a '{operator.text}' needs the name of a file", text)
    if name.quote:
        raise _unreadable("No closing quotation", text)
    return name.text


def _unreadable(why: str, text: str) -> UsageError:
    return UsageError(
        f"Cannot read the line: {why}: {text.strip()[:200]}",
        hint="Put single quotes around text with quotes, '|' or '>' in it.",
        whole_line=True,
    )


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text.startswith("\\\n", at):
            at += 2
        elif text[at] == "#":
            at = text.find("\n", at) if "\n" in text[at:] else len(text)
        elif text[at] in "|>":
            length = 2 if text.startswith(">>", at) else 1
            yield _Token(text[at : at + length], at, at + length, operator=True)
            at += length
        else:
            token = _word(text, at)
            yield token
            at = token.end


def _word(text: str, start: int) -> _Token:
    """Read the word that begins at *start*."""
    out: list[str] = []
    quote, at, bare = "", start, True
    while at < len(text):
        char = text[at]
        if not quote and (char.isspace() or char in "|>"):
            break
        after = text[at + 1 : at + 2]
        if char == "\\" and after == "\n" and quote != "'":
            at += 2
            continue
        if char == "\\" and quote != "'" and (not quote or after in _ESCAPABLE):
            out.append(after)
            at, bare = at + 1, False
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote, bare = char, False
        else:
            out.append(char)
        at += 1
    return _Token("".join(out), start, min(at, len(text)), quote=quote, bare=bare)
