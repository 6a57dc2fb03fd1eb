"""Follow a training run, or wait for a checkpoint or an idle run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tinkex.columns import Time, iso, json_text, plain_text
from tinkex.commands.arguments import add_formats, add_run, with_run
from tinkex.commands.base import Command, ShowOne
from tinkex.exceptions import TimedOut, TinkexError, UsageError
from tinkex.options import duration, interval, parse_duration

if TYPE_CHECKING:
    from tinkex.api.resources.watch import Change, Condition, Snapshot

__all__ = ["WaitRun", "WatchRun"]

_INTERVAL = timedelta(seconds=10)
#: Formats of run watch, which writes each change immediately.
_FORMATS = ("plain", "json")
_EVENTS = {
    "run": "last request",
    "request": "request",
    "checkpoint": "saved",
    "removed": "removed",
    "published": "published",
    "unpublished": "unpublished",
    "corrupted": "corrupted",
}


class WatchRun(Command):
    """Follow a training run."""

    notes = "The command ends when the run fails. Ctrl-C ends only the command, not the run."
    examples = ("tinkex run watch run-123", "tinkex run watch @latest --interval 1m --json")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_options(parser)
        add_formats(
            parser,
            _FORMATS,
            "plain: one line per change; json: one JSON object per line (default: plain) "
            "[TINKEX_FORMAT]",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        # The format also applies to errors.
        parsed_args.formatter = (
            parsed_args.formatter
            or self.format_before_command(_FORMATS)
            or ("json" if self.app.format_setting == "json" else "plain")
        )
        write = _as_json if parsed_args.formatter == "json" else _line
        self.result: list[Change] = []
        for _, changes in _polls(self, parsed_args):
            for change in changes:
                self.result.append(change)
                self.app.display.clear()
                self.app.stdout.write(write(change) + "\n")
            self.app.stdout.flush()


class WaitRun(ShowOne):
    """Wait until a training run saves a checkpoint or is idle."""

    is_action = True
    column_names = ("training_run_id", "condition", "subject", "last_request_time")
    examples = (
        "tinkex run wait run-123 --until checkpoint:final --max-wait 2h",
        "tinkex run wait @latest --until idle:10m",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_options(parser)
        parser.add_argument(
            "--until",
            metavar="<condition>",
            action="append",
            default=[],
            help="condition to wait for: checkpoint (any new checkpoint), checkpoint:NAME (NAME "
            "may be a pattern) or idle:TIME (no requests for this long); may be repeated to wait "
            "for whichever is met first (default: idle:10m)",
        )
        parser.add_argument(
            "--max-wait",
            metavar="<time>",
            type=duration(bare="s"),
            help="maximum time to wait, such as 2h or 90m (default: no limit); --timeout limits "
            "each request",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.resources.watch import WaitedOut

        conditions = {text: _condition(text) for text in parsed_args.until or ["idle:10m"]}
        try:
            text, subject, snapshot = self._await(parsed_args, conditions)
        except WaitedOut as error:
            raise TimedOut(
                f"Timed out while awaiting {' or '.join(conditions)}",
                hint="Allow more time with --max-wait. The run itself continues.",
            ) from error
        run = snapshot.run
        self.result = subject
        return self.column_names, (run.training_run_id, text, subject, Time(run.last_request_time))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [plain_text(record["subject"])]

    def _await(
        self, parsed_args: argparse.Namespace, conditions: dict[str, Condition]
    ) -> tuple[str, str, Snapshot]:
        """Return the condition that was met, what met it, and the snapshot."""
        first: Snapshot | None = None
        for snapshot, changes in _polls(self, parsed_args, parsed_args.max_wait):
            for change in changes if first else ():
                self.status(_line(change).replace("\t", "  "))
            first = first or snapshot
            for text, condition in conditions.items():
                subject = condition.met(first, snapshot)
                if subject is not None:
                    return text, subject, snapshot
        raise AssertionError("unreachable: the snapshots do not end")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--interval",
        metavar="<time>",
        type=interval(),
        default=_INTERVAL,
        help="polling interval in seconds, or with a unit (30s, 5m); at least 1s (default: 10s)",
    )


def _polls(
    command: WatchRun | WaitRun, parsed_args: argparse.Namespace, limit: timedelta | None = None
) -> Iterator[tuple[Snapshot, list[Change]]]:
    """Yield snapshots of the run given on the command line, each with what has changed.

    :raises OperationFailed: the run is corrupted.
    """
    from tinkex.api.resources.watch import changes, check_usable

    def existing(run_id: str) -> str:
        command.client.runs.get(run_id)
        return run_id

    def on_trouble(error: TinkexError, pause: float) -> None:
        command.app.warn(f"{error}; retrying in {pause:.0f} s", prefix="Poll failed: ")
        command.app.display.expect("changes")

    run_id = with_run(command, parsed_args.run_id, existing)
    before = None
    try:
        for snapshot in command.client.watch(
            run_id,
            interval=parsed_args.interval.total_seconds(),
            limit=None if limit is None else limit.total_seconds(),
            on_trouble=on_trouble,
        ):
            yield snapshot, list(changes(before, snapshot))
            check_usable(snapshot)
            before = snapshot
            command.app.display.expect("changes")
    except KeyboardInterrupt:
        command.app.display.clear()
        command.status(f"The run {run_id} itself continues.")
        raise


def _line(change: Change) -> str:
    event = _EVENTS[change.event]
    return f"{iso(change.time.replace(microsecond=0))}\t{event}\t{plain_text(change.subject)}"


def _as_json(change: Change) -> str:
    members = {"time": iso(change.time), "event": change.event, "subject": change.subject}
    return json_text(members)


def _condition(text: str) -> Condition:
    from tinkex.api.resources.watch import Condition

    kind, _, value = text.partition(":")
    if kind == "checkpoint" and (value or ":" not in text):
        return Condition(checkpoint=value or "*")
    if kind == "idle" and value:
        return Condition(idle=parse_duration(value))
    raise UsageError(
        f"invalid condition: {text[:80]!r}",
        hint="Use --until checkpoint, checkpoint:NAME or idle:TIME, such as idle:10m.",
    )
