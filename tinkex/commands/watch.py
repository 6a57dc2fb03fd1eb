"""What happens to a training run: run watch shows it, run wait waits for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tinkex.columns import Time, iso, json_text, plain_text
from tinkex.commands.arguments import with_run
from tinkex.commands.base import Command, ShowOne
from tinkex.exceptions import TimedOut, TinkexError, UsageError
from tinkex.options import duration, interval

if TYPE_CHECKING:
    from tinkex.api.resources.watch import Change, Condition, Snapshot

__all__ = ["WaitRun", "WatchRun"]

_INTERVAL = timedelta(seconds=10)
#: Those of run watch, which writes each change as soon as it is seen.
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


class _Watching:
    """What watch and wait have in common."""

    if TYPE_CHECKING:
        app: Any
        client: Any
        status: Any

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run_id", metavar="<run_id>", help="training run: its id or @latest")
        parser.add_argument(
            "--interval",
            metavar="<time>",
            type=interval(),
            default=_INTERVAL,
            help="time between two looks: seconds, or with a unit: 30s, 5m; at least 1s "
            "(default: 10s)",
        )

    def snapshots(
        self, parsed_args: argparse.Namespace, limit: timedelta | None = None
    ) -> Iterator[Snapshot]:
        run_id = with_run(self, parsed_args.run_id, self._known)  # type: ignore[arg-type]
        try:
            yield from self.client.watch(
                run_id,
                interval=parsed_args.interval.total_seconds(),
                limit=None if limit is None else limit.total_seconds(),
                on_trouble=self._trouble,
                on_pause=lambda: self.app.display.expect("something new"),
            )
        except KeyboardInterrupt:
            self.app.display.clear()
            self.status(f"The run {run_id} itself goes on.")
            raise

    def _known(self, run_id: str) -> str:
        self.client.runs.get(run_id)
        return run_id

    def _trouble(self, error: TinkexError, pause: float) -> None:
        self.app.warn(f"{error}; looking again in {pause:.0f} s", prefix="No connection: ")


class WatchRun(_Watching, Command):
    """Show what happens to a training run until it fails or Ctrl-C ends the watching."""

    examples = ("tinkex run watch run-123", "tinkex run watch @latest --interval 1m --json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        self.add_options(parser)
        parser.add_argument(
            "-f",
            "--format",
            dest="formatter",
            choices=_FORMATS,
            help="plain: a line for each change; json: a JSON object on each line (default: plain) "
            "[TINKEX_FORMAT]",
        )
        parser.add_argument(
            "--json", action="store_const", const="json", dest="formatter", help="same as -f json"
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        parsed_args.formatter = parsed_args.formatter or self.default_format()
        return super().run(parsed_args)

    def default_format(self) -> str:
        """Return the format that stands before the command, or else in the settings."""
        given = getattr(self.app_args, "formatter", None)
        if getattr(self.app_args, "json", False):
            given = "json"
        if given is None:
            setting = self.app.format_setting
            return setting if setting in _FORMATS else "plain"
        if given not in _FORMATS:
            raise UsageError(
                f"{self.cmd_name} has no format {given!r}",
                hint="It has: " + ", ".join(sorted(_FORMATS)) + ".",
            )
        return str(given)

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from tinkex.api.resources.watch import changes, check_usable

        write = _as_json if parsed_args.formatter == "json" else _line
        self.result: list[Change] = []
        before = None
        for snapshot in self.snapshots(parsed_args):
            for change in changes(before, snapshot):
                self.result.append(change)
                self.app.display.clear()
                self.app.stdout.write(write(change) + "\n")
            self.app.stdout.flush()
            check_usable(snapshot)
            before = snapshot


class WaitRun(_Watching, ShowOne):
    """Wait until a training run has saved a checkpoint, or has been idle for a while."""

    is_action = True
    column_names = ("training_run_id", "condition", "subject", "last_request_time")
    examples = (
        "tinkex run wait run-123 --until checkpoint:final --max-wait 2h",
        "tinkex run wait @latest --until idle:10m",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        self.add_options(parser)
        parser.add_argument(
            "--until",
            metavar="<condition>",
            action="append",
            default=[],
            help="checkpoint (any new one), checkpoint:NAME (may be a pattern), or idle:TIME (no "
            "request for so long); may be repeated, and one is enough (default: idle:10m)",
        )
        parser.add_argument(
            "--max-wait",
            metavar="<time>",
            type=duration(bare="s"),
            help="give up after this time: 2h, 90m (default: never); --timeout is for one request",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.resources.watch import WaitedOut

        wanted = {text: _condition(text) for text in parsed_args.until or ["idle:10m"]}
        try:
            text, subject, snapshot = self._await(parsed_args, wanted)
        except WaitedOut as error:
            raise TimedOut(
                f"Timed out while awaiting {' or '.join(wanted)}",
                hint="Allow more time with --max-wait; the run itself goes on.",
            ) from error
        run = snapshot.run
        self.result = subject
        last = Time(run.last_request_time)
        return self.column_names, (run.training_run_id, text, subject, last)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [plain_text(record["subject"])]

    def _await(
        self, parsed_args: argparse.Namespace, wanted: dict[str, Condition]
    ) -> tuple[str, str, Snapshot]:
        """Return the condition that was met, what met it, and how the run was then."""
        from tinkex.api.resources.watch import changes, check_usable

        first: Snapshot | None = None
        before: Snapshot | None = None
        for snapshot in self.snapshots(parsed_args, parsed_args.max_wait):
            first = first or snapshot
            if before is not None:
                for change in changes(before, snapshot):
                    self.status(_line(change).replace("\t", "  "))
            for text, condition in wanted.items():
                subject = condition.met(first, snapshot)
                if subject is not None:
                    return text, subject, snapshot
            check_usable(snapshot)
            before = snapshot
        raise AssertionError("a run is watched without end")


def _line(change: Change) -> str:
    event = _EVENTS[change.event]
    return f"{iso(change.time.replace(microsecond=0))}\t{event}\t{plain_text(change.subject)}"


def _as_json(change: Change) -> str:
    members = {"time": iso(change.time), "event": change.event, "subject": change.subject}
    return json_text(members)


def _condition(text: str) -> Condition:
    from tinkex.api.resources.watch import Condition
    from tinkex.options import parse_duration

    kind, _, value = text.partition(":")
    if kind == "checkpoint" and (value or ":" not in text):
        return Condition(checkpoint=value or "*")
    if kind == "idle" and value:
        return Condition(idle=parse_duration(value))
    raise UsageError(
        f"not a condition: {text[:80]!r}",
        hint="Give --until checkpoint, checkpoint:NAME or idle:10m.",
    )
