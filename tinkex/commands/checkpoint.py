"""Checkpoints: list, inspect, publish, unpublish, delete."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Size, Structure, Time, plain_text
from tinkex.commands.base import Lister, ShowOne
from tinkex.commands.run import add_paging, holds_all, tell_rest
from tinkex.commands.save import SaveCheckpoint
from tinkex.exceptions import TinkexError

if TYPE_CHECKING:
    from tinkex.api import Checkpoint, CheckpointInfo

__all__ = [
    "DeleteCheckpoint",
    "InfoCheckpoint",
    "ListCheckpoint",
    "PublishCheckpoint",
    "SaveCheckpoint",
    "UnpublishCheckpoint",
]

_FIELDS = (
    "checkpoint_id",
    "checkpoint_type",
    "size_bytes",
    "public",
    "time",
    "expires_at",
    "tinker_path",
)


def _values(checkpoint: Checkpoint | CheckpointInfo) -> tuple[Any, ...]:
    return (
        checkpoint.checkpoint_id,
        checkpoint.checkpoint_type,
        Size(checkpoint.size_bytes),
        Flag(checkpoint.public),
        Time(checkpoint.time),
        Time(checkpoint.expires_at),
        checkpoint.tinker_path,
    )


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tinker_path",
        metavar="<tinker_path>",
        help="checkpoint path, such as tinker://run-123/weights/0001",
    )


class ListCheckpoint(Lister):
    """List checkpoints, of all runs or of one."""

    column_names = _FIELDS
    plain_columns = ("checkpoint_id", "tinker_path")
    droppable = ("expires_at", "public", "checkpoint_id", "size_bytes", "checkpoint_type", "time")
    examples = (
        "tinkex checkpoint list --limit 10 --offset 10",
        "tinkex checkpoint list --run-id run-123 -f json",
        "tinkex checkpoint list -f value -c tinker_path",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_paging(parser, "checkpoints")
        parser.add_argument(
            "--run-id", metavar="<run_id>", help="only the checkpoints of this training run"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        page = self.client.checkpoints.list(
            limit=parsed_args.limit or None,
            offset=parsed_args.offset,
            run_id=parsed_args.run_id,
        )
        self.result = page
        if page.note:
            self.status(page.note)
        tell_rest(self, page, "checkpoints")
        whole = not parsed_args.run_id and holds_all(page)
        self.app.remember("checkpoints", [c.tinker_path for c in page], whole=whole)
        return self.column_names, [_values(checkpoint) for checkpoint in page]


class InfoCheckpoint(ShowOne):
    """Show one checkpoint and the LoRA configuration of its weights."""

    column_names = (
        "base_model",
        "is_lora",
        "lora_rank",
        "train_attn",
        "train_mlp",
        "train_unembed",
        "run_id",
        *_FIELDS,
        "user_metadata",
    )
    examples = ("tinkex checkpoint info tinker://run-123/weights/0001",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_path(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        info = self.client.checkpoints.info(parsed_args.tinker_path)
        self.result = info
        return self.column_names, (
            info.base_model,
            Flag(info.is_lora),
            info.lora_rank,
            Flag(info.train_attn),
            Flag(info.train_mlp),
            Flag(info.train_unembed),
            info.run_id,
            *_values(info),
            Structure(info.user_metadata),
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        lines = [
            f"Base model: {plain_text(record.get('base_model'))}",
            f"LoRA: {plain_text(record.get('is_lora'))}",
        ]
        rest = {
            name: value
            for name, value in record.items()
            if name not in ("base_model", "is_lora") and plain_text(value)
        }
        return lines + super().plain_lines(rest)


class _Visibility(ShowOne):
    """Base of publish and unpublish."""

    acts = True
    column_names = ("tinker_path", "public")
    public: bool
    done: str

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        _add_path(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.paths import TinkerPath

        path = str(TinkerPath.from_string(parsed_args.tinker_path))
        checkpoints = self.client.checkpoints
        change = checkpoints.publish if self.public else checkpoints.unpublish
        change(path)
        self.result = {"tinker_path": path, "public": self.public}
        return self.column_names, (path, Flag(self.public))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"{self.done} {plain_text(record['tinker_path'])}"]


class PublishCheckpoint(_Visibility):
    """Make a checkpoint readable by everybody who knows its path."""

    public = True
    done = "Published"
    examples = ("tinkex checkpoint publish tinker://run-123/weights/0001",)


class UnpublishCheckpoint(_Visibility):
    """Take public access to a checkpoint away."""

    public = False
    done = "Unpublished"
    examples = ("tinkex checkpoint unpublish tinker://run-123/weights/0001",)


class DeleteCheckpoint(Lister):
    """Delete checkpoints for good; on a terminal it asks first."""

    acts = True
    column_names = ("tinker_path", "deleted", "error")
    examples = (
        "tinkex checkpoint delete tinker://run-old/weights/0001",
        "tinkex checkpoint delete --yes tinker://run-old/weights/0001 tinker://run-old/weights/0002",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "tinker_paths",
            metavar="<tinker_path>",
            nargs="+",
            help="checkpoint path; several may be given, and all are tried",
        )
        parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.paths import TinkerPath

        # Every path is read before anything is deleted; twice the same is once.
        paths = list(dict.fromkeys(map(str, map(TinkerPath.from_string, parsed_args.tinker_paths))))
        self.client  # noqa: B018 - a missing key shows before the question
        # Paths named by a script are as good as confirmed; a person gets the chance to stop.
        if self.app.stdin and self.app.stdin.isatty():
            listed = "\n".join(f"  {path}" for path in paths)
            question = f"This cannot be undone:\n{listed}\nDelete {len(paths)} checkpoint(s)?"
            self.confirm(question, assume_yes=parsed_args.yes)
        return self.column_names, self._delete(paths)

    def _delete(self, paths: list[str]) -> Iterable[tuple[str, Flag, str | None]]:
        self.result = []
        self._failures: list[TinkexError] = []
        self._tried = len(paths)
        if len(paths) == 1:
            self.client.checkpoints.delete(paths[0])
            self.result.append(paths[0])
            self.app.forget("checkpoints", paths)
            return [(paths[0], Flag(True), None)]
        return self._delete_each(paths)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        super().produce_output(parsed_args, column_names, data)
        # What came of each path is the result, also when one of them could not be deleted.
        if self._failures:
            raise TinkexError(
                f"{len(self._failures)} of {self._tried} checkpoints could not be deleted",
                hint=self._failures[0].hint,
                category=self._failures[0].category,
            )
        return 0

    def _delete_each(self, paths: list[str]) -> Iterator[tuple[str, Flag, str | None]]:
        """Try all, and tell each outcome as it is known."""
        outcome: tuple[str, Flag, str | None]
        for path in paths:
            try:
                self.client.checkpoints.delete(path)
            except TinkexError as error:
                self._failures.append(error)
                outcome = (path, Flag(False), str(error))
            else:
                self.result.append(path)
                outcome = (path, Flag(True), None)
            self.app.display.clear()
            yield outcome
        self.app.forget("checkpoints", self.result)

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        path, error = plain_text(record["tinker_path"]), record["error"]
        if error:
            self.app.warn(f"{path}: {error}", prefix="Not deleted: ")
            return None
        return f"Deleted {path}"
