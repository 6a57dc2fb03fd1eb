"""A comparison on a terminal, and as an HTML page without links to other files."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, TextIO

from tinkex.columns import counted, printable
from tinkex_lab.comparison import Comparison, Span, differences

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from tinkex_lab.results import Sequence

#: Style of text that differs from the first model's; the underline remains without colors.
_DIFFERS = "underline yellow"
#: Minimum width of a column; if the models do not fit side by side, each has a row.
_LEAST = 24


def print_comparison(comparison: Comparison, stream: TextIO) -> None:
    """Print *comparison* on the terminal *stream*."""
    from rich.console import Console
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    console = Console(file=stream, width=width, highlight=False)
    table = _side_by_side if width >= _LEAST * len(comparison.models) else _stacked
    with console.capture() as captured:  # rich would exit if the pipe is closed
        for prompt in comparison.prompts:
            console.print(Text(f"{_shown(prompt.id)}: ", "bold"), end="")
            console.print(Text(_shown(prompt.text)))
            for number, samples in prompt.numbered():
                console.print(table(comparison, number, samples))
            console.print()
        for number, model in enumerate(comparison.models):
            summary = comparison.summary(number) or "no samples"
            console.print(Text(f"{_shown(model.label)}: {summary}"))
    stream.write(captured.get())


def _side_by_side(comparison: Comparison, number: int, samples: list[Sequence | None]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.HORIZONTALS, expand=True, show_footer=True, footer_style="dim", pad_edge=False
    )
    for model, sample in zip(comparison.models, samples, strict=True):
        heading = Text(_label(model.label, number))
        table.add_column(heading, Text(caption(sample)), overflow="fold", ratio=1)
    table.add_row(*map(_text, marked(samples)))
    return table


def _stacked(comparison: Comparison, number: int, samples: list[Sequence | None]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.HORIZONTALS, expand=True, show_header=False, pad_edge=False)
    for model, sample, spans in zip(comparison.models, samples, marked(samples), strict=True):
        table.add_row(Text(f"{_label(model.label, number)} ({caption(sample)})", "bold"))
        table.add_row(_text(spans), end_section=True)
    return table


def _label(label: str, number: int) -> str:
    return _shown(label) if number == 1 else f"{_shown(label)}, sample {number}"


def _text(spans: list[Span]) -> Text:
    from rich.text import Text

    return Text.assemble(*((span.text, _DIFFERS if span.differs else "") for span in spans))


def marked(samples: list[Sequence | None]) -> list[list[Span]]:
    """Return the text of each sample; parts that differ from the first sample are marked."""
    first = _sample_text(samples[0])
    return [
        differences(first, _sample_text(sample))
        if number and sample and samples[0]
        else [Span(_sample_text(sample), differs=False)]
        for number, sample in enumerate(samples)
    ]


def _sample_text(sample: Sequence | None) -> str:
    if sample is None:
        return "(not sampled)"
    return "(token ids only)" if sample.text is None else _shown(sample.text).strip("\n")


def caption(sample: Sequence | None) -> str:
    """Return the line below a sample: logprob, number of tokens and stop reason."""
    if sample is None:
        return ""
    mean = "n/a" if sample.avg_logprob is None else f"{sample.avg_logprob:.3f}"
    tokens = "" if sample.token_count is None else f"{counted(sample.token_count, 'token')}, "
    return f"logprob {mean}, {tokens}{printable(sample.stop_reason)}"


def _shown(text: str) -> str:
    return printable(text, keep="\n\t")


def page(comparison: Comparison, title: str, note: str = "") -> str:
    """Return *comparison* as an HTML page that needs no other file and no network.

    :param note: a sentence below the title.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tinkex_lab"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    summaries = [comparison.summary(number) for number in range(len(comparison.models))]
    return environment.get_template("compare.html.j2").render(
        title=_shown(title),
        note=_shown(note),
        models=[(model, _shown(model.label)) for model in comparison.models],
        summaries=summaries,
        prompts=[
            (
                _shown(prompt.id),
                _shown(prompt.text),
                [
                    (
                        number,
                        list(zip(samples, marked(samples), map(caption, samples), strict=True)),
                    )
                    for number, samples in prompt.numbered()
                ],
            )
            for prompt in comparison.prompts
        ],
    )
