"""Delete checkpoints: by name or filter (delete), or by retention rules (prune)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Size, Time, plain_text
from tinkex.commands import arguments
from tinkex.commands.checkpoint_change import BulkChange, Row, summary
from tinkex.exceptions import TinkexError, UsageError, a_few
from tinkex.options import duration, integer, number

if TYPE_CHECKING:
    from tinkex.api import Checkpoint
    from tinkex.api.resources.changes import Changes
    from tinkex.api.resources.selection import Decision


_QUESTION = ("This cannot be undone:", "Delete {}?")
#: Bytes of a gigabyte, the unit of storage prices.
_GIGABYTE = 1e9


class _Deletion(BulkChange):
    """Base class of the delete and prune commands."""

    doing, done = "Deleting", "deleted"
    deletes = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation")
        parser.add_argument(
            "--dry-run", action="store_true", help="show what would be deleted, without deleting it"
        )

    def rehearse(self, paths: Sequence[str], changes: Changes) -> dict[str, TinkexError]:
        """Return the errors that deleting *paths* would raise; the command then fails with them."""
        changes.found()  # reads all lists at once
        refused = {path: error for path in paths if (error := changes.refusal(path))}
        for path in paths:
            if path not in refused and (twins := changes.twins(path)):
                self.app.warn(
                    f"deleting {path} may also delete {a_few(twins)}, because this server does not "
                    "distinguish checkpoints with the same name"
                )
        self._tried, self._failures = len(paths) if refused else 0, refused
        return refused

    def delete(self, paths: Sequence[str], changes: Changes, row: Row) -> Iterable[tuple[Any, ...]]:
        """Delete *paths*, return their rows, and warn about other deleted checkpoints."""

        def row_of(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            for note in changes.notes.get(path, ()):
                self.app.warn(plain_text(note))
            return row(path, error)

        return self.change(paths, changes.delete, row_of)


class DeleteCheckpoint(_Deletion):
    """Delete checkpoints, with confirmation on a terminal."""

    _description = "Delete checkpoints. Without a terminal, only filters require confirmation."
    column_names = ("tinker_path", "deleted", "error")
    notes = (
        "'echo n | tinkex checkpoint delete PATH' deletes the checkpoint, because tinkex reads\n"
        "the answer only from a terminal. Without a terminal, filters require --yes."
    )
    examples = (
        "tinkex checkpoint delete tinker://run-old/weights/0001",
        "tinkex checkpoint delete --yes run-old:0001 run-old:0002",
        "tinkex checkpoint delete --type weights --before 30d --dry-run",
        "tinkex checkpoint delete --run-id 'nightly*' --not-public --yes",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        arguments.add_paths(parser, optional=True)
        arguments.add_filters(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if bool(parsed_args.tinker_paths) == arguments.given_filters(parsed_args):
            raise UsageError(
                "use either checkpoint paths or filters",
                hint="For example: tinkex checkpoint delete --run-id RUN --before 30d --dry-run",
            )
        # All names are resolved before anything is deleted.
        named = arguments.checkpoint_paths(self, parsed_args.tinker_paths)
        client = self.client  # report a missing key before asking
        known = {} if named else self.select(parsed_args)
        paths = named or list(known)
        if not paths:
            self.status("No checkpoints match the filters. Nothing to delete.")
        changes = client.checkpoints.changes(paths, known=known.values(), force=parsed_args.force)
        if parsed_args.dry_run:
            return self.column_names, self._rehearse(paths, changes)
        # Without a terminal, only checkpoints matched by filters need confirmation.
        on_terminal = bool(self.app.stdin and self.app.stdin.isatty())
        if not (parsed_args.yes or self.app.option("curl")) and (known or on_terminal):
            self.confirm_change(_QUESTION, paths, changes)

        def row(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            return (path, Flag(error is None), error and str(error))

        return self.column_names, self.delete(paths, changes, row)

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        if not record["error"] and not record["deleted"].machine_readable():
            return f"Would delete {plain_text(record['tinker_path'])}"
        return super().plain_row(record)

    def _rehearse(self, paths: list[str], changes: Changes) -> list[tuple[Any, ...]]:
        """Return the rows of ``--dry-run``."""
        found, refused = changes.found(), self.rehearse(paths, changes)
        missing = [path for path in paths if path not in found and path not in refused]
        if missing:
            raise TinkexError(
                f"{len(missing)} of {len(paths)} checkpoints not found: {missing[0]}"
                + (" and others" if len(missing) > 1 else ""),
                hint=self.client.checkpoints.suggest(missing[0]),
            )
        self.result = []
        if going := [found[path] for path in paths if path not in refused]:
            self.status(f"Would delete {summary(going)}; nothing was changed.")
        errors = ((path, refused.get(path)) for path in paths)
        return [(path, Flag(False), error and str(error)) for path, error in errors]


class PruneCheckpoint(_Deletion):
    """Delete checkpoints by retention rules."""

    column_names = ("tinker_path", "size_bytes", "time", "action", "reason", "error")
    droppable = ("error", "size_bytes", "time", "action")
    notes = (
        "The rules apply separately to each run and checkpoint type. A checkpoint is\n"
        "deleted only if no rule keeps it. Published checkpoints are deleted only with\n"
        "--include-published, and the newest checkpoint of each run and type only with\n"
        "--include-newest."
    )
    examples = (
        "tinkex checkpoint prune --keep-last 3 --dry-run",
        "tinkex checkpoint prune --run-id run-123 --keep-every 1000 --keep-last 2",
        "tinkex checkpoint prune --run-id 'nightly*' --older-than 30d --yes",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        arguments.add_run_filters(parser)
        _add_rules(parser.add_argument_group("rules (at least one of the first three is required)"))
        parser.add_argument(
            "--rate",
            metavar="<usd>",
            type=number(0),
            help="storage price in US dollars per gigabyte per month, to show what pruning saves "
            "(default: the price that the service reports, if any)",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.resources.selection import Policy, plan

        names = ("keep_last", "keep_every", "older_than", "include_published", "include_newest")
        rules = {name: getattr(parsed_args, name) for name in names}
        if all(rules[name] is None for name in names[:3]):
            raise UsageError(
                "at least one retention rule is required",
                hint="Add --keep-last, --keep-every or --older-than.",
            )
        policy = Policy(**rules)
        decisions = plan(self.select(parsed_args).values(), policy, datetime.now(UTC))
        going = {d.checkpoint.tinker_path: d for d in decisions if d.goes}
        chosen = {path: decision.checkpoint for path, decision in going.items()}
        self._print_plan(len(decisions), list(chosen.values()), parsed_args.rate)
        paths, force = list(chosen), parsed_args.force
        changes = self.client.checkpoints.changes(paths, known=chosen.values(), force=force)
        if parsed_args.dry_run:
            self.result = decisions
            refused = self.rehearse(paths, changes)
            return self.column_names, [_planned(d, refused) for d in decisions]
        self.result = []
        if not chosen:
            return self.column_names, []
        if not parsed_args.yes:
            self.confirm_change(_QUESTION, paths, changes)

        def row(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            action = "failed" if error else "deleted"
            return (*_values(going[path], action), error and str(error))

        return self.column_names, self.delete(paths, changes, row)

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        if record["action"] in ("delete", "keep"):
            names = ("action", "tinker_path", "reason")
            return "\t".join(plain_text(record[name]) for name in names)
        return super().plain_row(record)

    def _print_plan(self, count: int, chosen: list[Checkpoint], rate: float | None) -> None:
        """Print how many of *count* checkpoints are deleted, and the storage cost saved."""
        from tinkex.api.resources.selection import total_size

        if not chosen:
            why = "every checkpoint is kept." if count else "no checkpoints match."
            self.status(f"Nothing to prune: {why}")
            return
        self.status(f"To delete: {summary(chosen)}. To keep: {count - len(chosen)}.")
        size = total_size(chosen)
        rate = rate if rate is not None else self.client.billing.storage_rate()
        if size is not None and rate is not None:
            saved = size / _GIGABYTE * rate
            amount = f"about ${saved:,.2f}" if saved >= 0.005 or not saved else "less than $0.01"
            self.status(f"Deleting them saves {amount} a month at ${rate:g} per gigabyte.")


def _add_rules(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--keep-last", metavar="<int>", type=integer(1), help="number of newest checkpoints to keep"
    )
    group.add_argument(
        "--keep-every",
        metavar="<int>",
        type=integer(1),
        help="keep checkpoints whose step (the number at the end of the name) is a multiple of "
        "this number, and checkpoints without a step",
    )
    group.add_argument(
        "--older-than",
        metavar="<time>",
        type=duration(),
        help="keep checkpoints that are younger than this age (12h, 7d)",
    )
    group.add_argument(
        "--include-published", action="store_true", help="also delete published checkpoints"
    )
    group.add_argument(
        "--include-newest",
        action="store_true",
        help="also delete the newest checkpoint of each run and type",
    )


def _values(decision: Decision, action: str) -> tuple[Any, ...]:
    checkpoint = decision.checkpoint
    size, saved = Size(checkpoint.size_bytes), Time(checkpoint.time)
    return (checkpoint.tinker_path, size, saved, action, decision.reason)


def _planned(decision: Decision, refused: Mapping[str, TinkexError]) -> tuple[Any, ...]:
    """Return the row of *decision* in a plan."""
    if error := refused.get(decision.checkpoint.tinker_path):
        return (*_values(decision, "refused"), str(error))
    return (*_values(decision, "delete" if decision.goes else "keep"), None)
