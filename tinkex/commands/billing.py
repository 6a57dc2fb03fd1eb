"""Show the cost of usage and storage, and estimate the cost of training."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tinkex.columns import Dollars, Size, cells, counted, iso, json_dumps, plain_text, printable
from tinkex.commands.base import Command, Lister, ShowOne
from tinkex.exceptions import TinkexError, UsageError
from tinkex.options import integer, moment, non_empty, number

if TYPE_CHECKING:
    from tinkex.api import SupervisedExample, Tokenizer
    from tinkex.api.resources.billing import Usage
    from tinkex.config.prices import TokenPrices


#: Maximum size in bytes of a price list.
_MOST_PRICES = 16 * 1024 * 1024
_DIMENSIONS = ("day", "run", "session", "model", "user", "project", "type", "event")
#: Dimension → its column, where the names differ.
_KEY_COLUMNS = {
    "run": "training_run_id",
    "session": "session_id",
    "model": "base_model",
    "project": "project_id",
}
_SUMS = (
    *("training_tokens", "prefill_tokens", "cached_tokens", "sampled_tokens"),
    *("checkpoints", "gigabyte_hours", "cost_usd", "unpriced"),
)
_EVENT_COLUMNS = (
    *("bucket_start", "bucket_end", "type", "base_model"),
    *("user_id", "user_name", "session_id", "project_id", "estimated_cost_usd"),
    *("effective_rate_usd_per_million_tokens", "effective_rate_usd_per_gigabyte_month"),
    *("token_count", "cached", "count", "gigabyte_hours", "free"),
)


class _CsvLister(Lister):
    """A list that can also write the data, as the service returned it, to a CSV file."""

    _silent = False

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        return 0 if self._silent else super().produce_output(parsed_args, column_names, data)

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write *rows* to the file *name*; ``-`` replaces the list on standard output."""
        from tinkex.files import write_atomically

        out = io.StringIO()
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            nested = {k: json_dumps(v) for k, v in row.items() if isinstance(v, (bool, dict, list))}
            writer.writerow({**row, **nested})
        if name == "-":
            self._silent = True
            self.app.stdout.write(printable(out.getvalue(), keep="\n\t"))
        else:
            write_atomically(name, out.getvalue())
            self.status(f"Wrote {counted(len(rows), 'row')} to {name}")


class UsageBilling(_CsvLister):
    """Show aggregated usage and its cost."""

    notes = (
        "Amounts are gross estimates in US dollars before credits, not invoice\n"
        "amounts. The data may lag by a few hours."
    )
    column_names = ("day", *_SUMS)
    droppable = _SUMS[5::-1]
    examples = (
        "tinkex billing usage --since 30d --by model",
        "tinkex billing usage --from 2026-10-01 --to 2026-11-01 --by run -f csv",
        "tinkex -q billing usage --since 30d --budget 50 >/dev/null || mail -s Over me",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--since",
            "--from",
            dest="since",
            metavar="<when>",
            type=moment,
            help="start of the period: a time before now (30d, 12h), a date (2026-11-01), a date "
            "and time (2026-11-01T15:30) or 'yesterday' (default: 7 days before the end)",
        )
        parser.add_argument(
            "--to",
            metavar="<when>",
            type=moment,
            help="end of the period, in the same formats (default: now)",
        )
        parser.add_argument(
            "--by",
            choices=_DIMENSIONS,
            default="day",
            help="dimension to aggregate by; 'event' shows each usage event separately "
            "(default: day)",
        )
        parser.add_argument(
            "--csv",
            metavar="<file>",
            help="also write every usage event to this CSV file; -: print only the CSV",
        )
        parser.add_argument(
            "--sessions-csv",
            metavar="<file>",
            help="also write session metadata to this CSV file, for joining on session_id; -: "
            "print only the CSV",
        )
        parser.add_argument(
            "--budget",
            metavar="<dollars>",
            type=lambda text: number(0)(text.removeprefix("$")),
            help="fail if the total is above this amount in US dollars",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import check_writable

        end = parsed_args.to or datetime.now(UTC)
        start = parsed_args.since or end - timedelta(days=7)
        if parsed_args.csv == parsed_args.sessions_csv == "-":
            raise UsageError("--csv and --sessions-csv cannot both be written to standard output")
        for name in (parsed_args.csv, parsed_args.sessions_csv):
            if name not in (None, "-"):
                check_writable(name)
        self.result = usage = self.client.billing.usage(start, end)
        if parsed_args.budget is not None and usage.cost_usd > parsed_args.budget:
            cost = f"{'at least ' if usage.unpriced else ''}${usage.cost_usd:,.2f}"
            raise UsageError(
                f"Over budget: {cost} of ${parsed_args.budget:,.2f} since {iso(usage.start)}.",
                hint="",
                whole_line=True,
            )
        if parsed_args.csv:
            self.write_csv(parsed_args.csv, [_flat(event.raw) for event in usage.events])
        if parsed_args.sessions_csv:
            about = usage.sessions.items()
            rows = [{"session_id": id, "user_metadata": d and dict(d)} for id, d in about]
            self.write_csv(parsed_args.sessions_csv, rows)
        self.status(_total(usage))
        if parsed_args.by == "event":
            # The rest is the same in most rows.
            shown = ("type", "session_id", "estimated_cost_usd", "token_count")
            self.presentation.droppable = [n for n in _EVENT_COLUMNS[::-1] if n not in shown]
            return _EVENT_COLUMNS, [cells(event, _EVENT_COLUMNS) for event in usage.events]
        return self._summaries(usage, parsed_args.by)

    def _summaries(self, usage: Usage, by: str) -> Any:
        from tinkex.api.resources.billing import summarize

        runs_of = {}
        if by == "run":
            ids = sorted({event.session_id for event in usage.events if event.session_id})
            known = self.client.sessions.get_many(ids, accessible=True)
            runs_of = {name: session.training_run_ids for name, session in known.items()}
        rows = []
        for group in summarize(usage, by, runs_of):
            hours, cost = round(group.gigabyte_hours, 6), round(group.cost_usd, 6)
            shown = replace(group, gigabyte_hours=hours, cost_usd=cost)
            rows.append(cells(shown, ("key", *_SUMS)))
        return (_KEY_COLUMNS.get(by, by), *_SUMS), rows


class CheckpointStorageBilling(_CsvLister):
    """Show checkpoint storage and its cost."""

    notes = "Costs are for a month of 720 hours."
    column_names = (
        *("project_id", "user_name", "user_email", "org_user_urn", "checkpoint_count"),
        *("size_bytes", "size_gigabytes"),
        *("estimated_monthly_cost_usd", "effective_rate_usd_per_gigabyte_month"),
    )
    droppable = (
        *("effective_rate_usd_per_gigabyte_month", "org_user_urn", "size_gigabytes"),
        *("user_email", "user_name"),
    )
    examples = (
        "tinkex billing checkpoint-storage",
        "tinkex billing checkpoint-storage --project-id p-1 -f json",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--project-id", metavar="<id>", type=non_empty, help="only checkpoints in this project"
        )
        parser.add_argument(
            "--csv",
            metavar="<file>",
            help="also write the data to this CSV file; -: print only the CSV",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import check_writable

        if parsed_args.csv not in (None, "-"):
            check_writable(parsed_args.csv)
        self.result = storage = self.client.billing.storage(parsed_args.project_id)
        *names, rate = self.column_names
        if parsed_args.csv:
            self.write_csv(
                parsed_args.csv, [{rate: storage.rate, **asdict(r)} for r in storage.rows]
            )
        total = sum(row.estimated_monthly_cost_usd or 0.0 for row in storage.rows)
        count = sum(row.checkpoint_count for row in storage.rows)
        size = Size(sum(row.size_bytes for row in storage.rows)).human_readable()
        self.status(
            f"{counted(count, 'checkpoint')}, {size}, ${total:,.2f} a month. The data may lag by "
            "1-2 hours."
        )
        return self.column_names, [(*cells(row, names), storage.rate) for row in storage.rows]


class EstimateBilling(ShowOne):
    """Estimate training tokens and cost."""

    notes = (
        "tinkex counts tokens with the model's tokenizer and does not contact the service. "
        "The cost is shown only with --prices. "
        "To estimate sampling: tinkex run batch --estimate"
    )
    column_names = (
        *("base_model", "rows", "examples", "tokens", "trained_tokens", "epochs", "train_tokens"),
        *("train_usd_per_million_tokens", "train_cost_usd", "prices_date"),
    )
    examples = (
        "tinkex billing estimate data.jsonl --base-model Qwen/Qwen3-8B --epochs 3",
        "tinkex billing estimate data.jsonl --base-model Qwen/Qwen3-8B --prices p.json",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "data",
            metavar="<file>",
            help='training data, as JSONL or a JSON array; each row is {"messages": ...}, '
            '{"prompt": ..., "completion": ...} or {"text": ...}; - is standard input',
        )
        parser.add_argument(
            "--base-model", metavar="<id>", required=True, help="base model to train"
        )
        parser.add_argument(
            "--epochs",
            metavar="<int>",
            type=integer(1),
            default=1,
            help="number of passes over the data (default: 1)",
        )
        parser.add_argument(
            "--max-length",
            metavar="<int>",
            type=integer(2),
            help="maximum number of tokens per example (default: no limit)",
        )
        add_prices(parser)
        parser.add_argument(
            "--tokenizer",
            metavar="<name>",
            help="model name or local directory of the tokenizer (default: the base model's)",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api import load_tokenizer
        from tinkex.config.prices import cost

        model, epochs = parsed_args.base_model, parsed_args.epochs
        prices = find_prices(self, parsed_args.prices, model)
        tokenizer = load_tokenizer(parsed_args.tokenizer or model)
        rows = examples = tokens = trained = 0
        for row in self._examples(parsed_args, tokenizer):
            rows += 1
            examples += len(row)
            tokens += sum(len(example.tokens) for example in row)
            trained += sum(example.num_trained for example in row)
        if not rows:
            where = "standard input" if parsed_args.data == "-" else parsed_args.data
            raise UsageError(
                f"there are no rows in {where}", hint="Write one JSON object per line."
            )
        rate = prices.train if prices else None
        total = (tokens - examples) * epochs  # the last token of an example is not an input
        if prices and rate is None:
            self.app.warn(f"{parsed_args.prices} has no price for training {model}")
        counts = (model, rows, examples, tokens, trained, epochs, total)
        price, date = cost(total, rate), prices and prices.date
        self.result = dict(zip(self.column_names, (*counts, rate, price, date), strict=True))
        return self.column_names, (*counts, rate, Dollars(price), date)

    def _examples(
        self, parsed_args: argparse.Namespace, tokenizer: Tokenizer
    ) -> Iterator[list[SupervisedExample]]:
        """Yield the examples of each row."""
        from tinkex.api import ExampleBuilder, read_supervised_rows
        from tinkex.commands.inputs import opened

        builder = ExampleBuilder(tokenizer, max_length=parsed_args.max_length)
        with opened(parsed_args.data, self.app.stdin) as (file, name):
            for row in read_supervised_rows(file, name):
                yield builder.build(row)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        shown = dict(record)
        rate, price, date = (shown.pop(name) for name in self.column_names[-3:])
        lines = super().plain_lines(shown)
        if rate is not None:
            lines.append(
                f"Cost: {price.human_readable()} at ${rate:g} per million tokens "
                f"(prices as of {plain_text(date)})"
            )
        return lines


def add_prices(parser: argparse.ArgumentParser) -> None:
    """Add ``--prices``; see :func:`find_prices`."""
    parser.add_argument(
        "--prices",
        metavar="<file>",
        help="price list: JSON file or http(s) URL",
    )


def find_prices(command: Command | ShowOne, name: str | None, model: str) -> TokenPrices | None:
    """Return the prices of *model* in the price list *name*, a file or a URL.

    :raises UsageError: it is not a price list, or does not contain the model.
    :raises TinkexError: it cannot be read.
    """
    if name is None:
        return None
    from tinkex.config.prices import parse
    from tinkex.files import read_bytes

    if name.startswith(("https://", "http://")):
        from tinkex.api.http import probe
        from tinkex.plugins import Timeouts

        settings = command.settings
        timeouts = Timeouts(connect=settings.timeout, read=settings.timeout)
        try:
            content = probe.get(name, timeouts, settings.pool_options)
        except TinkexError as error:
            error.hint = error.hint or "Check the URL given with --prices."
            raise
        return parse(content, name, model)
    return parse(read_bytes(name, None, _MOST_PRICES), name, model)


def _total(usage: Usage) -> str:
    parts = [f"Total: ${usage.cost_usd:,.2f} from {iso(usage.start)} to {iso(usage.end)}."]
    if usage.cost_data_through:
        parts.append(f"Costs before {iso(usage.cost_data_through)} are based on invoice prices.")
    if usage.unpriced:
        what = "1 event has" if usage.unpriced == 1 else f"{usage.unpriced} events have"
        parts.append(f"{what} no price yet, so the total will rise.")
    return " ".join(parts)


def _flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row from the service with ``event_info`` replaced by its members."""
    info = event.get("event_info")
    rest = {name: value for name, value in event.items() if name != "event_info"}
    return rest | (dict(info) if isinstance(info, Mapping) else {})
