"""Delete checkpoints: those named, or all that the filters choose."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Size, plain_text
from tinkex.commands.arguments import add_filters, given_filters, selection
from tinkex.commands.bulk import BulkChange, sum_of
from tinkex.commands.names import add_paths, checkpoint_paths, with_run
from tinkex.exceptions import TinkexError, UsageError

if TYPE_CHECKING:
    from tinkex.api import Checkpoint

__all__ = ["DeleteCheckpoint", "note_on", "selected"]

#: Runs that are asked how large their checkpoints are, for a question.
_RUNS_ASKED = 32


class DeleteCheckpoint(BulkChange):
    """Delete checkpoints for good; on a terminal it asks first."""

    column_names = ("tinker_path", "deleted", "error")
    doing, done = "Deleting", "deleted"
    examples = (
        "tinkex checkpoint delete tinker://run-old/weights/0001",
        "tinkex checkpoint delete --yes tinker://run-old/weights/0001 tinker://run-old/weights/0002",
        "tinkex checkpoint delete --type weights --before 30d --dry-run",
        "tinkex checkpoint delete --run-id 'nightly*' --not-public --yes",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_paths(parser, optional=True)
        add_filters(parser)
        parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
        parser.add_argument(
            "--dry-run", action="store_true", help="show what would be deleted, and delete nothing"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if bool(parsed_args.tinker_paths) == given_filters(parsed_args):
            raise UsageError(
                "give either checkpoint paths or options that choose them",
                hint="For example: tinkex checkpoint delete --run-id RUN --before 30d --dry-run.",
            )
        # Every name is read before anything is deleted.
        paths = checkpoint_paths(self, parsed_args.tinker_paths)
        self.client  # noqa: B018 - a missing key shows before the question
        known = None
        if not paths:
            known = {c.tinker_path: c for c in selected(self, parsed_args)}
            if not known:
                self.status("No checkpoint fits these options: nothing to delete.")
        if parsed_args.dry_run:
            return self.column_names, self._rehearsed(paths, known)
        self._ask(paths, known, assume_yes=parsed_args.yes)
        delete = self.client.checkpoints.delete
        return self.column_names, self.change(list(known or paths), delete, _row)

    def changed(self, paths: list[str]) -> None:
        self.app.forget("checkpoints", paths)

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        if not record["error"] and not record["deleted"].machine_readable():
            return f"Would delete {plain_text(record['tinker_path'])}"
        return super().plain_row(record)

    def _ask(
        self, paths: list[str], known: dict[str, Checkpoint] | None, *, assume_yes: bool
    ) -> None:
        """Ask whether to go on: a person always, a script only about what it has not named."""
        on_terminal = bool(self.app.stdin and self.app.stdin.isatty())
        if assume_yes or not (known or (paths and on_terminal)):
            return
        if self.app.option("curl"):  # which shows the deletion, and does not do it
            return
        if known is None:
            known = self._found(paths)
        listed = self.list_for_question(
            paths or list(known), {path: note_on(c) for path, c in known.items()}
        )
        what = sum_of(list(known.values())) if len(known) >= len(paths) else None
        what = what or f"{len(paths)} checkpoint(s)"
        self.confirm(f"This cannot be undone:\n{listed}\nDelete {what}?")

    def _rehearsed(
        self, paths: list[str], known: dict[str, Checkpoint] | None
    ) -> list[tuple[Any, ...]]:
        """Return the rows of what would be deleted."""
        if known is None:
            known = self._found(paths)
        missing = [path for path in paths if path not in known]
        if missing:
            nearest = self.client.checkpoints.nearest
            raise TinkexError(
                f"{len(missing)} of {len(paths)} checkpoints are not there: {missing[0]}"
                + (" and others" if len(missing) > 1 else ""),
                hint=nearest(missing[0]),
            )
        self.result = []
        if known:
            self.status(f"Would delete {sum_of(list(known.values()))}; nothing was changed.")
        return [(path, Flag(False), None) for path in paths or known]

    def _found(self, paths: Sequence[str]) -> dict[str, Checkpoint]:
        """Return those of *paths* that are there, as far as the service tells."""
        from tinkex.api.http.concurrency import map_ordered
        from tinkex.api.paths import TinkerPath

        runs = list(dict.fromkeys(TinkerPath.from_string(path).run_id for path in paths))
        checkpoints = self.client.checkpoints

        def of_run(run_id: str) -> Sequence[Checkpoint]:
            try:
                return checkpoints.list(None, run_id=run_id)
            except TinkexError:
                return []

        found = {}
        for page in map_ordered(of_run, runs[:_RUNS_ASKED]):
            found.update({c.tinker_path: c for c in page})
        return {path: found[path] for path in paths if path in found}


def _row(path: str, error: TinkexError | None) -> tuple[Any, ...]:
    return (path, Flag(error is None), error and str(error))


def selected(command: BulkChange, parsed_args: argparse.Namespace) -> list[Checkpoint]:
    """Return the checkpoints that the filters of the command line choose."""
    from tinkex.api.resources.selection import is_pattern

    checkpoints = command.client.checkpoints

    def of(run_id: str | None) -> list[Checkpoint]:
        page = checkpoints.select(selection(parsed_args, run_id))
        if page.note:
            command.status(page.note)
        return list(page)

    run_id = parsed_args.run_id
    if run_id is None or is_pattern(run_id):
        return of(run_id)
    return with_run(command, run_id, of)


def note_on(checkpoint: Checkpoint) -> str:
    """Return what a question says behind the path of *checkpoint*."""
    size = Size(checkpoint.size_bytes).human_readable()
    notes = [size, "published" if checkpoint.public else ""]
    told = ", ".join(filter(None, notes))
    return f"  ({told})" if told else ""
