"""Output formats: plain, and cliff's table, JSON, CSV, value and shell for the values of tinkex.

They are registered in ``tinkex.formatters.list`` and ``tinkex.formatters.show`` next to cliff's own
classes, so that other cliff programs in the same environment do not see them.
"""

from __future__ import annotations

import csv
import io
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from cliff.columns import FormattableColumn
from cliff.formatters import base
from cliff.formatters.commaseparated import CSVLister
from cliff.formatters.json_format import JSONFormatter as _JSONFormatter
from cliff.formatters.shell import ShellFormatter as _ShellFormatter
from cliff.formatters.value import ValueFormatter as _ValueFormatter

from tinkex.columns import WHOLE, Presentation, heading, json_dumps, plain_text, printable
from tinkex.exceptions import LocalError

Names = Sequence[str]
Row = Sequence[Any]
Rows = Iterable[Row]

#: Characters of output that are kept in memory: most lists are shorter and need no file.
_IN_MEMORY = 1024 * 1024


class PlainFormatter(base.ListFormatter, base.SingleFormatter):
    """Lines for people and for ``cut``: no header, no frame, nothing truncated.

    The :class:`~tinkex.columns.Presentation` of the command makes the lines; with ``-c`` they are
    the chosen columns, separated by tabs.
    """

    def add_argument_group(self, parser: ArgumentParser) -> None:
        """Add nothing: plain has no options."""

    def emit_list(
        self, column_names: Names, data: Rows, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        plain_row = None if parsed_args.columns else _presentation(parsed_args).plain_row
        for row in data:
            if plain_row:
                line = plain_row(dict(zip(column_names, row, strict=True)))
            else:
                line = "\t".join(map(plain_text, row))
            if line is not None:
                stdout.write(line + "\n")

    def emit_one(
        self, column_names: Names, data: Row, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        plain_lines = None if parsed_args.columns else _presentation(parsed_args).plain_lines
        if plain_lines:
            lines = plain_lines(dict(zip(column_names, data, strict=True)))
        else:
            lines = [plain_text(value) for value in data]
        for line in lines:
            stdout.write(line + "\n")


class TableFormatter(base.ListFormatter, base.SingleFormatter):
    """cliff's table with headings in words; ids and paths are whole at every width.

    On a narrow terminal the droppable columns of the presentation are hidden; a table that is still
    too wide is written without a frame, so that only its long lines wrap.
    """

    def add_argument_group(self, parser: ArgumentParser) -> None:
        """Add the options of cliff's table without importing its module, and so prettytable."""
        group = parser.add_argument_group("table formatter")
        group.add_argument(
            "--max-width",
            metavar="<integer>",
            default=_whole_number("CLIFF_MAX_TERM_WIDTH"),
            type=int,
            help="maximum display width, <1 to disable [CLIFF_MAX_TERM_WIDTH]",
        )
        group.add_argument(
            "--fit-width",
            action="store_true",
            default=bool(_whole_number("CLIFF_FIT_WIDTH")),
            help="fit the table to the display width [CLIFF_FIT_WIDTH=1]",
        )
        group.add_argument(
            "--print-empty", action="store_true", help="print the frame of an empty table"
        )

    def emit_list(
        self, column_names: Names, data: Rows, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        rows = [[_cell(value) for value in row] for row in data]
        if not rows and not parsed_args.print_empty:  # cliff would write an empty line
            presentation = _presentation(parsed_args)
            presentation.notes += filter(None, [presentation.empty])
            return
        kept = self._fitting(list(column_names), rows, stdout, parsed_args)
        names = [column_names[i] for i in kept]
        rows = [[row[i] for i in kept] for row in rows]
        headings = [heading(name) for name in names]
        if self._too_wide([headings, *rows], stdout, parsed_args):
            _write_frameless([headings, *rows], stdout)
        else:
            self._cliff().emit_list(headings, rows, stdout, parsed_args)

    def emit_one(
        self, column_names: Names, data: Row, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        names = [heading(name) for name in column_names]
        values = [_cell(value) for value in data]
        rows = [["Field", "Value"], *map(list, zip(names, values, strict=True))]
        laid_out = io.StringIO()
        if self._too_wide(rows, stdout, parsed_args):
            _write_frameless(rows[1:], laid_out)
        else:
            self._cliff().emit_one(names, values, laid_out, parsed_args)
        text, links = laid_out.getvalue(), _presentation(parsed_args).links
        if links and can_redraw(stdout) and not os.environ.get("NO_COLOR"):
            text = _linked(text, links)
        stdout.write(text)

    @staticmethod
    def _cliff() -> Any:
        from cliff.formatters import table  # imports prettytable, which is slow

        class Whole(table.TableFormatter):
            @staticmethod
            def _assign_max_widths(
                x: Any, max_width: int, min_width: int = 0, fit_width: bool = False
            ) -> None:
                table.TableFormatter._assign_max_widths(x, max_width, min_width, fit_width)
                for name in {heading(name) for name in WHOLE} & set(x.max_width):
                    del x.max_width[name]
                if x.field_names == ["Field", "Value"]:
                    _keep_whole_words(x)

        return Whole()

    @staticmethod
    def _too_wide(rows: list[list[Any]], stdout: TextIO, parsed_args: Namespace) -> bool:
        if parsed_args.max_width or parsed_args.fit_width:
            return False
        return _framed_width(_widths(rows)) > _terminal_width(stdout)

    @staticmethod
    def _fitting(
        names: list[str], rows: list[list[Any]], stdout: TextIO, parsed_args: Namespace
    ) -> list[int]:
        """Return the indexes of the columns that fit the terminal."""
        kept = list(range(len(names)))
        presentation = _presentation(parsed_args)
        width = _terminal_width(stdout)
        if parsed_args.columns or parsed_args.max_width:
            return kept
        needed = _widths([[heading(name) for name in names], *rows])
        for name in presentation.droppable:
            if _framed_width([needed[i] for i in kept]) <= width:
                break
            if name in names:
                kept.remove(names.index(name))
        hidden = [names[i] for i in range(len(names)) if i not in kept]
        if hidden:
            listed = ", ".join(hidden)
            presentation.notes.append(
                f"Hidden (terminal too narrow): {listed}; -f json has all columns."
            )
        return kept


class JSONFormatter(_JSONFormatter):
    """The same JSON as cliff's, written row by row; Infinity and NaN are null."""

    def emit_list(
        self, column_names: Names, data: Rows, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        to_json = json_dumps if parsed_args.noindent else _indented
        before, between, after = ("", ", ", "") if parsed_args.noindent else ("\n  ", ",\n  ", "\n")
        stdout.write("[")
        separator = before
        try:
            for row in data:
                # In one call, so that a signal does not separate them.
                stdout.write(separator + to_json(_raw(column_names, row)))
                separator = between
        finally:  # also after a signal, so that what was written is valid JSON
            stdout.write(("" if separator is before else after) + "]\n")

    def emit_one(
        self, column_names: Names, data: Row, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        indent = None if parsed_args.noindent else 2
        stdout.write(json_dumps(_raw(column_names, data), indent=indent) + "\n")


def _raw(column_names: Names, data: Row) -> dict[str, Any]:
    cells = [v.machine_readable() if isinstance(v, FormattableColumn) else v for v in data]
    return dict(zip(column_names, cells, strict=True))


def _indented(row: dict[str, Any]) -> str:
    if any(cell and isinstance(cell, (dict, list, tuple)) for cell in row.values()):
        return json_dumps(row, indent=2).replace("\n", "\n  ")
    # The encoder in C cannot indent, but a row without nested values needs only a separator.
    flat = json_dumps(row, separators=(",\n    ", ": "))
    return f"{{\n    {flat[1:-1]}\n  }}" if row else "{}"


class ValueFormatter(_ValueFormatter):
    """cliff's value format with ``true``, ``false`` and ``null`` as in JSON, each on one line."""

    def emit_list(
        self, column_names: Names, data: Rows, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        rows = (list(map(_on_one_line, row)) for row in data)
        super().emit_list(column_names, rows, stdout, parsed_args)

    def emit_one(
        self, column_names: Names, data: Row, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        super().emit_one(column_names, list(map(_on_one_line, data)), stdout, parsed_args)


class CSVFormatter(CSVLister):
    """CSV with ``true`` and ``false``; null is an empty cell.

    cliff's writer also escapes backslashes, which readers of RFC 4180 do not undo. Without an
    escape character some values need quotes, so ``--quote none`` means ``minimal``.
    """

    def emit_list(
        self, column_names: Names, data: Rows, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        mode = parsed_args.quote_mode
        quoting = self.QUOTE_MODES["minimal" if mode == "none" else mode]
        writer = csv.writer(stdout, quoting=quoting, lineterminator=os.linesep)
        writer.writerow(column_names)
        for row in data:
            writer.writerow([_word(value, null="") for value in row])


class ShellFormatter(_ShellFormatter):
    """cliff's shell assignments, quoted so that ``eval`` cannot run a part of a value."""

    def emit_one(
        self, column_names: Names, data: Row, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        import shlex

        wanted = [name.lower() for name in parsed_args.variables]
        for name, value in zip(column_names, data, strict=True):
            key = name.lower().replace("-", "_").replace(" ", "_")
            if not wanted or key in wanted:
                text = str(_word(value, null=""))
                stdout.write(f"{parsed_args.prefix}{key}={shlex.quote(text)}\n")


def _whole_number(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else 0


def _cell(value: Any) -> Any:
    if isinstance(value, FormattableColumn):
        value = value.human_readable()
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(value.replace("\r\n", "\n"), keep="\n") if isinstance(value, str) else value


def _word(value: Any, null: str = "null") -> Any:
    """Return *value* as formats without types write it."""
    if isinstance(value, FormattableColumn):
        value = value.machine_readable()
    if value is None:
        return null
    if isinstance(value, (bool, dict, list)):
        return plain_text(value)
    # Line breaks stay: a sampled text has them.
    return printable(value, keep="\n\t") if isinstance(value, str) else value


def _on_one_line(value: Any) -> Any:
    word = _word(value)
    return re.sub("\r?\n", r"\\n", word) if isinstance(word, str) else word


def _terminal_width(stdout: TextIO) -> float:
    import shutil

    return shutil.get_terminal_size().columns if stdout.isatty() else float("inf")


def _widths(rows: list[list[Any]]) -> list[int]:
    """Return the width of each column of *rows*."""
    return [
        max(_width(line) for cell in column for line in str(cell).split("\n"))
        for column in zip(*rows, strict=True)
    ]


def _width(text: str) -> int:
    """Return how many columns of a terminal *text* takes: two for a Chinese letter, say."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    return max(0, wcswidth(text))


def _framed_width(widths: list[int]) -> int:
    # "| a | b |": each column adds two blanks and a bar; one more bar closes the line.
    return sum(widths) + 3 * len(widths) + 1


def _write_frameless(rows: list[list[Any]], stdout: TextIO) -> None:
    lines = [[" ".join(str(cell).split("\n")) for cell in row] for row in rows]
    widths = _widths(lines)
    for line in lines:
        cells = [
            cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
        ]
        stdout.write("  ".join(cells).rstrip() + "\n")


def _keep_whole_words(table: Any) -> None:
    """Widen the value column of *table* to its longest word: a path is one word."""
    width = table.max_width.get("Value")
    if width:
        words = [word for row in table.rows for word in str(row[1]).split()]
        table.max_width["Value"] = max([width, *map(len, words)])


def _presentation(parsed_args: Namespace) -> Presentation:
    return getattr(parsed_args, "presentation", None) or Presentation()


@contextmanager
def buffered(stdout: TextIO) -> Iterator[TextIO]:
    """Yield a stream whose text is written to *stdout* when the block ends without an error.

    It claims to be a terminal if *stdout* is one.
    """
    buffer = io.StringIO(newline="")
    buffer.isatty = stdout.isatty  # type: ignore[method-assign]
    yield buffer
    stdout.write(buffer.getvalue())


@contextmanager
def spooled(stdout: TextIO) -> Iterator[TextIO]:
    """Yield a stream whose text is written to *stdout* when the block ends without an error.

    A long text is in a temporary file without a name, so that memory stays flat.

    :raises LocalError: the temporary file cannot be written.
    """
    import shutil
    import tempfile

    # Line breaks and surrogates are read back as they were written.
    spool = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closing may fail, see below
        _IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass", newline=""
    )
    try:
        try:
            yield cast(TextIO, spool)
            spool.seek(0)
        except OSError as error:
            raise LocalError(
                f"cannot write the rows to a temporary file: {error.strerror}",
                hint="Free some space there, set TMPDIR to another directory, or use --limit.",
            ) from error
        shutil.copyfileobj(spool, stdout)
    finally:
        with suppress(OSError):  # on a full disk, writing the buffer fails once more
            spool.close()


# ---------------------------------------------------------------------- terminals


def can_redraw(stream: TextIO) -> bool:
    """Return whether a line on *stream* can be overwritten, by a progress bar for example."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colour(stream: TextIO) -> bool:
    """Return whether to write colour to *stream*.

    A non-empty ``NO_COLOR`` means no, wherever the output goes; else a ``CLICOLOR_FORCE`` that is
    neither empty nor ``0`` means yes; else a terminal that is not dumb does.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return can_redraw(stream)


def _linked(text: str, links: Mapping[str, str]) -> str:
    """Return *text* with each word of *links* as a hyperlink to its address (OSC 8).

    https://gist.github.com/egmontkob/eb114294efbcd5adb1944c9f3cb5feda
    """
    words = "|".join(map(re.escape, links))
    # An id that is part of a path is no word.
    return re.sub(
        rf"(?<![\w/:-])(?:{words})(?![\w/:-])",
        lambda found: f"\x1b]8;;{links[found[0]]}\x1b\\{found[0]}\x1b]8;;\x1b\\",
        text,
    )
