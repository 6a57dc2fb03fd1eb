"""Retention: let old checkpoints go, and say why the others stay."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tinkex.columns import Size, Time, plain_text
from tinkex.commands.arguments import add_type
from tinkex.commands.checkpoint_change import BulkChange, note_on, selected, sum_of
from tinkex.exceptions import TinkexError
from tinkex.options import duration, integer, number

if TYPE_CHECKING:
    from tinkex.api.resources.selection import Decision, Policy

__all__ = ["PruneCheckpoint"]

#: Bytes of the gigabytes that storage is billed in.
GIGABYTE = 1e9

_RULES = """\
Rules hold for each run and each type of checkpoint separately, and a checkpoint goes
only if every rule given lets it go. Published checkpoints and the newest of each run
and type stay, unless the options say otherwise."""


class PruneCheckpoint(BulkChange):
    """Delete checkpoints that no rule keeps; on a terminal it asks first."""

    column_names = ("tinker_path", "size_bytes", "time", "action", "reason", "error")
    droppable = ("error", "size_bytes", "time", "action")
    doing, done = "Deleting", "deleted"
    examples = (
        "tinkex checkpoint prune --keep-last 3 --dry-run",
        "tinkex checkpoint prune --run-id run-123 --keep-every 1000 --keep-last 2",
        "tinkex checkpoint prune --run-id 'nightly*' --older-than 30d --yes",
    )

    def get_epilog(self) -> str:
        return f"{_RULES}\n\n{super().get_epilog()}"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_scope(parser)
        _add_rules(parser)
        parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="show what would go, what would stay and why, and delete nothing",
        )
        parser.add_argument(
            "--rate",
            metavar="<usd>",
            type=number(0),
            help="price of a gigabyte (10^9 bytes) of storage for a month, in US dollars, to say "
            "what pruning saves (default: what the service bills, where it tells)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.resources.selection import plan

        policy = _policy(parsed_args)
        policy.check()
        parsed_args.before = parsed_args.after = None
        decisions = plan(selected(self, parsed_args), policy, datetime.now(UTC))
        going = [decision for decision in decisions if decision.goes]
        self._tell(decisions, going, parsed_args.rate)
        if parsed_args.dry_run:
            self.result = decisions
            return self.column_names, [_rehearsed(decision) for decision in decisions]
        if not going:
            self.result = []
            return self.column_names, []
        self._ask(going, assume_yes=parsed_args.yes)
        by_path = {decision.checkpoint.tinker_path: decision for decision in going}

        def row(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            action = "failed" if error else "deleted"
            return (*_values(by_path[path], action), error and str(error))

        delete = self.client.checkpoints.delete
        return self.column_names, self.change(list(by_path), delete, row)

    def changed(self, paths: list[str]) -> None:
        self.app.forget("checkpoints", paths)

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        if record["action"] in ("delete", "keep"):
            names = ("action", "tinker_path", "reason")
            return "\t".join(plain_text(record[name]) for name in names)
        return super().plain_row(record)

    def _tell(self, decisions: list[Decision], going: list[Decision], rate: float | None) -> None:
        """Say on standard error how much would go, how much stays, and what that saves."""
        chosen = [decision.checkpoint for decision in going]
        if not chosen:
            count = len(decisions)
            why = {0: "no checkpoint fits these options", 1: "the one checkpoint stays"}
            self.status(f"Nothing to prune: {why.get(count, f'all {count} checkpoints stay')}.")
            return
        self.status(f"To delete: {sum_of(chosen)}. {len(decisions) - len(chosen)} stay.")
        from tinkex.api.resources.selection import total_size

        size = total_size(chosen)
        rate = rate if rate is not None else self._billed_rate()
        if size is not None and rate is not None:
            saved = size / GIGABYTE * rate
            amount = f"about ${saved:,.2f}" if saved >= 0.005 or not saved else "less than $0.01"
            self.status(f"That saves {amount} a month, at ${rate:g} a gigabyte.")

    def _billed_rate(self) -> float | None:
        """Return what the service bills for storage, if it tells."""
        return self.client.billing.storage_rate()

    def _ask(self, going: Sequence[Decision], *, assume_yes: bool) -> None:
        chosen = [decision.checkpoint for decision in going]
        listed = self.list_for_question(
            [c.tinker_path for c in chosen], {c.tinker_path: note_on(c) for c in chosen}
        )
        question = f"This cannot be undone:\n{listed}\nDelete {sum_of(chosen)}?"
        self.confirm(question, assume_yes=assume_yes)


def _add_scope(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which checkpoints")
    group.add_argument(
        "--run-id",
        metavar="<run_id>",
        help="those of this training run, or of all that fit a pattern such as 'nightly*' "
        "(default: the whole account)",
    )
    add_type(group, "those of this type")


def _add_rules(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what stays (at least one of the first three)")
    group.add_argument(
        "--keep-last",
        metavar="<int>",
        type=integer(1),
        help="keep so many of the newest, of each run and type",
    )
    group.add_argument(
        "--keep-every",
        metavar="<int>",
        type=integer(1),
        help="keep those whose step is a multiple of this; the step is the number at the end of "
        "the name, and names without one stay",
    )
    group.add_argument(
        "--older-than",
        metavar="<time>",
        type=duration(),
        help="keep all that is not older than this: 12h, 7d, 8w",
    )
    group.add_argument(
        "--include-published", action="store_true", help="published ones may go, too"
    )
    group.add_argument(
        "--include-newest",
        action="store_true",
        help="the newest of a run and type may go, too",
    )


def _policy(parsed_args: argparse.Namespace) -> Policy:
    from tinkex.api.resources.selection import Policy

    return Policy(
        keep_last=parsed_args.keep_last,
        keep_every=parsed_args.keep_every,
        older_than=parsed_args.older_than,
        include_published=parsed_args.include_published,
        include_newest=parsed_args.include_newest,
    )


def _rehearsed(decision: Decision) -> tuple[Any, ...]:
    return (*_values(decision, "delete" if decision.goes else "keep"), None)


def _values(decision: Decision, action: str) -> tuple[Any, ...]:
    checkpoint = decision.checkpoint
    size, saved = Size(checkpoint.size_bytes), Time(checkpoint.time)
    return (checkpoint.tinker_path, size, saved, action, decision.reason)
