"""Checkpoints brought home: download, verify, sync."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinkex.cli.errors import hint_for
from tinkex.columns import Size, Structure, plain_text
from tinkex.commands.arguments import (
    add_paths,
    add_type,
    checkpoint_paths,
    checkpoint_type,
    with_run,
)
from tinkex.commands.base import Lister
from tinkex.exceptions import Terminated, TinkexError, UsageError
from tinkex.options import interval

if TYPE_CHECKING:
    from tinkex.api import Checkpoint, DownloadResult, VerifiedFile

__all__ = ["DownloadCheckpoint", "SyncCheckpoint", "VerifyCheckpoint"]

#: Formats that write every row as soon as it is known.
_ROW_BY_ROW = ("plain", "value", "csv")
_KEPT = "What has arrived is kept; the same command goes on from there."


class _Moving(Lister):
    """Base of the commands that fetch: rows as they are known, and one error in the end."""

    is_action = True
    failed_word = "downloaded"

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        self._tried, self._failures = 0, list[TinkexError]()
        try:
            super().produce_output(parsed_args, column_names, data)
        except (KeyboardInterrupt, Terminated):
            self.app.warn(_KEPT, prefix="")
            raise
        if self._failures:
            raise TinkexError(
                f"{len(self._failures)} of {self._tried} checkpoints could not be "
                f"{self.failed_word}",
                hint=hint_for(self._failures[0]),
                category=self._failures[0].category,
            )
        return 0

    def _told(self, moved: Iterable[DownloadResult]) -> Iterator[DownloadResult]:
        """Yield *moved*, the line of progress out of the way, and count what failed."""
        for one in moved:
            self._tried += 1
            if one.error is not None:
                self._failures.append(one.error)
            self.app.display.clear()
            yield one
            self.app.stdout.flush()


class DownloadCheckpoint(_Moving):
    """Download the files of checkpoints; an interrupted download is gone on with."""

    column_names = ("tinker_path", "directory", "files", "size_bytes", "error")
    droppable = ("error", "files", "size_bytes")
    examples = (
        "tinkex checkpoint download tinker://run-123/weights/0001 --output ./models/0001",
        "tinkex checkpoint download tinker://run-123/weights/0001 --output ./models/0001 --force",
        "tinkex checkpoint download --run-id run-123 --type sampler --output ./models",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_paths(parser, optional=True)
        parser.add_argument(
            "--run-id", metavar="<run_id>", help="all checkpoints of this training run as well"
        )
        add_type(parser)
        parser.add_argument(
            "-o",
            "--output",
            metavar="<dir>",
            default=".",
            help="directory for the files; made if it is not there (default: here). Each of "
            "several checkpoints has one below it: <run>/<kind>/<name>, or with --run-id alone "
            "<kind>/<name>, as with 'checkpoint sync'",
        )
        parser.add_argument(
            "--force",
            action="store_true",
            help="replace files of the same name, once the new ones are complete; without it, "
            "those of several checkpoints that are here already are left alone",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import user_path

        target = user_path(parsed_args.output)
        paths, run_id = parsed_args.tinker_paths, parsed_args.run_id
        if parsed_args.checkpoint_type and not run_id:
            raise UsageError(
                "--type goes with --run-id", hint="A path names its type: leave --type out."
            )
        if not paths and not run_id:
            raise UsageError(
                "no checkpoint is named",
                hint="Name a path, or all checkpoints of a run with --run-id.",
            )
        paths = checkpoint_paths(self, paths)
        if len(paths) == 1 and not run_id:
            return self.column_names, [self._download(paths[0], target, parsed_args)]
        named = bool(paths)
        if run_id:
            chosen = with_run(self, run_id, lambda run: self._chosen(run, parsed_args))
            paths = paths + [checkpoint.tinker_path for checkpoint in chosen]
            if not paths:
                raise UsageError(f"the run {run_id} has no such checkpoints")
        moved = self.client.checkpoints.download_all(
            paths,
            target,
            force=parsed_args.force,
            with_run=named,
            on_progress=self.app.display.transfer,
        )
        return self.column_names, self._rows(moved)

    def _chosen(self, run_id: str, parsed_args: argparse.Namespace) -> list[Checkpoint]:
        from tinkex.api.resources.selection import Selection

        wanted = Selection(checkpoint_type=checkpoint_type(parsed_args))
        return list(filter(wanted.matches, self.client.checkpoints.list(None, run_id=run_id)))

    def _download(self, path: str, target: Any, parsed_args: argparse.Namespace) -> Any:
        try:
            self.result = done = self.client.checkpoints.download(
                path, target, force=parsed_args.force, on_progress=self.app.display.transfer
            )
        except (KeyboardInterrupt, Terminated) as interrupt:
            for note in getattr(interrupt, "__notes__", ()):
                self.app.warn(note, prefix="")
            raise
        files = Structure([name for name, _ in done.files])
        return path, parsed_args.output, files, Size(done.bytes), None

    def _rows(self, moved: Iterator[DownloadResult]) -> Iterator[tuple[Any, ...]]:
        self.result = []
        for one in self._told(moved):
            self.result.append(one)
            done = one.download
            names = None if done is None else Structure([name for name, _ in done.files])
            error = None if one.error is None else str(one.error)
            size = Size(None if done is None else done.bytes)
            yield one.tinker_path, str(one.directory), names, size, error
        present = sum(one.present for one in self.result)
        if present:
            fetched = sum(one.download is not None for one in self.result)
            self.status(f"{fetched} downloaded, {present} there already.")

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        if record["error"]:
            self.app.warn(f"{record['tinker_path']}: {record['error']}", prefix="Not downloaded: ")
            return None
        if record["files"] is None:
            return None  # it was there
        return f"Downloaded to {plain_text(record['directory'])}"


class SyncCheckpoint(_Moving):
    """Download what is new of a training run, each checkpoint into a directory of its own."""

    failed_word = "fetched"
    column_names = ("tinker_path", "directory", "status", "size_bytes", "error")
    droppable = ("error", "size_bytes", "directory")
    examples = (
        "tinkex checkpoint sync run-123 ./models",
        "tinkex checkpoint sync run-123 ./models --type sampler --watch --interval 5m",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("run_id", metavar="<run_id>", help="the training run")
        parser.add_argument(
            "directory",
            metavar="<dir>",
            help="directory that has, or will have, <kind>/<name> for each checkpoint",
        )
        add_type(parser)
        parser.add_argument(
            "--watch", action="store_true", help="go on looking for new ones until Ctrl-C"
        )
        parser.add_argument(
            "--interval",
            metavar="<time>",
            type=interval(),
            default="60s",
            help="with --watch: time between two looks: seconds, or with a unit: 30s, 5m; at least "
            "1s (default: 60s)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import user_path

        if parsed_args.watch and parsed_args.formatter not in _ROW_BY_ROW:
            raise UsageError(
                f"--watch never ends, and the format {parsed_args.formatter} begins in the end",
                hint="It writes rows as they come: " + ", ".join(_ROW_BY_ROW) + ".",
            )
        self._target = user_path(parsed_args.directory)
        self.result: list[DownloadResult] = []
        # What is wrong with the run or the key is told before anything is written.
        moved = self._look(parsed_args)
        if parsed_args.watch:
            return self.column_names, self._watch(parsed_args, moved)
        return self.column_names, self._rows(moved, every=True)

    def _look(self, parsed_args: argparse.Namespace) -> Iterator[DownloadResult]:
        kind = checkpoint_type(parsed_args)

        def look(run_id: str) -> Iterator[DownloadResult]:
            parsed_args.run_id = run_id
            return self.client.checkpoints.sync(
                run_id,
                self._target,
                types=() if kind is None else (kind,),
                on_progress=self.app.display.transfer,
            )

        return with_run(self, parsed_args.run_id, look)

    def _watch(
        self, parsed_args: argparse.Namespace, moved: Iterator[DownloadResult]
    ) -> Iterator[tuple[Any, ...]]:
        seconds = parsed_args.interval.total_seconds()
        while True:
            try:
                yield from self._rows(moved, every=False)
                self.app.display.clear()
                time.sleep(seconds)
                moved = self._look(parsed_args)
            except TinkexError as error:
                if error.category != "server":
                    raise
                self.app.warn(f"{error}; next look in {seconds:.0f} s", prefix="")
                time.sleep(seconds)
                moved = iter(())

    def _rows(self, moved: Iterator[DownloadResult], *, every: bool) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of one look; *every* one, or those only that something came of."""
        fetched = present = 0
        for one in self._told(moved):
            if every:
                self.result.append(one)
            done, error = one.download, one.error
            fetched, present = fetched + (done is not None), present + one.present
            if one.present and not every:
                continue
            status = "failed" if error else "fetched" if done else "present"
            size = Size(None if done is None else done.bytes)
            told = None if error is None else str(error)
            yield one.tinker_path, str(one.directory), status, size, told
        if every or fetched:
            self.status(f"{fetched} fetched, {present} there already.")

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        path = plain_text(record["tinker_path"])
        if record["status"] == "failed":
            self.app.warn(f"{path}: {record['error']}", prefix="Not fetched: ")
        if record["status"] != "fetched":
            return None
        return f"Fetched {path} to {plain_text(record['directory'])}"


class VerifyCheckpoint(Lister):
    """Check downloaded files against the note beside them, without the network."""

    column_names = ("file", "status", "size_bytes", "reason", "tinker_path")
    plain_columns = ("status", "file", "reason")
    droppable = ("tinker_path", "size_bytes")
    examples = (
        "tinkex checkpoint verify ./models/0001",
        "tinkex checkpoint verify ./models -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "directories",
            metavar="<dir>",
            nargs="+",
            help="a downloaded checkpoint, or a directory with several below it",
        )
        parser.add_argument(
            "--strict", action="store_true", help="fail also for files that came from elsewhere"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api import verify
        from tinkex.files import user_path

        found = [verify(user_path(name)) for name in parsed_args.directories]
        return self.column_names, self._rows(found)

    def _rows(self, found: list[Iterator[VerifiedFile]]) -> Iterator[tuple[Any, ...]]:
        self.result = []
        for checked in found:
            for one in checked:
                self.result.append(one)
                size = Size(one.size_bytes)
                yield str(one.file), one.status, size, one.reason, one.tinker_path

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        super().produce_output(parsed_args, column_names, data)
        good = ("ok",) if parsed_args.strict else ("ok", "extra")
        bad = [one for one in self.result if one.status not in good]
        if bad:
            raise TinkexError(
                f"{len(bad)} of {len(self.result)} files are not as they were downloaded",
                hint="Download the checkpoint again with --force.",
            )
        self.status(f"{len(self.result)} files verified.")
        return 0
