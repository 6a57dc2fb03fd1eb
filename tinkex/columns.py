"""Columns that look one way to a person and another to a program.

Tables get ``human_readable``; JSON, YAML, CSV and the like get the raw value.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from cliff.columns import FormattableColumn

#: What plugins may use, see the page "Plugin API".
__all__ = [
    "Dollars",
    "Flag",
    "Size",
    "Structure",
    "Time",
    "heading",
    "plain_text",
    "printable",
]

#: Table headings that are not simply the field name in words.
HEADINGS = {
    "api_key": "API key",
    "api_key_command": "API key command",
    "allow_http": "Allow http",
    "base_url": "Base URL",
    "checkpoint_id": "Checkpoint",
    "checkpoint_count": "Checkpoints",
    "checkpoints_count": "Checkpoints",
    "checkpoint_storage_bytes": "Stored",
    "checkpoint_type": "Type",
    "cost_usd": "Cost",
    "created_at": "Created",
    "effective_rate_usd_per_gigabyte_month": "Per GB and month",
    "estimated_cost_usd": "Cost",
    "estimated_monthly_cost_usd": "Per month",
    "expires_at": "Expires",
    "http_pool": "HTTP pool",
    "file_size_bytes": "Size",
    "http_pool_options": "HTTP pool options",
    "http_pools": "HTTP pools",
    "is_lora": "LoRA",
    "key_id": "Key ID",
    "last_checkpoint": "Last checkpoint",
    "last_checkpoint_time": "Last saved",
    "last_request_time": "Last request",
    "last_sampler_checkpoint": "Last sampler checkpoint",
    "last_sampler_checkpoint_time": "Last sampler saved",
    "latency_ms": "Latency (ms)",
    "lora_rank": "LoRA rank",
    "max_context_length": "Max context",
    "model_name": "Model",
    "model_owner": "Owner",
    "org_urn": "Organization URN",
    "org_user_urn": "User URN",
    "project_id": "Project",
    "run_id": "Run",
    "sampler_ids": "Samplers",
    "session_id": "Session",
    "size_bytes": "Size",
    "time": "Created",
    "tinker_path": "Path",
    "train_attn": "Train attention",
    "train_mlp": "Train MLP",
    "train_unembed": "Train unembedding",
    "training_run_id": "Run",
    "user_urn": "User URN",
    "training_run_ids": "Runs",
    "url": "URL",
}

#: Columns whose values are copied and pasted: never wrapped, never cut.
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

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: Control characters, separators of lines, changes of direction, and halves of surrogate pairs.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def heading(name: str) -> str:
    """Return the table heading of the field *name*."""
    words = name.replace("_", " ")
    return HEADINGS.get(name) or words[:1].upper() + words[1:]


def printable(text: str, *, keep: str = "") -> str:
    """Return *text* with all replaced that steers a terminal, so that no server can do that.

    That is less than ``str.isprintable`` refuses: no-break spaces, joiners, and letters younger
    than this Python's tables are text like any other.

    :param keep: control characters that may stay, such as ``"\\n\\t"``.
    """
    if text.isprintable():
        return text
    return _STEERING.sub(lambda found: found[0] if found[0] in keep else _REPLACEMENT, text)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return *value* as JSON: letters as they are, what steers a terminal escaped.

    JSON itself asks for escapes below U+0020 only; terminals obey some characters above, too.
    """
    import json

    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def plain_text(value: Any) -> str:
    """Return *value* as one field of a line: raw, ``true``/``false``, empty for nothing."""
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
    """A number of bytes: ``1.2 GB`` for people (powers of 1000, as object stores count)."""

    def human_readable(self) -> str:
        if self._value is None:
            return ""
        size = float(self._value)
        if size < 1000:
            return f"{size:.0f} B"
        for unit in ("kB", "MB", "GB", "TB"):
            size /= 1000
            if size < 999.95 or unit == "TB":
                return f"{size:.1f} {unit}"
        raise AssertionError


class Dollars(FormattableColumn[float | None]):
    """An amount of US dollars: ``$1,234.50`` for people, the number for programs."""

    def human_readable(self) -> str:
        if self._value is None:
            return ""
        # Tokens are cheap: an amount below a cent is not nothing.
        return f"${self._value:,.4f}" if 0 < self._value < 0.01 else f"${self._value:,.2f}"


class Time(FormattableColumn[Any]):
    """A moment: ``3 hours ago`` for people, ISO-8601 UTC with ``Z`` for programs."""

    _value: datetime | None

    def human_readable(self) -> str:
        if self._value is None:
            return ""
        return relative(self._value, datetime.now(UTC))

    def machine_readable(self) -> str | None:
        return None if self._value is None else iso(self._value)


class Flag(FormattableColumn[bool | None]):
    """Yes or no."""

    def human_readable(self) -> str:
        return "" if self._value is None else "yes" if self._value else "no"


class Structure(FormattableColumn[Any]):
    """A JSON object or list: compact JSON for people, itself for programs."""

    def human_readable(self) -> str:
        return plain_text(self._value)


def iso(moment: datetime) -> str:
    """Return *moment* as ISO-8601 in UTC with ``Z``, to the second unless it is finer."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def relative(moment: datetime, now: datetime) -> str:
    """Return *moment* as seen from *now*: ``3 hours ago``, ``in 2 days``."""
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
            count = max(1, int(amount // size))
            words = f"{count} {unit}{'s' if count > 1 else ''}"
            return f"{words} ago" if seconds >= 0 else f"in {words}"
    raise AssertionError
