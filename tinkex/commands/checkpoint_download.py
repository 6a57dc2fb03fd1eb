"""Download checkpoints, keep a directory in sync with a run, and verify downloaded files."""

from __future__ import annotations

import argparse
import shlex
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tinkex import exceptions
from tinkex.cli.errors import hint_for
from tinkex.columns import Size, Structure, counted, plain_text
from tinkex.commands import arguments
from tinkex.commands.base import Lister
from tinkex.exceptions import Terminated, TinkexError, UsageError, a_few
from tinkex.options import interval

if TYPE_CHECKING:
    from tinkex.api import AdapterMismatch, DownloadResult, VerifiedFile


#: Formats that write each row immediately.
_STREAMED = ("plain", "value", "csv")
#: Whether a failed file is invalid → description of the failure.
_WAYS = {False: "mismatch with the manifest", True: "invalid content"}
_EXTRA = "Remove the extra files, or omit --strict."
_KEPT = "Partial downloads are kept; run the same command again to resume."


def _warn(
    command: Lister, found: Iterable[tuple[Path, AdapterMismatch | None]], roots: Sequence[str]
) -> None:
    """Warn about adapters that PEFT loads only partly, once for each mismatch.

    :param found: directories of adapters, with the mismatch of each, if any.
    :param roots: directories to verify with ``--fix-config``.
    """
    groups: dict[AdapterMismatch, list[str]] = defaultdict(list)
    for directory, mismatch in found:
        if mismatch is not None:
            groups[mismatch].append(str(directory))
    for mismatch, directories in groups.items():
        command.app.warn(f"{a_few(directories, 1)}: {mismatch}")
        hint = f"To add missing modules: tinkex checkpoint verify {shlex.join(roots)} --fix-config"
        if not mismatch.is_fixable:
            where = shlex.quote(directories[0])
            hint = (
                f"To convert the adapter: tinkex checkpoint export {where} --output DIR "
                "(requires tinkex-hub)"
            )
        command.app.warn(hint, prefix="Hint: ")


class _Fetching(Lister):
    """Base class of download and sync; yields a row per result, and raises one error at the end."""

    is_action = True
    #: Plain line of a downloaded checkpoint.
    line: ClassVar[str]
    #: Class of an error → a hint that replaces the usual one.
    hints: ClassVar[Mapping[type[TinkexError], str]] = {}

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
                f"{len(self._failures)} of {self._tried} checkpoints could not be downloaded",
                hint=self.hints.get(type(self._failures[0])) or hint_for(self._failures[0]),
                category=self._failures[0].category,
            )
        return 0

    def rows(
        self, results: Iterable[DownloadResult], root: Path, *, every: bool = True
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of *results* in *root*, then print their number.

        :param every: include checkpoints that were already present, and add all to :attr:`result`.
        """
        fetched = present = 0
        mismatches: list[tuple[Path, AdapterMismatch | None]] = []
        for result in results:
            self._tried += 1
            if result.error is not None:
                self._failures.append(result.error)
            if every:
                self.result.append(result)
            if result.download is not None:
                fetched += 1
                mismatches.append((result.directory, result.download.mismatch))
            present += result.present
            if every or not result.present:
                self.app.display.clear()
                yield self.row(result)
                self.app.stdout.flush()
        if every or fetched:
            self.status(f"{fetched} downloaded, {present} already present.")
        _warn(self, mismatches, [str(root)])

    def row(self, result: DownloadResult) -> tuple[Any, ...]:
        """Return the row of *result*."""
        done, error = result.download, result.error
        values = {
            "tinker_path": result.tinker_path,
            "directory": str(result.directory),
            "status": "failed" if error else "present" if done is None else "fetched",
            "files": None if done is None else Structure([name for name, _ in done.files]),
            "size_bytes": None if done is None else Size(done.bytes),
            "error": error and str(error),
        }
        return tuple(values[name] for name in self.column_names)

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        path = plain_text(record["tinker_path"])
        if record["error"]:
            self.app.warn(f"{path}: {record['error']}", prefix="Not downloaded: ")
        if record["size_bytes"] is None:  # it failed or was present
            return None
        return self.line.format(path=path, directory=plain_text(record["directory"]))


class DownloadCheckpoint(_Fetching):
    """Download checkpoints and resume interrupted downloads."""

    line = "Downloaded to {directory}"
    column_names = ("tinker_path", "directory", "files", "size_bytes", "error")
    droppable = ("error", "files", "size_bytes")
    examples = (
        "tinkex checkpoint download tinker://run-123/weights/0001 -o models/0001",
        "tinkex checkpoint download @latest -o models/latest --force",
        "tinkex checkpoint download --run-id run-123 --type sampler -o models",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_paths(parser, optional=True)
        parser.add_argument(
            "--run-id", metavar="<run_id>", help="download all checkpoints of this training run"
        )
        arguments.add_type(parser)
        parser.add_argument(
            "-o",
            "--output",
            metavar="<dir>",
            default=".",
            help="output directory, created if missing (default: the current directory); several "
            "checkpoints are written to <run>/<kind>/<name> in it; with --run-id and no paths, "
            "each is written to <kind>/<name>, as in 'checkpoint sync'",
        )
        parser.add_argument(
            "--force",
            action="store_true",
            help="replace existing files once the download is complete; without --force, "
            "downloading several checkpoints skips those that are already complete",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.resources.selection import Selection
        from tinkex.files import user_path

        target, run_id = user_path(parsed_args.output), parsed_args.run_id
        if parsed_args.checkpoint_type and not run_id:
            raise UsageError("--type requires --run-id", hint="Add --run-id, or omit --type.")
        if not parsed_args.tinker_paths and not run_id:
            raise UsageError(
                "no checkpoint is specified",
                hint="Specify a path, or use --run-id to download all checkpoints of a run.",
            )
        named = paths = arguments.checkpoint_paths(self, parsed_args.tinker_paths)
        if len(paths) == 1 and not run_id:
            return self.column_names, [self._download(paths[0], target, parsed_args)]
        if run_id:
            kind, select = arguments.checkpoint_type(parsed_args), self.client.checkpoints.select
            found = arguments.with_run(self, run_id, lambda run: select(Selection(run, kind)))
            known = self.client.checkpoints.known(found)
            paths = paths + [checkpoint.tinker_path for checkpoint in known]
            if not paths:
                hint = f"See: tinkex checkpoint list --run-id {shlex.quote(run_id)}"
                raise UsageError(f"the run {run_id} has no matching checkpoints", hint=hint)
        self.result = []
        results = self.client.checkpoints.download_all(
            paths,
            target,
            force=parsed_args.force,
            with_run=bool(named),
            on_progress=self.app.display.transfer,
        )
        return self.column_names, self.rows(results, target)

    def _download(
        self, path: str, target: Path, parsed_args: argparse.Namespace
    ) -> tuple[Any, ...]:
        try:
            self.result = done = self.client.checkpoints.download(
                path, target, force=parsed_args.force, on_progress=self.app.display.transfer
            )
        except (KeyboardInterrupt, Terminated) as interrupt:
            for note in getattr(interrupt, "__notes__", ()):
                self.app.warn(note, prefix="")
            raise
        _warn(self, [(target, done.mismatch)], [str(target)])
        files = Structure([name for name, _ in done.files])
        return path, parsed_args.output, files, Size(done.bytes), None


class SyncCheckpoint(_Fetching):
    """Download the new checkpoints of a training run."""

    line = "Downloaded {path} to {directory}"
    hints: ClassVar[Mapping[type[TinkexError], str]] = {  # there is no --force
        exceptions.TargetExists: "Move the existing files away, or sync to another directory.",
        exceptions.TargetInUse: "Wait for the other download, or sync to another directory.",
    }
    column_names = ("tinker_path", "directory", "status", "size_bytes", "error")
    droppable = ("error", "size_bytes", "directory")
    examples = (
        "tinkex checkpoint sync run-123 ./models",
        "tinkex checkpoint sync run-123 ./models --type sampler --watch --interval 5m",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_run(parser)
        parser.add_argument(
            "directory",
            metavar="<dir>",
            help="output directory; each checkpoint is written to the subdirectory <kind>/<name>",
        )
        arguments.add_type(parser)
        parser.add_argument(
            "--watch", action="store_true", help="keep polling for new checkpoints until Ctrl-C"
        )
        parser.add_argument(
            "--interval",
            metavar="<time>",
            type=interval(),
            default="60s",
            help="polling interval for --watch in seconds, or with a unit (30s, 5m); at least 1s "
            "(default: 60s)",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import user_path

        if parsed_args.watch and parsed_args.formatter not in _STREAMED:
            raise UsageError(
                f"--watch does not support the format {parsed_args.formatter}",
                hint="Use one of these formats: " + ", ".join(_STREAMED) + ".",
            )
        self._target, self.result = user_path(parsed_args.directory), []
        # A wrong run or key fails before anything is written.
        results = self._poll(parsed_args)
        if parsed_args.watch:
            return self.column_names, self._watch(parsed_args, results)
        return self.column_names, self.rows(results, self._target)

    def _poll(self, parsed_args: argparse.Namespace) -> Iterator[DownloadResult]:
        kind = arguments.checkpoint_type(parsed_args)

        def poll(run_id: str) -> Iterator[DownloadResult]:
            parsed_args.run_id = run_id  # resolved once
            return self.client.checkpoints.sync(
                run_id,
                self._target,
                types=() if kind is None else (kind,),
                on_progress=self.app.display.transfer,
            )

        return arguments.with_run(self, parsed_args.run_id, poll)

    def _watch(
        self, parsed_args: argparse.Namespace, results: Iterator[DownloadResult]
    ) -> Iterator[tuple[Any, ...]]:
        seconds = parsed_args.interval.total_seconds()
        while True:
            try:
                yield from self.rows(results, self._target, every=False)
                self.app.display.clear()
                time.sleep(seconds)
                results = self._poll(parsed_args)
            except TinkexError as error:
                if error.category != "server":
                    raise
                self.app.warn(f"{error}; next poll in {seconds:.0f} s", prefix="")
                time.sleep(seconds)
                results = iter(())


class VerifyCheckpoint(Lister):
    """Check downloaded files against their manifest."""

    column_names = ("file", "status", "size_bytes", "reason", "tinker_path")
    plain_columns = ("status", "file", "reason")
    droppable = ("tinker_path", "size_bytes")
    examples = (
        "tinkex checkpoint verify ./models/0001",
        "tinkex checkpoint verify ./models -f json",
        "tinkex checkpoint verify ./models --fix-config",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "directories",
            metavar="<dir>",
            nargs="+",
            help="directory of a downloaded checkpoint, or a directory that contains several",
        )
        parser.add_argument(
            "--strict",
            action="store_true",
            help="also fail if there are files that the download did not write",
        )
        parser.add_argument(
            "--fix-config",
            action="store_true",
            help="add missing modules to target_modules in adapter_config.json, "
            "so that PEFT loads all tensors",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api import verify
        from tinkex.files import user_path

        fix = parsed_args.fix_config
        found = [verify(user_path(name), fix_config=fix) for name in parsed_args.directories]
        return self.column_names, self._rows(found)

    def _rows(self, found: list[Iterator[VerifiedFile]]) -> Iterator[tuple[Any, ...]]:
        self.result = []
        for files in found:
            for file in files:
                self.result.append(file)
                size = Size(file.size_bytes)
                yield str(file.file), file.status, size, file.reason, file.tinker_path

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        from tinkex.files import user_path

        super().produce_output(parsed_args, column_names, data)
        good = ("ok",) if parsed_args.strict else ("ok", "extra")
        bad = [file for file in self.result if file.status not in good]
        mismatches = [(file.file.parent, file.mismatch) for file in self.result]
        _warn(self, mismatches, [str(user_path(name)) for name in parsed_args.directories])
        if bad:
            invalid = {file.status == "invalid" for file in bad}
            ways = [text for is_invalid, text in _WAYS.items() if is_invalid in invalid]
            hints = ("Download the checkpoint again with --force.", _EXTRA)
            raise TinkexError(
                f"{len(bad)} of {len(self.result)} files failed verification: {' or '.join(ways)}",
                hint=" ".join(hints[i] for i in sorted({file.status == "extra" for file in bad})),
            )
        self.status(f"{counted(len(self.result), 'file')} verified.")
        return 0
