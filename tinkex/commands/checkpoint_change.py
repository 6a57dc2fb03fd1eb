"""The commands publish, unpublish, set-ttl and copy, and the base class of bulk changes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from tinkex.cli.errors import hint_for
from tinkex.columns import Flag, Size, Time, counted, plain_text
from tinkex.commands.arguments import (
    add_filters,
    add_path,
    add_paths,
    add_unload,
    checkpoint_path,
    checkpoint_paths,
    given_filters,
    select_checkpoints,
    unload,
)
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import NotFound, Terminated, TinkexError, UsageError, a_few
from tinkex.options import duration, non_empty

if TYPE_CHECKING:
    from tinkex.api import Checkpoint
    from tinkex.api.resources.changes import Changes

#: Maximum number of concurrent changes, as in the official command line.
CONCURRENCY = 32
#: Maximum number of paths listed in a confirmation prompt.
_PATHS_SHOWN = 20
#: Environment variable with the key of the account that a copied checkpoint belongs to.
TOKEN_VARIABLE = "TINKEX_SOURCE_API_KEY"  # noqa: S105 - a name, not a token

#: A function that changes one path.
Change = Callable[[str], None]
#: A function that returns the row of a path, given the error of its change, if any.
Row = Callable[[str, TinkexError | None], tuple[Any, ...]]


class BulkChange(Lister):
    """Base class of commands that change checkpoints; shows the outcome of each path in a row.

    :ivar result: the paths of the changed checkpoints.
    """

    is_action = True
    #: Verb form for the progress bar: ``Deleting``.
    doing: ClassVar[str]
    #: Verb form for results: ``deleted``.
    done: ClassVar[str]
    #: Remove the changed checkpoints from the completion cache.
    deletes: ClassVar[bool] = False
    _tried = 0
    _failures: Mapping[str, TinkexError] = MappingProxyType({})
    #: The signal that stopped the command before it tried all changes.
    _interrupt: BaseException | None = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--force",
            action="store_true",
            help="change a checkpoint even if the server cannot distinguish it from a "
            "checkpoint of another type with the same name; one or both may be changed",
        )

    def select(self, parsed_args: argparse.Namespace) -> dict[str, Checkpoint]:
        """Return the checkpoints that match the filters, by path."""
        page = select_checkpoints(self, parsed_args)
        if page.note:
            self.status(page.note)
        known = self.client.checkpoints.known(page)
        return {checkpoint.tinker_path: checkpoint for checkpoint in known}

    def confirm_change(
        self, words: tuple[str, str], paths: Sequence[str], changes: Changes
    ) -> None:
        """Ask whether to change *paths*, with their sizes as far as they are known.

        :param words: the line before the paths, and the question with ``{}`` for the checkpoints.
        :raises UsageError: the answer is no, or there is no terminal to ask on.
        """
        found = changes.found()
        going = [path for path in paths if not changes.refusal(path)]
        if not going:
            return
        lines = [
            f"  {path}{self._note(found.get(path), changes.twins(path))}"
            for path in going[:_PATHS_SHOWN]
        ]
        if len(going) > _PATHS_SHOWN:
            lines.append(f"  … and {len(going) - _PATHS_SHOWN} more")
        complete = all(path in found for path in going)
        rows = [found[path] for path in going if path in found]
        what = summary(rows) if complete else counted(len(going), "checkpoint")
        self.confirm("\n".join([words[0], *lines, words[1].format(what)]))

    def _note(self, checkpoint: Checkpoint | None, twins: Sequence[str]) -> str:
        """Return the note after a path in a question; the change may also affect *twins*."""
        words = [f"{a_few(twins)} may also be {self.done}"] if twins else []
        if checkpoint is not None:
            size = Size(checkpoint.size_bytes).human_readable()
            words = [size, *(["published"] if checkpoint.public else []), *words]
        return f"  ({', '.join(filter(None, words))})" if any(words) else ""

    def change(self, paths: Sequence[str], change: Change, row: Row) -> Iterable[tuple[Any, ...]]:
        """Change *paths* concurrently and return their rows, in order.

        :raises TinkexError: *paths* is a single path, and its change failed.
        """
        self.result, self._tried = [], len(paths)
        if len(paths) == 1:
            try:
                change(paths[0])
            except NotFound as error:
                error.hint = self._hint(paths[0], error)
                raise
            self.result.append(paths[0])
            self._forget()
            return [row(paths[0], None)]
        rows = self._rows(paths, change, row)
        # Rows would disturb a progress bar, so they are written at the end.
        return list(rows) if self.app.display.draws else rows

    def _forget(self) -> None:
        if self.deletes:
            self.app.forget("checkpoints", self.result)

    def _rows(self, paths: Sequence[str], change: Change, row: Row) -> Iterator[tuple[Any, ...]]:
        from tinkex.api.http.concurrency import map_ordered

        self._failures = failures = dict[str, TinkexError]()

        def attempt(path: str) -> TinkexError | None:
            try:
                change(path)
            except TinkexError as error:
                return error
            return None

        def count(finished: int) -> None:
            self.app.display.count(self.doing, finished, len(paths))

        # The window is the maximum number of changes without a row when a signal arrives.
        errors = map_ordered(attempt, paths, workers=CONCURRENCY, window=CONCURRENCY, on_done=count)
        try:
            for path, error in zip(paths, errors, strict=True):
                yield row(path, error)
                # Counted only after the row is written.
                if error is None:
                    self.result.append(path)
                else:
                    failures[path] = error
        except (KeyboardInterrupt, Terminated) as interrupt:
            self._interrupt = interrupt
        finally:
            self.app.display.clear()
            self._forget()

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        """Write the rows, then raise one error if any change failed."""
        try:
            super().produce_output(parsed_args, column_names, data)
        except (KeyboardInterrupt, Terminated) as interrupt:
            self._interrupt = interrupt
        if self._interrupt is not None:
            if self._tried > 1:
                self.app.warn(
                    f"At least {len(self.result)} of {self._tried} checkpoints were {self.done}, "
                    f"as listed above; up to {CONCURRENCY} more may have been {self.done}.",
                    prefix="",
                )
            raise self._interrupt
        if self._failures:
            raise self._failed()
        if self._tried > 1:
            self.status(f"{counted(len(self.result), 'checkpoint')} {self.done}.")
        return 0

    def _failed(self) -> TinkexError:
        path, first = next(iter(self._failures.items()))
        return TinkexError(
            f"{len(self._failures)} of {self._tried} checkpoints could not be {self.done}",
            hint=self._hint(path, first),
            category=first.category,
        )

    def _hint(self, path: str, error: TinkexError) -> str | None:
        missing = isinstance(error, NotFound)
        return (self.client.checkpoints.suggest(path) if missing else None) or hint_for(error)

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the plain line of a changed checkpoint."""
        return f"{self.done.capitalize()} {plain_text(record['tinker_path'])}"

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        if record["error"]:
            path = plain_text(record["tinker_path"])
            self.app.warn(f"{path}: {record['error']}", prefix=f"Not {self.done}: ")
            return None
        return self.line(record)


class _Visibility(BulkChange):
    """Base class of the publish and unpublish commands."""

    column_names = ("tinker_path", "public", "error")
    public: bool

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        add_paths(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        paths = checkpoint_paths(self, parsed_args.tinker_paths)
        changes = self.client.checkpoints.changes(paths, force=parsed_args.force)
        change = changes.publish if self.public else changes.unpublish

        def row(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            # After a failure, its visibility is unknown.
            return (path, Flag(None if error else self.public), error and str(error))

        return self.column_names, self.change(paths, change, row)


class PublishCheckpoint(_Visibility):
    """Make checkpoints public to anyone who knows their path."""

    public = True
    doing, done = "Publishing", "published"
    examples = (
        "tinkex checkpoint publish tinker://run-123/weights/0001",
        "tinkex checkpoint publish run-123:final",
    )


class UnpublishCheckpoint(_Visibility):
    """Make checkpoints private again."""

    public = False
    doing, done = "Unpublishing", "unpublished"
    examples = ("tinkex checkpoint unpublish tinker://run-123/weights/0001",)


class SetTtlCheckpoint(BulkChange):
    """Set or remove the expiry time of checkpoints."""

    column_names = ("tinker_path", "ttl_seconds", "expires_at", "error")
    doing, done = "Updating", "updated"
    examples = (
        "tinkex checkpoint set-ttl tinker://run-123/weights/0001 --ttl 7d",
        "tinkex checkpoint set-ttl run-123@latest --remove",
        "tinkex checkpoint set-ttl --expires-before 3d --ttl 30d --yes",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        add_paths(parser, optional=True)
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--ttl",
            metavar="<time>",
            type=duration(bare="s"),
            help="time after which the service deletes the checkpoint, from 1 hour to 10 years, in "
            "seconds or with a unit (12h, 7d, 1y)",
        )
        what.add_argument("--remove", action="store_true", help="remove the expiry time")
        parser.add_argument(
            "-y",
            "--yes",
            action="store_true",
            help="do not ask for confirmation when filters are used",
        )
        add_filters(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if not parsed_args.remove and parsed_args.ttl is None:
            raise UsageError("--ttl or --remove is required", hint="For example: --ttl 7d")
        seconds = None if parsed_args.remove else _ttl_seconds(parsed_args.ttl)
        if bool(parsed_args.tinker_paths) == given_filters(parsed_args):
            raise UsageError(
                "use either checkpoint paths or filters",
                hint="For example: tinkex checkpoint set-ttl --expires-before 3d --ttl 30d",
            )
        paths = checkpoint_paths(self, parsed_args.tinker_paths)
        known = {} if paths else self.select(parsed_args)
        changes = self.client.checkpoints.changes(
            paths := paths or list(known), known=known.values(), force=parsed_args.force
        )
        if not paths:
            self.status("No checkpoints match the filters. Nothing to change.")
        elif known and not (parsed_args.yes or self.app.option("curl")):
            self.confirm_change(("The filters match:", _question(seconds)), paths, changes)
        set_ttl = changes.set_ttl

        def row(path: str, error: TinkexError | None) -> tuple[Any, ...]:
            expires = None
            if seconds is not None and error is None:
                expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
            return (path, None if error else seconds, Time(expires), error and str(error))

        return self.column_names, self.change(paths, lambda path: set_ttl(path, seconds), row)

    def line(self, record: Mapping[str, Any]) -> str:
        from tinkex.api.resources.selection import in_words

        path, seconds = plain_text(record["tinker_path"]), record["ttl_seconds"]
        if seconds is None:
            return f"{path} does not expire"
        span = in_words(timedelta(seconds=seconds))
        return f"{path} expires at {plain_text(record['expires_at'])} (in {span})"


class CopyCheckpoint(ShowOne):
    """Copy a checkpoint between projects or accounts."""

    is_action = True
    column_names = ("source_path", "tinker_path")
    examples = (
        "tinkex checkpoint copy run-123:final --project-id proj-archive",
        "tinkex checkpoint copy tinker://run-9/weights/best --source-api-key @other.key",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_path(parser)
        parser.add_argument(
            "--project-id",
            metavar="<id>",
            type=non_empty,
            help="project for the copy (default: the configured project); without a project, the "
            "copy belongs to a new training run",
        )
        parser.add_argument(
            "--ttl",
            metavar="<time>",
            type=duration(bare="s"),
            help="time to live of the copy, in seconds or with a unit, such as 7d (default: no "
            "expiry)",
        )
        parser.add_argument(
            "--source-api-key",
            metavar="<file>",
            help="key of an account that can read the original: @FILE, or - for standard input; "
            f"the key itself is not accepted [{TOKEN_VARIABLE}]",
        )
        add_unload(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        seconds = None if parsed_args.ttl is None else _ttl_seconds(parsed_args.ttl)
        token = self._token(parsed_args.source_api_key)
        project_id = parsed_args.project_id or self.settings.project_id
        if parsed_args.unload and project_id:
            raise UsageError(
                f"--unload cannot be used for a copy in a project ({project_id})",
                hint="Omit --unload. A copy in a project does not create a training run.",
            )
        source = checkpoint_path(self, parsed_args.tinker_path)
        self.result = copied = self.client.checkpoints.copy(
            source,
            project_id=project_id,
            ttl_seconds=seconds,
            access_token=token,
        )
        self.app.remember("checkpoints", [copied])
        if parsed_args.unload:
            unload(self, copied.partition("://")[2].partition("/")[0])
        return self.column_names, (source, copied)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Copied to {plain_text(record['tinker_path'])}"]

    def _token(self, argument: str | None) -> str | None:
        from tinkex.config.credentials import read_argument

        if argument is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        if argument != "-" and not argument.startswith("@"):
            raise UsageError(
                "--source-api-key does not accept the key itself, because other users could read "
                "it",
                hint=f"Use --source-api-key @FILE, or set {TOKEN_VARIABLE}.",
            )
        if argument == "-" and self.app.option("api_key") == "-":
            raise UsageError(
                "only one key can be read from standard input", hint="Use @FILE for the other key."
            )
        return read_argument(argument, self.app.stdin)


def _question(seconds: int | None) -> str:
    """Return the question of set-ttl, with ``{}`` for the checkpoints."""
    from tinkex.api.resources.selection import in_words

    if seconds is None:
        return "Remove the expiry time of {}?"
    return f"Set {{}} to expire in {in_words(timedelta(seconds=seconds))}?"


def _ttl_seconds(span: timedelta) -> int:
    """Return the time to live *span* in seconds.

    :raises UsageError: the service does not allow it.
    """
    from tinkex.api.resources.checkpoints import TTL_LIMITS

    seconds = round(span.total_seconds())
    if not TTL_LIMITS[0] <= seconds <= TTL_LIMITS[1]:
        raise UsageError(
            "the time to live must be at least 1 hour and at most 10 years",
            hint="Specify a number of seconds, or a time with a unit, such as 12h, 7d or 1y.",
        )
    return seconds


def summary(checkpoints: Iterable[Checkpoint]) -> str:
    """Return ``3 checkpoints (1.2 GB)``; the size only if all sizes are known."""
    from tinkex.api.resources.selection import total_size

    checkpoints = list(checkpoints)
    count = counted(len(checkpoints), "checkpoint")
    size = total_size(checkpoints)
    return count if size is None else f"{count} ({Size(size).human_readable()})"
