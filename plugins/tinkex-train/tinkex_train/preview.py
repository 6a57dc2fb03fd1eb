"""Examples and losses as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TextIO

from tinkex.columns import printable
from tinkex_train.data import DataSet

if TYPE_CHECKING:
    from tinkex.api import SupervisedExample, Tokenizer

#: Number of examples shown.
SHOWN = 3
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def segments(tokenizer: Tokenizer, example: SupervisedExample) -> Iterator[tuple[str, int]]:
    """Yield the text of each run of tokens with the same weight, and the weight."""
    pairs = zip(example.tokens, example.weights, strict=True)
    before: list[int] = []
    for weight, group in groupby(pairs, key=lambda pair: pair[1]):
        tokens = [token for token, _ in group]
        yield tokenizer.decode(tokens, strip_end=False, after=before), weight
        before = tokens


def records(data: DataSet, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the first examples as JSON: their place, and pairs of text and weight."""
    return [
        {"where": place, "segments": [list(pair) for pair in segments(tokenizer, example)]}
        for place, example in _first(data)
    ]


def show(data: DataSet, tokenizer: Tokenizer, stream: TextIO) -> None:
    """Write the first examples to *stream*, trained text in green, or in ⟦⟧ without color."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, soft_wrap=True)
    for place, example in _first(data):
        text = Text(f"{place}: training on {example.num_trained} of {len(example.tokens)} tokens\n")
        for piece, weight in segments(tokenizer, example):
            piece = printable(piece, keep="\n\t")
            if weight and console.color_system is None:
                piece = f"⟦{piece}⟧"
            text.append(piece, style="green" if weight else "dim")
        console.print(text, end="\n\n")


def _first(data: DataSet) -> list[tuple[str, SupervisedExample]]:
    return list(zip(data.places[:SHOWN], data.examples[:SHOWN], strict=True))


def sparkline(values: Sequence[float]) -> str:
    """Return *values* as a line of bars, at most 40; adjacent values are averaged."""
    count = min(len(values), _WIDTH)
    means = []
    for i in range(count):
        part = values[i * len(values) // count : (i + 1) * len(values) // count]
        means.append(sum(part) / len(part))
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in means)
