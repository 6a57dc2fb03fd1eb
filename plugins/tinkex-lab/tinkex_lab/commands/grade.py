"""Grade the results of ``run batch``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cliff.columns import FormattableColumn

from tinkex.columns import plain_text
from tinkex.commands.base import Lister
from tinkex.exceptions import UsageError
from tinkex.files import check_writable, user_path, write_atomically
from tinkex.options import integer, non_empty, number
from tinkex_lab.checks import FORMS, Check, Tally, as_text, field_of, parse_check
from tinkex_lab.programs import Program, map_concurrently
from tinkex_lab.results import ResultRow, read_results


class Grade(Lister):
    """Grade 'run batch' results with checks."""

    notes = (
        "A sample passes if it passes all checks. FIELD is a field in the prompt's row, such as "
        "the reference answer. If the field is a list, one of its items must match. COMMAND reads "
        "a JSON object with the sample's text from standard input, and exits with 0 if the sample "
        "passes. tinkex sends no requests to the service."
    )
    operation = "Grading"
    column_names = ("group", "rows", "samples", "pass_at_1", "k", "pass_at_k", "truncation_rate")
    plain_columns = column_names
    examples = (
        "tinkex grade answers.jsonl --check equals:answer",
        "tinkex grade answers.jsonl --check 'regex:(?i)\\byes\\b' --group-by topic",
        "tinkex grade answers.jsonl --check contains:answer -k 4 --fail-under 0.8",
        "tinkex grade answers.jsonl --check 'exec:python run_tests.py'",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "results", metavar="<file>", help="results file from 'run batch'; - is standard input"
        )
        parser.add_argument(
            "--check",
            metavar="<check>",
            type=non_empty,
            action="append",
            default=[],
            help=f"check to apply to each sample: {FORMS}; may be repeated",
        )
        parser.add_argument(
            "--exec-timeout",
            metavar="<seconds>",
            type=number(0, above=True),
            default=10.0,
            help="time limit in seconds for each exec: command; a command that exceeds it is "
            "killed, and the sample fails (default: 10)",
        )
        parser.add_argument(
            *("-k", "--pass-at"),
            metavar="<int>",
            type=integer(1),
            help="k in pass@k (default: the smallest number of samples in any row)",
        )
        parser.add_argument(
            "--group-by",
            metavar="<field>",
            type=non_empty,
            help="field in the prompt's row to group the results by",
        )
        parser.add_argument(
            "--fail-under",
            metavar="<float>",
            type=number(0, 1),
            help="exit with code 1 if pass@1 over all rows is below this value",
        )
        parser.add_argument(
            "--per-row", metavar="<path>", help="JSONL file to write the outcome of each row to"
        )

    def run(self, parsed_args: argparse.Namespace) -> int:
        code = super().run(parsed_args)
        minimum = parsed_args.fail_under
        if self.result is None or minimum is None or self.result["pass_at_1"] >= minimum:
            return code
        self.status(f"pass@1 is {self.result['pass_at_1']:.4g}, below {minimum:g}.")
        return code or 1

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        checks = [parse_check(spec, parsed_args.exec_timeout) for spec in parsed_args.check]
        if not checks:
            raise UsageError("--check is required", hint=f"Valid checks: {FORMS}.")
        if parsed_args.per_row is not None:
            check_writable(parsed_args.per_row, parsed_args.results)
        total, groups, lines = Tally(), dict[str, Tally](), list[str]()
        for row, passed in _graded(read_results(parsed_args.results, self.app.stdin), checks):
            total.add(row, passed)
            outcome = {"id": row.id, "index": row.index, "passed": passed}
            if parsed_args.group_by:
                group = as_text(field_of(row, parsed_args.group_by))
                groups.setdefault(group, Tally()).add(row, passed)
                outcome["group"] = group
            if parsed_args.per_row is not None:
                lines.append(json.dumps(outcome, ensure_ascii=False) + "\n")
        fewest = min(samples for samples, _ in total.outcomes)
        k = parsed_args.pass_at or fewest
        if k > fewest:
            raise UsageError(
                f"pass@{k} needs at least {k} samples per row, but one row has {fewest}",
                hint=f"Sample again with --num-samples {k}, or use -k {fewest}.",
            )
        if parsed_args.per_row is not None:
            write_atomically(parsed_args.per_row, "".join(lines))
        self._report_failed_rows(parsed_args.results)
        if count := sum(check.timeouts for check in checks if isinstance(check, Program)):
            self.status(f"Commands killed after {parsed_args.exec_timeout:g} s: {count}.")
        rows = [_values(name, tally, k) for name, tally in groups.items()]
        rows.append(_values(None, total, k))
        self.result = dict(zip(self.column_names[1:], rows[-1][1:], strict=True))
        return self.column_names, rows

    def plain_row(self, record: Mapping[str, Any]) -> str:
        group, *rest = (record[name] for name in self.column_names)
        return "\t".join([plain_text(group.human_readable()), *map(_rounded, rest)])

    def _report_failed_rows(self, name: str) -> None:
        """Report rows that could not be sampled, which ``run batch`` writes to another file."""
        path = Path(f"{str(user_path(name)).removesuffix('.jsonl')}.failed.jsonl")
        try:
            count = len(path.read_bytes().splitlines()) if name != "-" else 0
        except OSError:
            return
        if count:
            self.status(f"Rows not graded because sampling failed: {count} (see {path}).")


def _graded(
    rows: Iterable[ResultRow], checks: Sequence[Check]
) -> Iterator[tuple[ResultRow, list[bool]]]:
    """Yield each row, and for each of its samples whether it passes."""

    def graded(row: ResultRow) -> tuple[ResultRow, list[bool]]:
        return row, [_passes(row, number, checks) for number in range(len(row.sequences))]

    programs = [check for check in checks if isinstance(check, Program)]
    return map_concurrently(graded, rows, programs) if programs else map(graded, rows)


class _Group(FormattableColumn[str | None]):
    """The value of a field, or ``None`` for all rows, displayed as ``all``."""

    def human_readable(self) -> str:
        return "all" if self._value is None else self._value


def _passes(row: ResultRow, number: int, checks: Sequence[Check]) -> bool:
    text = row.sequences[number].text
    if text is None:
        raise UsageError(
            f"{row.where} has token ids instead of text",
            hint="Sample again with a tokenizer: tinkex run batch … --tokenizer MODEL",
        )
    return all(check(row, text) for check in checks)


def _values(group: str | None, tally: Tally, k: int) -> tuple[Any, ...]:
    rates = (tally.pass_at(1), k, tally.pass_at(k), tally.truncation_rate)
    return (_Group(group), len(tally.outcomes), tally.samples, *rates)


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else plain_text(value)
