"""Output formats: plain, and cliff's table, JSON, CSV, value and shell formats, adapted.

They are registered in ``tinkex.formatters.list`` and ``tinkex.formatters.show`` next to cliff's own
classes, so that other cliff programs in the same environment do not see them.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TextIO, cast

from cliff.columns import FormattableColumn
from cliff.formatters import base
from cliff.formatters.commaseparated import CSVLister
from cliff.formatters.json_format import JSONFormatter as _JSONFormatter
from cliff.formatters.shell import ShellFormatter as _ShellFormatter
from cliff.formatters.value import ValueFormatter as _ValueFormatter

from tinkex.columns import WHOLE, Presentation, heading, json_dumps, plain_text, printable
from tinkex.exceptions import LocalError, a_few

Names = Sequence[str]
Row = Sequence[Any]
Rows = Iterable[Row]

#: Maximum characters of output in memory; longer output goes to a temporary file.
_IN_MEMORY = 1024 * 1024
#: Types of cells without a displayed form; faster to recognize than a FormattableColumn.
_PLAIN = frozenset({str, int, float, bool, type(None)})
_SEPARATORS = (",\n    ", ": ")
_flat = json.JSONEncoder(allow_nan=False, separators=_SEPARATORS).encode
#: Codes around a heading on a terminal with colors.
_COLOUR, _RESET = "\x1b[1;36m", "\x1b[0m"


class PlainFormatter(base.ListFormatter, base.SingleFormatter):
    """Plain lines, suitable for ``cut``: no header, no frame, no truncation.

    The command's :class:`~tinkex.columns.Presentation` creates the lines. With ``-c``, each line
    contains the selected columns, separated by tabs.
    """

    def add_argument_group(self, parser: ArgumentParser) -> None:
        """Add nothing: plain has no options."""

    def emit_list(
        self, column_names: Names, data: Rows, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        presentation = _presentation(parsed_args)
        plain_row = None if parsed_args.columns else presentation.plain_row
        for row in data:
            if plain_row:
                record = dict(zip(column_names, row, strict=True))
                added = [plain_text(record.pop(name)) for name in presentation.added]
                line = plain_row(record)
                line = line if line is None else "\t".join((line, *added))
            else:
                line = "\t".join(map(plain_text, row))
            if line is not None:
                stdout.write(line + "\n")

    def emit_one(
        self, column_names: Names, data: Row, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        presentation = _presentation(parsed_args)
        if presentation.plain_lines and not parsed_args.columns:
            record = dict(zip(column_names, data, strict=True))
            added = {heading(name): plain_text(record.pop(name)) for name in presentation.added}
            lines = list(presentation.plain_lines(record))
            lines += [f"{words}: {text}" for words, text in added.items() if text]
        else:
            lines = [plain_text(value) for value in data]
        for line in lines:
            stdout.write(line + "\n")


class TableFormatter(base.ListFormatter, base.SingleFormatter):
    """cliff's table with readable headings; ids and paths are never truncated.

    On a narrow terminal, the presentation's droppable columns are hidden. A table that is still too
    wide is written without a frame, so that only its long lines wrap.
    """

    def add_argument_group(self, parser: ArgumentParser) -> None:
        """Add the options of cliff's table without importing its module and thus prettytable."""
        group = parser.add_argument_group("table formatter")
        group.add_argument(
            "--max-width",
            metavar="<integer>",
            default=_whole_number("CLIFF_MAX_TERM_WIDTH"),
            type=int,
            help="maximum table width; in wider tables, columns are hidden and text is wrapped "
            "(default: 0, the terminal width without wrapping text) [CLIFF_MAX_TERM_WIDTH]",
        )
        group.add_argument(
            "--fit-width",
            action="store_true",
            default=bool(_whole_number("CLIFF_FIT_WIDTH")),
            help="set --max-width to the terminal width [CLIFF_FIT_WIDTH=1]",
        )
        group.add_argument(
            "--print-empty", action="store_true", help="print a table even if it has no rows"
        )

    def emit_list(
        self, column_names: Names, data: Rows, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        rows = [[_cell(value) for value in row] for row in data]
        presentation = _presentation(parsed_args)
        if not rows and not parsed_args.print_empty:  # cliff would write an empty line
            presentation.notes += filter(None, [presentation.empty])
            return
        columns = [
            _Column(name, heading(name), [row[i] for row in rows])
            for i, name in enumerate(column_names)
        ]
        room = _room(stdout, parsed_args)
        if not parsed_args.columns:
            columns = _fitting(columns, room.width, presentation)
        lines = _laid_out(columns, room, parsed_args) or _frameless(columns, with_headings=True)
        if wants_colour(stdout):
            at = int(lines[0].startswith("+-"))
            lines[at] = re.sub(r"[^|\s](?:[^|]*[^|\s])?", rf"{_COLOUR}\g<0>{_RESET}", lines[at])
        stdout.write("\n".join(lines) + "\n")

    def emit_one(
        self, column_names: Names, data: Row, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        names = [heading(name) for name in column_names]
        values = [str(_cell(value)) for value in data]
        columns = [_Column("", "Field", names), _Column("", "Value", values)]
        lines = _laid_out(columns, _room(stdout, parsed_args), parsed_args)
        if lines is None:  # each line of a value has its own
            split = [
                (n if not i else "", line)
                for n, value in zip(names, values, strict=True)
                for i, line in enumerate(value.split("\n"))
            ]
            columns = [_Column("", "", list(cells)) for cells in zip(*split, strict=True)]
            lines = _frameless(columns, with_headings=False)
        text = "\n".join(lines) + "\n"
        if names and wants_colour(stdout):
            inner = max(0, columns[0].width - 2)
            field = rf"(?m)^(\| )?([^|+\s](?:.{{0,{inner}}}\S)?)"
            text = re.sub(field, rf"\1{_COLOUR}\2{_RESET}", text)
        links = _presentation(parsed_args).links
        if links and can_redraw(stdout) and not os.environ.get("NO_COLOR"):
            text = _linked(text, links)
        stdout.write(text)


class _Column(NamedTuple):
    name: str
    heading: str
    cells: list[Any]

    @property
    def lines(self) -> list[str]:
        return [self.heading, *(line for cell in self.cells for line in str(cell).split("\n"))]

    @property
    def width(self) -> int:
        return max(map(_width, self.lines))

    @property
    def least(self) -> int:
        """The width that breaks no word, heading, id or path."""
        if self.name in WHOLE or self.heading == "Field":
            return self.width
        words = (word for line in self.lines[1:] for word in line.split())
        return max([_width(self.heading), *map(_width, words)])


class _Room(NamedTuple):
    """The width for a table, and whether text wraps to fit it."""

    width: float
    wraps: bool


def _room(stdout: TextIO, parsed_args: Namespace) -> _Room:
    import shutil

    if parsed_args.max_width > 0:
        return _Room(parsed_args.max_width, wraps=True)
    if parsed_args.fit_width or stdout.isatty():
        return _Room(shutil.get_terminal_size().columns, wraps=parsed_args.fit_width)
    return _Room(math.inf, wraps=False)


def _fitting(columns: list[_Column], width: float, presentation: Presentation) -> list[_Column]:
    """Return the columns that fit *width*: some are hidden, some in their short form."""
    short = presentation.short
    empty = {column.name for column in columns if not any(map(str, column.cells))}
    droppable = sorted(presentation.droppable, key=lambda name: name not in empty)
    kept = _without(columns, itertools.takewhile(lambda name: name not in short, droppable), width)
    if _framed_width(kept) > width and short:
        shortened = [
            _Column(c.name, short[c.name][0], list(short[c.name][1](c.cells)))
            for c in columns
            if c.name in short
        ]
        shortened += [column for column in columns if column.name not in short]
        kept = _without(shortened, (name for name in droppable if name not in short), width)
    shown = {(column.name, column.heading) for column in kept}
    hidden = [
        c.heading for c in columns if (c.name, c.heading) not in shown and c.name not in empty
    ]
    if hidden:
        presentation.notes.append(
            f"Hidden (terminal too narrow): {a_few(hidden, 2 if len(hidden) > 3 else 3)}; "
            "-f json shows all."
        )
    return kept


def _without(columns: list[_Column], names: Iterable[str], width: float) -> list[_Column]:
    """Return *columns* without as many of *names* as needed to fit *width*."""
    for name in names:
        if _framed_width(columns) <= width:
            break
        columns = [column for column in columns if column.name != name]
    return columns


def _laid_out(columns: list[_Column], room: _Room, parsed_args: Namespace) -> list[str] | None:
    """Return the lines of cliff's table; ``None`` if it does not fit."""
    limits = {column.heading: column.width for column in columns}
    if _framed_width(columns) > room.width:
        # Values wrap, the longest first, but never within a word.
        limits = {column.heading: column.least for column in columns}
        spare = int(room.width) - (sum(limits.values()) + 3 * len(columns) + 1)
        if not room.wraps or spare < 0:
            return None
        by_need = sorted(columns, key=lambda column: column.width - column.least)
        for left, column in zip(range(len(columns), 0, -1), by_need, strict=True):
            more = min(column.width - column.least, spare // left)
            limits[column.heading] += more
            spare -= more
    from cliff.formatters import table  # imports prettytable, which is slow

    class Limited(table.TableFormatter):
        @staticmethod
        def _assign_max_widths(x: Any, *args: Any) -> None:
            x.max_width.update(limits)

    laid_out = io.StringIO()
    rows = list(zip(*(column.cells for column in columns), strict=True))
    Limited().emit_list(list(limits), rows, laid_out, parsed_args)
    return laid_out.getvalue().splitlines()


def _frameless(columns: list[_Column], *, with_headings: bool) -> list[str]:
    rows = list(zip(*(column.cells for column in columns), strict=True))
    if with_headings:
        rows.insert(0, tuple(column.heading for column in columns))
    lines = [[" ".join(str(cell).split("\n")) for cell in row] for row in rows]
    widths = [max(map(_width, cells)) for cells in zip(*lines, strict=True)]
    return [
        "  ".join(c + " " * (w - _width(c)) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _framed_width(columns: list[_Column]) -> int:
    # "| a | b |": each column adds two spaces and a bar; one more bar closes the line.
    return sum(column.width for column in columns) + 3 * len(columns) + 1


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
    cells = [
        v.machine_readable() if type(v) not in _PLAIN and isinstance(v, FormattableColumn) else v
        for v in data
    ]
    return dict(zip(column_names, cells, strict=True))


def _indented(row: dict[str, Any]) -> str:
    is_flat = _PLAIN.issuperset(map(type, row.values()))
    if not is_flat and any(c and isinstance(c, (dict, list, tuple)) for c in row.values()):
        return json_dumps(row, indent=2).replace("\n", "\n  ")
    # The encoder in C cannot indent, but a row without nested values needs only a separator.
    try:
        flat = _flat(row)
    except ValueError:  # Infinity or NaN
        flat = json_dumps(row, separators=_SEPARATORS)
    return f"{{\n    {flat[1:-1]}\n  }}" if row else "{}"


class YAMLFormatter(base.ListFormatter, base.SingleFormatter):
    """YAML with the same values as JSON, in the same order."""

    def add_argument_group(self, parser: ArgumentParser) -> None:
        """Add nothing: YAML has no options."""

    def emit_list(
        self, column_names: Names, data: Rows, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        self._dump([_raw(column_names, row) for row in data], stdout)

    def emit_one(
        self, column_names: Names, data: Row, stdout: TextIO, parsed_args: Namespace
    ) -> None:
        self._dump(_raw(column_names, data), stdout)

    @staticmethod
    def _dump(value: Any, stdout: TextIO) -> None:
        import yaml  # slow

        yaml.safe_dump(value, stdout, default_flow_style=False, sort_keys=False)


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

    cliff's writer also escapes backslashes, but RFC 4180 readers do not unescape them. Without an
    escape character, some values must be quoted, so ``--quote none`` is treated as ``minimal``.
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
    """cliff's shell assignments, quoted so that ``eval`` cannot execute any part of a value."""

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
    if isinstance(value, float) and math.isfinite(value):
        return _rounded(value)
    return printable(value.replace("\r\n", "\n"), keep="\n") if isinstance(value, str) else value


def _rounded(value: float) -> float | int:
    """Return *value* with four significant digits, and all digits before the point."""
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return round(value, digits) if digits > 0 else round(value)


def _word(value: Any, null: str = "null") -> Any:
    """Return *value* as untyped formats write it."""
    if isinstance(value, FormattableColumn):
        value = value.machine_readable()
    if value is None:
        return null
    if isinstance(value, (bool, dict, list)):
        return plain_text(value)
    # Line breaks are kept, because sampled text contains them.
    return printable(value, keep="\n\t") if isinstance(value, str) else value


def _on_one_line(value: Any) -> Any:
    word = _word(value)
    return re.sub("\r?\n", r"\\n", word) if isinstance(word, str) else word


def _width(text: str) -> int:
    """Return the terminal columns that *text* occupies; a wide character occupies two."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    return max(0, wcswidth(text))


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

    Long text is kept in an unnamed temporary file, so that memory use stays constant.

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
                f"cannot write the output to a temporary file: {error.strerror}",
                hint="Free some space, set TMPDIR to another directory, or use --limit.",
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
    """Return whether to write color to *stream*.

    Not if ``NO_COLOR`` is set and not empty. Otherwise, write color if ``CLICOLOR_FORCE`` is
    neither empty nor ``0``, or if *stream* is a terminal that is not dumb.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return can_redraw(stream)


def _linked(text: str, links: Mapping[str, str]) -> str:
    """Return *text* with each word of *links* as a hyperlink to its URL (OSC 8).

    https://gist.github.com/egmontkob/eb114294efbcd5adb1944c9f3cb5feda
    """
    words = "|".join(map(re.escape, links))
    # An id that is part of a path is not a word.
    return re.sub(
        rf"(?<![\w/:-])(?:{words})(?![\w/:-])",
        lambda found: f"\x1b]8;;{links[found[0]]}\x1b\\{found[0]}\x1b]8;;\x1b\\",
        text,
    )
