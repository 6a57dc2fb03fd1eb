"""Change checkpoints: publish, unpublish, set-ttl, delete and copy."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from tinkex.cli.errors import hint_for
from tinkex.columns import Flag, Size, Time, plain_text
from tinkex.commands.arguments import (
    add_filters,
    add_path,
    add_paths,
    checkpoint_path,
    checkpoint_paths,
    given_filters,
    selection,
    with_run,
)
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import NotFound, Terminated, TinkexError, UsageError
from tinkex.options import duration, non_empty

if TYPE_CHECKING:
    from tinkex.api import Checkpoint

__all__ = [
    "BulkChange",
    "CopyCheckpoint",
    "DeleteCheckpoint",
    "PublishCheckpoint",
    "SetTtlCheckpoint",
    "UnpublishCheckpoint",
    "note_on",
    "selected",
    "sum_of",
]

#: Changes under way at once; as many as the official command line has.
CONCURRENCY = 32
#: Paths that a question lists.
LISTED = 20


class BulkChange(Lister):
    """A command that changes checkpoints; the rows are one outcome for each, in their order.

    :ivar result: the paths of those that were changed.
    """

    is_action = True
    #: What is being done: ``Deleting``.
    doing: ClassVar[str]
    #: What has been done: ``deleted``.
    done: ClassVar[str]
    #: How many were to be changed; none in a rehearsal.
    _tried = 0
    _failures: Sequence[tuple[str, TinkexError]] = ()
    #: What made an end of it before all were tried.
    _interrupt: BaseException | None = None

    def change(
        self,
        paths: Sequence[str],
        do: Callable[..., None],
        row: Callable[[str, TinkexError | None], tuple[Any, ...]],
    ) -> Iterable[tuple[Any, ...]]:
        """Return the rows of what becomes of *paths*.

        :param do: changes one path; takes ``explain`` as the methods of
            :class:`tinkex.api.Checkpoints` do. The failure of the only path is raised.
        :param row: makes the row of a path out of its error.
        """
        self.result = []
        failures: list[tuple[str, TinkexError]] = []
        self._failures = failures
        self._tried = len(paths)
        if len(paths) == 1:
            do(paths[0])
            self.result.append(paths[0])
            self.changed(self.result)
            return [row(paths[0], None)]
        rows = self._rows(paths, do, row, failures)
        # A bar and lines cannot be drawn at once: the lines come when all is done.
        return list(rows) if self.app.display.draws else rows

    def changed(self, paths: list[str]) -> None:
        """Be told of the *paths* that were changed, at the end."""

    def _rows(
        self,
        paths: Sequence[str],
        do: Callable[..., None],
        row: Callable[[str, TinkexError | None], tuple[Any, ...]],
        failures: list[tuple[str, TinkexError]],
    ) -> Iterator[tuple[Any, ...]]:
        from tinkex.api.http.concurrency import map_ordered

        display, total = self.app.display, len(paths)
        known: dict[str, TinkexError | None] = {}

        def tried(path: str) -> TinkexError | None:
            try:
                do(path, explain=False)
                known[path] = None
            except TinkexError as error:
                known[path] = error
            return known[path]

        def told(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            if error is None:
                self.result.append(path)
            else:
                failures.append((path, error))
            return row(path, error)

        outcomes = map_ordered(
            tried,
            paths,
            workers=CONCURRENCY,
            on_done=lambda count: display.count(self.doing, count, total),
        )
        had_turn = 0
        try:
            for path, error in zip(paths, outcomes, strict=True):
                had_turn += 1
                yield told(path, error)
        except (KeyboardInterrupt, Terminated) as interrupt:
            # What is known by now is told before the end, and what has not had its turn as well.
            self._interrupt = interrupt
            display.clear()
            for path in paths[had_turn:]:
                if path in known:
                    yield told(path, known[path])
        finally:
            display.clear()
            self.changed(self.result)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        try:
            super().produce_output(parsed_args, column_names, data)
        except (KeyboardInterrupt, Terminated) as interrupt:
            self._interrupt = interrupt
        if self._interrupt is not None:
            self._tell_what_is_left()
            raise self._interrupt
        failures = self._failures
        # What came of each path is the result, also when one of them could not be changed.
        if failures:
            path, first = failures[0]
            hint = hint_for(first)
            if isinstance(first, NotFound):
                hint = self.client.checkpoints.suggest(path) or hint
            raise TinkexError(
                f"{len(failures)} of {self._tried} checkpoints could not be {self.done}",
                hint=hint,
                category=first.category,
            )
        if self._tried > 1:
            self.status(f"{len(self.result)} checkpoints {self.done}.")
        return 0

    def _tell_what_is_left(self) -> None:
        if self._tried > 1:
            told = f"At least {len(self.result)} of {self._tried} were {self.done} before that"
            self.app.warn(f"{told}, as told above; up to {CONCURRENCY} more may be.", prefix="")

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the plain line of a path that was changed."""
        return f"{self.done.capitalize()} {plain_text(record['tinker_path'])}"

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        if record["error"]:
            path = plain_text(record["tinker_path"])
            self.app.warn(f"{path}: {record['error']}", prefix=f"Not {self.done}: ")
            return None
        return self.line(record)

    def list_for_question(self, paths: Sequence[str], notes: Mapping[str, str] = {}) -> str:
        """Return *paths* as the lines of a question, a note behind each that has one."""
        lines = [f"  {path}{notes.get(path, '')}" for path in paths[:LISTED]]
        if len(paths) > LISTED:
            lines.append(f"  … and {len(paths) - LISTED} more")
        return "\n".join(lines)


def sum_of(checkpoints: Sequence[Checkpoint]) -> str:
    """Return ``3 checkpoints, 1.2 GB`` for people; the size only where all sizes are known."""
    from tinkex.api.resources.selection import total_size
    from tinkex.columns import Size

    count = f"{len(checkpoints)} checkpoint{'' if len(checkpoints) == 1 else 's'}"
    size = total_size(checkpoints)
    return count if size is None else f"{count}, {Size(size).human_readable()}"


class _Visibility(BulkChange):
    """Base of publish and unpublish."""

    column_names = ("tinker_path", "public", "error")
    public: bool

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_paths(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        paths = checkpoint_paths(self, parsed_args.tinker_paths)
        checkpoints = self.client.checkpoints
        do = checkpoints.publish if self.public else checkpoints.unpublish
        return self.column_names, self.change(paths, do, self._row)

    def _row(self, path: str, error: TinkexError | None) -> tuple[Any, ...]:
        # Nobody knows how visible a checkpoint is that could not be changed.
        return (path, Flag(None if error else self.public), error and str(error))


class PublishCheckpoint(_Visibility):
    """Make checkpoints readable by everybody who knows their paths."""

    public = True
    doing, done = "Publishing", "published"
    examples = (
        "tinkex checkpoint publish tinker://run-123/weights/0001",
        "tinkex checkpoint publish run-123:final",
    )


class UnpublishCheckpoint(_Visibility):
    """Take public access to checkpoints away."""

    public = False
    doing, done = "Unpublishing", "unpublished"
    examples = ("tinkex checkpoint unpublish tinker://run-123/weights/0001",)


class SetTtlCheckpoint(BulkChange):
    """Let checkpoints be deleted by the service after a time, or never."""

    column_names = ("tinker_path", "ttl_seconds", "expires_at", "error")
    doing, done = "Setting", "set"
    examples = (
        "tinkex checkpoint set-ttl tinker://run-123/weights/0001 --ttl 7d",
        "tinkex checkpoint set-ttl run-123@latest --remove",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_paths(parser)
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--ttl",
            metavar="<time>",
            type=duration(bare="s"),
            help="time to live from now on: seconds, or with a unit: 12h, 7d, 1y; "
            "from 1 hour to 10 years",
        )
        what.add_argument("--remove", action="store_true", help="let them live for ever")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        seconds = self._seconds(parsed_args)
        paths = checkpoint_paths(self, parsed_args.tinker_paths)
        checkpoints = self.client.checkpoints

        def do(path: str, *, explain: bool = True) -> None:
            checkpoints.set_ttl(path, seconds, explain=explain)

        def row(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            expires = None
            if seconds is not None and error is None:
                expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
            return (path, None if error else seconds, Time(expires), error and str(error))

        return self.column_names, self.change(paths, do, row)

    @staticmethod
    def _seconds(parsed_args: argparse.Namespace) -> int | None:
        if parsed_args.remove:
            return None
        if parsed_args.ttl is None:
            raise UsageError("--ttl or --remove is required", hint="For example: --ttl 7d.")
        return ttl_seconds(parsed_args.ttl)

    def line(self, record: Mapping[str, Any]) -> str:
        from tinkex.api.resources.selection import in_words

        path, seconds = plain_text(record["tinker_path"]), record["ttl_seconds"]
        if seconds is None:
            return f"{path} does not expire"
        span = in_words(timedelta(seconds=seconds))
        return f"{path} expires {plain_text(record['expires_at'])} (in {span})"


def ttl_seconds(span: timedelta) -> int:
    """Return the time to live *span* in seconds.

    :raises UsageError: no service allows it.
    """
    from tinkex.api.resources.checkpoints import TTL_LIMITS

    seconds = round(span.total_seconds())
    if not TTL_LIMITS[0] <= seconds <= TTL_LIMITS[1]:
        raise UsageError(
            "a time to live is at least 1 hour and at most 10 years",
            hint="A number without a unit is seconds; with one: 12h, 7d, 1y.",
        )
    return seconds


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
            nearest = self.client.checkpoints.suggest
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


#: Holds the key of the account that a copied checkpoint belongs to.
TOKEN_VARIABLE = "TINKEX_SOURCE_API_KEY"  # noqa: S105 - a name, not a token


class CopyCheckpoint(ShowOne):
    """Copy a checkpoint: into a project, or from another account into this one."""

    is_action = True
    column_names = ("source_path", "tinker_path")
    examples = (
        "tinkex checkpoint copy run-123:final --project-id proj-archive",
        "tinkex checkpoint copy tinker://run-9/sampler_weights/best --source-api-key @other.key",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_path(parser)
        parser.add_argument(
            "--project-id",
            "--project",
            dest="project",
            metavar="<id>",
            type=non_empty,
            help="project that will own the copy (default: the project of the settings; without "
            "one, a new training run of its own)",
        )
        parser.add_argument(
            "--ttl",
            metavar="<time>",
            type=duration(bare="s"),
            help="time to live of the copy: seconds, or 12h, 7d, 1y (default: for ever)",
        )
        parser.add_argument(
            "--source-api-key",
            metavar="<file>",
            help="@FILE with the key of the account that may read the original, or - for standard "
            f"input; a key itself is not taken here [{TOKEN_VARIABLE}]",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        seconds = None if parsed_args.ttl is None else ttl_seconds(parsed_args.ttl)
        token = self._token(parsed_args.source_api_key)
        source = checkpoint_path(self, parsed_args.tinker_path)
        copied = self.client.checkpoints.copy(
            source,
            project_id=parsed_args.project or self.settings.project_id,
            ttl_seconds=seconds,
            access_token=token,
        )
        self.result = copied
        self.app.remember("checkpoints", [copied])
        return self.column_names, (source, copied)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Copied to {plain_text(record['tinker_path'])}"]

    def _token(self, argument: str | None) -> str | None:
        from tinkex.config.credentials import read_argument

        if argument is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        if argument != "-" and not argument.startswith("@"):
            raise UsageError(
                "a key on the command line can be read by everybody on this machine",
                hint=f"Give --source-api-key @FILE, or set {TOKEN_VARIABLE}.",
            )
        if argument == "-" and self.app.option("api_key") == "-":
            raise UsageError("standard input can give one key only")
        return read_argument(argument, self.app.stdin)
