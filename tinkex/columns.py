"""Column types and presentation: human-readable in tables, raw in other formats.

Tables show ``human_readable``; JSON, YAML, CSV and similar formats write the raw value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cliff.columns import FormattableColumn

#: The public names, see the page "Plugin API".
__all__ = [
    "Dollars",
    "Flag",
    "Presentation",
    "Size",
    "Structure",
    "Time",
    "counted",
    "heading",
    "plain_text",
    "printable",
]

#: Spelling of words in headings.
_WORDS = {
    word.lower(): word for word in ("API", "HTTP", "ID", "LoRA", "MLP", "NLL", "URL", "URN", "USD")
}
#: Table headings that are not derived from the field name.
HEADINGS = {
    "checkpoint_count": "Checkpoints",
    "checkpoint_id": "Checkpoint",
    "checkpoint_storage_bytes": "Stored",
    "checkpoint_type": "Type",
    "checkpoints_count": "Checkpoints",
    "cost_usd": "Cost",
    "created_at": "Created",
    "effective_rate_usd_per_gigabyte_month": "Per GB per month",
    "estimated_cost_usd": "Cost",
    "estimated_monthly_cost_usd": "Per month",
    "expires_at": "Expires",
    "file_size_bytes": "Size",
    "is_lora": "LoRA",
    "last_checkpoint_time": "Last saved",
    "last_request_time": "Last request",
    "last_sampler_checkpoint_time": "Last sampler saved",
    "latency_ms": "Latency (ms)",
    "max_context_length": "Max context",
    "model_name": "Model",
    "model_owner": "Owner",
    "org_urn": "Organization URN",
    "org_user_urn": "User URN",
    "peft": "PEFT",
    "project_id": "Project",
    "run_id": "Run",
    "sampler_ids": "Samplers",
    "session_id": "Session",
    "size_bytes": "Size",
    "time": "Created",
    "tinker_path": "Path",
    "train_attn": "Train attention",
    "train_unembed": "Train unembedding",
    "training_run_id": "Run",
    "training_run_ids": "Runs",
    "vllm": "vLLM",
}
#: Columns with values that users copy; they are never wrapped or truncated.
WHOLE = frozenset(
    {
        "checkpoint_id",
        "last_checkpoint",
        "last_sampler_checkpoint",
        "model_name",
        "org_user_urn",
        "project_id",
        "run_id",
        "session_id",
        "tinker_path",
        "training_run_id",
    }
)


class Presentation:
    """The presentation of a command's result in the formats plain and table.

    Formatters read it from ``parsed_args.presentation``.

    :ivar plain_row: function from a row (a mapping) to its plain line; ``None`` omits the row.
    :ivar plain_lines: function from an object (a mapping) to its plain lines.
    :ivar droppable: columns that a narrow table may hide, the least important first.
    :ivar short: column → its short heading and values, for a table that is too narrow; it comes
        first there. Columns that precede it in *droppable* are hidden before it is shortened.
    :ivar links: text in a table → the address that it links to.
    :ivar empty: status line shown if there are no rows.
    :ivar notes: status lines that the formatter adds and the command prints.
    :ivar added: columns that hooks added; they follow the plain line of a row, or of an object.
    """

    # Not a dataclass, to save the import of that module.
    def __init__(
        self,
        plain_row: Callable[[Mapping[str, Any]], str | None] | None = None,
        plain_lines: Callable[[Mapping[str, Any]], Sequence[str]] | None = None,
        droppable: Sequence[str] = (),
        empty: str = "",
    ) -> None:
        self.plain_row = plain_row
        self.plain_lines = plain_lines
        self.droppable = droppable
        self.empty = empty
        self.short: dict[str, tuple[str, Callable[[Sequence[str]], Sequence[str]]]] = {}
        self.links: dict[str, str] = {}
        self.notes: list[str] = []
        self.added: Sequence[str] = ()


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: Control characters, line separators, bidirectional controls and lone surrogates.
_CONTROL = re.compile(
    "\r\n|[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def heading(name: str) -> str:
    """Return the table heading of the field *name*: ``grade_score`` → ``Grade score``.

    Some fields of tinkex have other headings: ``tinker_path`` → ``Path``.
    """
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return HEADINGS.get(name) or words[:1].upper() + words[1:]


def printable(text: str, *, keep: str = "") -> str:
    """Replace every character in *text* that controls a terminal.

    ``str.isprintable`` excludes more: no-break spaces, joiners, and letters that are newer than
    this Python's Unicode tables.

    :param keep: control characters to keep, such as ``"\\n\\t"``; CR LF counts as one line break.
    """
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda found: found[0] if found[0][-1] in keep else _REPLACEMENT, text)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return *value* as JSON with letters unescaped and terminal control characters escaped.

    JSON requires escapes only below U+0020, but some higher characters also control terminals.
    """
    text = json_dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json_dumps(c)[1:-1] for c in text)


def json_dumps(value: Any, **options: Any) -> str:
    """Return *value* as JSON, with null for Infinity and NaN, which JSON does not support.

    Python accepts both in a response, and reads a number that is too large as Infinity.
    """
    import json

    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(below) for below in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_text(value: Any) -> str:
    """Return *value* as one field of a plain line: raw, ``true``/``false``, empty for null."""
    if isinstance(value, FormattableColumn):
        value = value.machine_readable()
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json_text(value)
    return printable(str(value))


class Size(FormattableColumn[int | None]):
    """A number of bytes, displayed with decimal units: ``1.2 GB``.

    :param value: the number of bytes, or ``None``: displayed as empty, null in other formats.
    :type value: int | None
    """

    def human_readable(self) -> str:
        if self._value is None:
            return ""
        size, *units = float(self._value), "kB", "MB", "GB", "TB"
        if size < 1000:
            return f"{size:.0f} B"
        while (size := size / 1000) >= 999.95 and len(units) > 1:
            units.pop(0)
        return f"{size:.1f} {units[0]}"


class Dollars(FormattableColumn[float | None]):
    """An amount of US dollars, displayed as ``$1,234.50``; a number in other formats.

    :param value: the amount in dollars, or ``None``.
    :type value: float | None
    """

    def human_readable(self) -> str:
        if self._value is None:
            return ""
        # Tokens are cheap: an amount below a cent must not look like zero.
        if 0 < self._value < 0.00005:
            return "< $0.0001"
        return f"${self._value:,.4f}" if 0 < self._value < 0.01 else f"${self._value:,.2f}"


class Time(FormattableColumn[Any]):
    """A point in time, displayed as ``3 hours ago``; ISO 8601 in UTC with ``Z`` in other formats.

    :param value: a ``datetime``, or ISO 8601 text as servers send it; without a
        zone, it is UTC. Other text is shown unchanged; ``None`` is empty.
    """

    def __init__(self, value: datetime | str | None) -> None:
        super().__init__(_moment(value))

    def human_readable(self) -> str:
        if isinstance(self._value, datetime):
            return relative(self._value, datetime.now(UTC))
        return self._value or ""

    def machine_readable(self) -> str | None:
        return iso(self._value) if isinstance(self._value, datetime) else self._value


def _moment(value: datetime | str | None) -> datetime | str | None:
    """Return *value* in UTC; text that is not a time is returned unchanged."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment is None or moment.tzinfo is UTC:
            return moment
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: beyond year 1 or 9999 in UTC
        return value


class Flag(FormattableColumn[bool | None]):
    """A boolean, displayed as yes or no; true or false in other formats.

    :param value: a boolean, or ``None``: displayed as empty, null in other formats.
    :type value: bool | None
    """

    def human_readable(self) -> str:
        return "" if self._value is None else "yes" if self._value else "no"


class Structure(FormattableColumn[Any]):
    """A JSON object or array, displayed as compact JSON; unchanged in other formats.

    :param value: a dict or list that can be written as JSON; other values are shown as plain text.
    :type value: Any
    """

    def human_readable(self) -> str:
        return plain_text(self._value)


_COLUMN_OF_TYPE: Mapping[type, Callable[[Any], Any]] = {
    bool: Flag,
    datetime: Time,
    dict: Structure,
    list: Structure,
    tuple: lambda value: Structure(list(value)),
}


def cells(record: object, names: Iterable[str]) -> tuple[Any, ...]:
    """Return the attributes *names* of *record*, as the column types that fit them."""
    return tuple([_cell(name, getattr(record, name)) for name in names])


def _cell(name: str, value: Any) -> Any:
    column = _COLUMN_OF_TYPE.get(type(value))
    if column is None and isinstance(value, (int, float)):
        column = Size if name.endswith("_bytes") else Dollars if "cost_usd" in name else None
    return value if column is None else column(value)


def counted(number: int, noun: str) -> str:
    """Return *number* and *noun*, in the plural unless it is 1: ``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def iso(moment: datetime) -> str:
    """Return *moment* as ISO 8601 in UTC with ``Z``; with a fraction of a second if it has one."""
    moment = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return moment.isoformat().replace("+00:00", "Z")


def relative(moment: datetime, now: datetime) -> str:
    """Return *moment* relative to *now*: ``3 hours ago``, ``in 2 days``."""
    seconds = (now - moment).total_seconds()
    amount = abs(seconds)
    if amount < 45:
        return "now" if seconds >= 0 else "in seconds"
    for size, unit in (
        (365 * 86400, "year"),
        (30 * 86400, "month"),
        (86400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ):
        if amount >= size or unit == "minute":
            words = counted(max(1, int(amount // size)), unit)
            return f"{words} ago" if seconds >= 0 else f"in {words}"
    raise AssertionError
