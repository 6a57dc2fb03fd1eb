"""What was used, and what it costs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tinkex.columns import Dollars, Size, Time, iso
from tinkex.commands.base import Lister
from tinkex.exceptions import UsageError
from tinkex.options import moment, non_empty, number

if TYPE_CHECKING:
    from tinkex.api.resources.billing import Usage

_DIMENSIONS = ("day", "run", "session", "model", "user", "project", "type", "event")
#: The column of each dimension.
_KEY_COLUMNS = {
    "run": "training_run_id",
    "session": "session_id",
    "model": "base_model",
    "project": "project_id",
}
_SUMS = (
    "training_tokens",
    "prefill_tokens",
    "cached_tokens",
    "sampled_tokens",
    "checkpoints",
    "gigabyte_hours",
    "cost_usd",
    "unpriced",
)
_EVENT_COLUMNS = (
    "bucket_start",
    "bucket_end",
    "type",
    "base_model",
    "user_id",
    "user_name",
    "session_id",
    "project_id",
    "estimated_cost_usd",
    "effective_rate_usd_per_million_tokens",
    "effective_rate_usd_per_gigabyte_month",
    "token_count",
    "cached",
    "count",
    "gigabyte_hours",
    "free",
)
#: Those that a table of events leaves out first: what is the same in most rows.
_EVENT_DROPPABLE = (
    "gigabyte_hours",
    "effective_rate_usd_per_gigabyte_month",
    "effective_rate_usd_per_million_tokens",
    "cached",
    "free",
    "project_id",
    "user_id",
    "bucket_end",
    "user_name",
    "count",
    "base_model",
    "bucket_start",
)
_SINCE = timedelta(days=7)


class _WithCsv(Lister):
    """A list that can also be written to a file, as the service tells it."""

    _silent = False

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        return 0 if self._silent else super().produce_output(parsed_args, column_names, data)

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write *rows* to the file *name*; ``-`` is standard output, which then has only them."""
        from tinkex.files import write_atomically

        text = _csv(rows)
        if name == "-":
            self._silent = True
            self.app.stdout.write(text)
            return
        write_atomically(name, text)
        self.status(f"Wrote {len(rows)} rows to {name}")


class UsageBilling(_WithCsv):
    """Show what was used and what it cost, added up."""

    notes = (
        "Amounts are gross estimates in US dollars, before credits; they are no invoice. "
        "The data lags by up to a few hours."
    )
    column_names = ("day", *_SUMS)
    droppable = (
        "cached_tokens",
        "checkpoints",
        "gigabyte_hours",
        "prefill_tokens",
        "training_tokens",
        "sampled_tokens",
    )
    examples = (
        "tinkex billing usage --since 30d --by model",
        "tinkex billing usage --from 2026-10-01 --to 2026-11-01 --by run -f csv",
        "tinkex -q billing usage --since 30d --budget 50 > /dev/null || mail -s 'Over budget' me",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "starting_on", metavar="<start>", nargs="?", type=moment, help="same as --from"
        )
        parser.add_argument(
            "ending_before", metavar="<end>", nargs="?", type=moment, help="same as --to"
        )
        parser.add_argument(
            "--since",
            "--from",
            dest="since",
            metavar="<when>",
            type=moment,
            help="beginning: how long ago (30d, 12h), a date, a time, yesterday (default: 7d)",
        )
        parser.add_argument(
            "--to", metavar="<when>", type=moment, help="end, in the same forms (default: now)"
        )
        parser.add_argument(
            "--by",
            choices=_DIMENSIONS,
            default="day",
            help="what to add up by; event shows every row of the service (default: day)",
        )
        parser.add_argument(
            "--csv",
            metavar="<file>",
            help="also write every row of the service as CSV; - is stdout",
        )
        parser.add_argument(
            "--sessions-csv",
            metavar="<file>",
            help="also write the metadata of the sessions as CSV, to join on session_id",
        )
        parser.add_argument(
            "--budget",
            metavar="<dollars>",
            type=_dollars,
            help="fail when the total is above this many US dollars",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import check_writable

        start, end = _span(parsed_args)
        if parsed_args.csv == parsed_args.sessions_csv == "-":
            raise UsageError("only one of --csv and --sessions-csv can go to standard output")
        for name in (parsed_args.csv, parsed_args.sessions_csv):
            if name not in (None, "-"):
                check_writable(name)
        usage = self.client.billing.usage(start, end)
        self.result = usage
        if parsed_args.budget is not None and usage.cost_usd > parsed_args.budget:
            raise UsageError(_over(usage, parsed_args.budget), hint="", whole_line=True)
        if parsed_args.csv:
            self.write_csv(parsed_args.csv, [_flat(event.raw) for event in usage.events])
        if parsed_args.sessions_csv:
            self.write_csv(parsed_args.sessions_csv, _session_rows(usage))
        self.status(_total(usage))
        if parsed_args.by == "event":
            self.presentation.droppable = _EVENT_DROPPABLE
            return _EVENT_COLUMNS, [_event_row(event) for event in usage.events]
        return self._summaries(usage, parsed_args.by)

    def _summaries(self, usage: Usage, by: str) -> Any:
        from tinkex.api.resources.billing import summarize

        runs_of = {}
        if by == "run":
            ids = sorted({event.session_id for event in usage.events if event.session_id})
            known = self.client.sessions.get_many(ids, accessible=True)
            runs_of = {name: session.training_run_ids for name, session in known.items()}
        rows = [
            (
                summary.key,
                *(getattr(summary, name) for name in _SUMS[:5]),
                round(summary.gigabyte_hours, 6),
                Dollars(round(summary.cost_usd, 6)),
                summary.unpriced,
            )
            for summary in summarize(usage, by, runs_of)
        ]
        return (_KEY_COLUMNS.get(by, by), *_SUMS), rows


class StorageBilling(_WithCsv):
    """Show what checkpoints occupy now and what that costs in a month of 720 hours."""

    column_names = (
        "project_id",
        "user_name",
        "user_email",
        "org_user_urn",
        "checkpoint_count",
        "size_bytes",
        "size_gigabytes",
        "estimated_monthly_cost_usd",
        "effective_rate_usd_per_gigabyte_month",
    )
    droppable = (
        "effective_rate_usd_per_gigabyte_month",
        "org_user_urn",
        "size_gigabytes",
        "user_email",
        "user_name",
    )
    examples = ("tinkex billing storage", "tinkex billing storage --project-id p-1 -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--project-id", metavar="<id>", type=non_empty, help="only this project"
        )
        parser.add_argument(
            "--csv", metavar="<file>", help="also write the rows as CSV; - is stdout"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from dataclasses import asdict

        from tinkex.files import check_writable

        if parsed_args.csv not in (None, "-"):
            check_writable(parsed_args.csv)
        storage = self.client.billing.storage(parsed_args.project_id)
        self.result = storage
        rate = {"effective_rate_usd_per_gigabyte_month": storage.rate}
        rows = [rate | asdict(row) for row in storage.rows]
        if parsed_args.csv:
            self.write_csv(parsed_args.csv, rows)
        total = sum(row.estimated_monthly_cost_usd or 0.0 for row in storage.rows)
        count = sum(row.checkpoint_count for row in storage.rows)
        size = Size(sum(row.size_bytes for row in storage.rows)).human_readable()
        self.status(f"{count} checkpoints, {size}, ${total:,.2f} a month. Data may lag 1-2 hours.")
        wrapped = {"size_bytes": Size, "estimated_monthly_cost_usd": Dollars}
        return self.column_names, [
            tuple(wrapped.get(name, _as_is)(row[name]) for name in self.column_names)
            for row in rows
        ]


def _span(parsed_args: argparse.Namespace) -> tuple[datetime, datetime]:
    if parsed_args.starting_on and parsed_args.since:
        raise UsageError("the beginning is given twice", hint="Give <start> or --from.")
    if parsed_args.ending_before and parsed_args.to:
        raise UsageError("the end is given twice", hint="Give <end> or --to.")
    end = parsed_args.ending_before or parsed_args.to or datetime.now(UTC)
    return parsed_args.starting_on or parsed_args.since or end - _SINCE, end


def _dollars(text: str) -> float:
    return number(0)(text.removeprefix("$"))


def _total(usage: Usage) -> str:
    parts = [f"Total: ${usage.cost_usd:,.2f} from {iso(usage.start)} to {iso(usage.end)}."]
    if usage.cost_data_through:
        parts.append(f"Invoice prices through {iso(usage.cost_data_through)}.")
    if usage.unpriced:
        parts.append(f"{usage.unpriced} rows have no price yet: the total will rise.")
    return " ".join(parts)


def _over(usage: Usage, budget: float) -> str:
    at_least = "at least " if usage.unpriced else ""
    since = iso(usage.start)
    return f"Over budget: {at_least}${usage.cost_usd:,.2f} of ${budget:,.2f} since {since}."


def _event_row(event: Any) -> tuple[Any, ...]:
    wrapped = {"bucket_start": Time, "bucket_end": Time}
    return tuple(wrapped.get(name, _as_is)(getattr(event, name)) for name in _EVENT_COLUMNS)


def _as_is(value: Any) -> Any:
    return value


def _flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the service with its nested part beside the rest."""
    info = event.get("event_info")
    rest = {name: value for name, value in event.items() if name != "event_info"}
    return rest | (dict(info) if isinstance(info, Mapping) else {})


def _session_rows(usage: Usage) -> list[dict[str, Any]]:
    import json

    return [
        {"session_id": name, "user_metadata": None if about is None else json.dumps(dict(about))}
        for name, about in usage.sessions.items()
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return *rows* as CSV; a column for every name that some row has."""
    import csv
    import io

    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
