"""Display of tokens with their logprobs: colored by surprisal, and as a list with alternatives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wcwidth import wcswidth

from tinkex.columns import json_text, printable

if TYPE_CHECKING:
    from tinkex.api import Tokenizer
    from tinkex.api.sampling.types import Alternatives

#: Surprisal in bits up to which a token has a color → its terminal code.
_COLOURS = (
    (1.0, ""),
    (3.0, "\x1b[36m"),
    (6.0, "\x1b[33m"),
    (10.0, "\x1b[31m"),
    (math.inf, "\x1b[7;31m"),
)
_RESET = "\x1b[0m"
#: Widest token in a list, in columns of the terminal.
_WIDEST = 24


@dataclass(frozen=True)
class TokenLogprob:
    """A token, and the most likely tokens at its position.

    :ivar text: its text, or ``None`` without a tokenizer.
    :ivar logprob: natural logarithm of its probability, or ``None`` if it is unknown.
    :ivar top: the most likely tokens; ``None`` if not requested, or unknown.
    """

    token_id: int
    text: str | None
    logprob: float | None
    top: tuple[TokenLogprob, ...] | None = None

    @property
    def surprisal(self) -> float | None:
        """The negative logarithm of the probability, in bits."""
        return None if self.logprob is None else -self.logprob / math.log(2)

    def as_dict(self, *, with_top: bool) -> dict[str, Any]:
        """Return the token as a JSON object with the names of the OpenAI API.

        :param with_top: include ``top_logprobs``.
        """
        known: dict[str, Any] = {"token": self.text, "token_id": self.token_id}
        known["logprob"] = self.logprob
        if with_top:
            top = self.top
            known["top_logprobs"] = top and [each.as_dict(with_top=False) for each in top]
        return known


def scored(
    tokenizer: Tokenizer | None,
    tokens: Sequence[int],
    logprobs: Sequence[float | None],
    topk: Sequence[Alternatives | None] | None,
    *,
    after: Sequence[int] = (),
) -> list[TokenLogprob]:
    """Return *tokens* with their logprobs and, if given, their alternatives *topk*.

    :param after: the preceding tokens; see :meth:`tinkex.api.Tokenizer.decode`.
    """
    texts: Sequence[str | None] = [None] * len(tokens)
    if tokenizer is not None:
        texts = tokenizer.token_texts(tokens, after=after)
    before = [*after, *tokens]
    found = []
    for position, (token, text, logprob) in enumerate(zip(tokens, texts, logprobs, strict=False)):
        row = topk[position] if topk is not None else None
        top = None
        if row is not None:
            context = before[: len(after) + position]
            top = tuple(
                TokenLogprob(other, _text(tokenizer, other, context), value) for other, value in row
            )
        found.append(TokenLogprob(token, text, logprob, top))
    return found


def coloured(tokens: Sequence[TokenLogprob]) -> str:
    """Return the text of *tokens* for a terminal, each colored by its surprisal."""
    return "".join(
        _with_colour(token, printable(token.text or "", keep="\n\t")) for token in tokens
    )


def legend() -> str:
    """Return a line that explains the colors."""
    parts, before = [], 0.0
    for limit, colour in _COLOURS:
        words = f"above {before:g}" if limit == math.inf else f"{before:g}-{limit:g}"
        parts.append(f"{colour}{words}{_RESET if colour else ''}")
        before = limit
    return f"surprisal in bits: {', '.join(parts)}"


def listing(tokens: Sequence[TokenLogprob], *, colours: bool, width: int | None) -> Iterator[str]:
    """Yield a heading, and a line for each of *tokens*: logprob, probability, text, alternatives.

    :param colours: color the tokens by surprisal.
    :param width: columns of the terminal; ``None`` to show all alternatives.
    """
    names = [_name(token) for token in tokens]
    widest = min(max(5, *map(_width, names)), _WIDEST)
    alternatives = " " * (widest - 3) + "alternatives" if any(token.top for token in tokens) else ""
    yield f"{'logprob':>9} {'prob':>7}  token{alternatives}"
    for token, name in zip(tokens, names, strict=True):
        number = "" if token.logprob is None else f"{token.logprob:.3f}"
        shown = _with_colour(token, name) if colours else name
        line = f"{number:>9} {_percentage(token):>7}  {shown}"
        if token.top:
            line += " " * (widest - _width(name))
            line += _alternatives(token.top, width and width - widest - 19)
        yield line.rstrip()


def _alternatives(top: Sequence[TokenLogprob], width: int | None) -> str:
    text = ""
    for each in top:
        more = f"  {_name(each)} {_percentage(each)}"
        if width is not None and _width(text + more) > width:
            return text
        text += more
    return text


def _text(tokenizer: Tokenizer | None, token: int, before: Sequence[int]) -> str | None:
    return tokenizer.decode([token], strip_end=False, after=before) if tokenizer else None


def _name(token: TokenLogprob) -> str:
    """Return the text in quotes, so that spaces and line breaks are visible, or the id."""
    return f"#{token.token_id}" if token.text is None else json_text(token.text)


def _percentage(token: TokenLogprob) -> str:
    if token.logprob is None or math.isnan(token.logprob):
        return ""
    percent = math.exp(min(token.logprob, 0.0)) * 100
    return f"{percent:.1f}%" if percent >= 0.05 else "<0.1%"


def _with_colour(token: TokenLogprob, text: str) -> str:
    bits = token.surprisal
    colour = "" if bits is None else next((c for limit, c in _COLOURS if bits <= limit), "")
    return f"{colour}{text}{_RESET}" if colour and text else text


def _width(text: str) -> int:
    return max(wcswidth(text), 0)
