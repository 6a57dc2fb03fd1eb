"""Save, list and show checkpoints."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Size, Structure, Time, plain_text
from tinkex.commands.arguments import (
    add_filters,
    add_model_options,
    add_order,
    add_paging,
    add_path,
    add_scope,
    check_model_options,
    checkpoint_path,
    given_filters,
    holds_all,
    selection,
    sorting,
    tell_rest,
    with_run,
)
from tinkex.commands.base import Lister, ShowOne
from tinkex.commands.inputs import read_model_path
from tinkex.exceptions import LocalError, UsageError
from tinkex.options import integer

if TYPE_CHECKING:
    from tinkex.api import Checkpoint, CheckpointInfo, SavedWeights, TrainingClient
    from tinkex.api.http.pagination import Page, Walk

__all__ = [
    "InfoCheckpoint",
    "ListCheckpoint",
    "SaveCheckpoint",
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


class ListCheckpoint(Lister):
    """List checkpoints: all, or those that the options choose."""

    column_names = (*_FIELDS[:-1], "user_metadata", _FIELDS[-1])  # the path stays the last
    plain_columns = ("checkpoint_id", "tinker_path")
    droppable = (
        "user_metadata",
        "expires_at",
        "public",
        "checkpoint_id",
        "size_bytes",
        "checkpoint_type",
        "time",
    )
    examples = (
        "tinkex checkpoint list --limit 10 --offset 10",
        "tinkex checkpoint list --run-id run-123 -f json",
        "tinkex checkpoint list --type sampler_weights --after 7d --sort size_bytes:desc",
        "tinkex checkpoint list -f value -c tinker_path",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_paging(parser, "checkpoints")
        add_filters(parser)
        add_scope(parser)
        add_order(parser, _FIELDS)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if given_filters(parsed_args) or parsed_args.sort:
            return self._whole(parsed_args, self._chosen(parsed_args))
        asked = (parsed_args.limit or None, parsed_args.offset)
        scope = parsed_args.access_scope
        if self.may_stream(parsed_args):
            walk = self.client.checkpoints.walk(*asked, access_scope=scope)
            return self.column_names, self.streamed(self._rows(walk, whole=True))
        page = self.client.checkpoints.list(*asked, access_scope=scope)
        return self._whole(parsed_args, page)

    def _whole(self, parsed_args: argparse.Namespace, page: Page[Checkpoint]) -> Any:
        self.result = page
        whole = not given_filters(parsed_args)
        return self.column_names, list(self._rows(page, whole=whole))

    def _rows(
        self, found: Walk[Checkpoint] | Page[Checkpoint], *, whole: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows, and say what there is to say when the last has come.

        :param whole: nothing was left out, but for what is beyond the limit.
        """
        from tinkex.cli.remembered import KEPT

        if found.note:
            self.status(found.note)
        latest: list[str] = []
        for checkpoint in found:
            if len(latest) < KEPT:
                latest.append(checkpoint.tinker_path)
            *values, path = _values(checkpoint)
            yield (*values, Structure(checkpoint.user_metadata), path)
        tell_rest(self, found, "checkpoints")
        self.app.remember("checkpoints", latest, whole=whole and holds_all(found))

    def _chosen(self, parsed_args: argparse.Namespace) -> Page[Checkpoint]:
        from tinkex.api.resources.selection import is_pattern

        checkpoints, scope = self.client.checkpoints, parsed_args.access_scope
        limit, offset = parsed_args.limit or None, parsed_args.offset

        def of(run_id: str | None) -> Page[Checkpoint]:
            return checkpoints.select(
                selection(parsed_args, run_id),
                limit,
                offset,
                **sorting(parsed_args),
                access_scope=scope,
            )

        run_id = parsed_args.run_id
        return of(run_id) if run_id is None or is_pattern(run_id) else with_run(self, run_id, of)


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
    examples = (
        "tinkex checkpoint info tinker://run-123/weights/0001",
        "tinkex checkpoint info @latest:sampler",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_path(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        info = self.client.checkpoints.info(checkpoint_path(self, parsed_args.tinker_path))
        self.result = info
        if info.run_id:
            self._link(info.run_id, "training_runs", info.run_id)
            self._link(info.tinker_path, "checkpoints", info.run_id, info.checkpoint_id)
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


#: The guide's default, which is the official SDK's as well.
DEFAULT_RANK = 32
MAX_RANK = 65536

#: Parts of a model that can be trained: option → words.
_PARTS = {"mlp": "MLP layers", "attn": "attention layers", "unembed": "unembedding layer"}

#: Characters that every known server takes in a checkpoint's name.
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class SaveCheckpoint(ShowOne):
    """Save a checkpoint of a new LoRA adapter, and its metadata to a file."""

    is_action = True
    operation = "Checkpoint"
    column_names = ("base_model", "model_id", "weights_path", "saved_at", "response")
    examples = (
        "tinkex checkpoint --base-model Qwen/Qwen3-8B --rank 64 --output checkpoint.json",
        "tinkex checkpoint --model-path tinker://run-123/weights/0001 --output next.json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_model_options(parser)
        parser.add_argument(
            "--output",
            metavar="<path>",
            help="file for the checkpoint's metadata (JSON), required; - is standard output",
        )
        parser.add_argument(
            "--name", metavar="<name>", help="name of the checkpoint (default: from the model)"
        )
        parser.add_argument(
            "--rank",
            metavar="<int>",
            type=integer(1, MAX_RANK),
            help=f"LoRA rank, from 1 to {MAX_RANK} (default: {DEFAULT_RANK})",
        )
        parser.add_argument(
            "--seed",
            metavar="<int>",
            type=integer(0),
            help="seed of the adapter's weights (default: another one each time)",
        )
        for part, words in _PARTS.items():
            parser.add_argument(
                f"--train-{part}",
                action=argparse.BooleanOptionalAction,
                default=True,
                help=f"train the {words} (default: yes)",
            )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import check_writable

        check_model_options(parsed_args, "checkpoint")
        if parsed_args.output is None:
            raise UsageError(
                "--output is required for checkpoint command",
                hint="It names the file for the metadata: --output checkpoint.json",
            )
        name = _checked_name(parsed_args.name)
        if parsed_args.output != "-":
            check_writable(parsed_args.output)
        self._output = parsed_args.output
        with self._training_client(parsed_args) as training:
            saved = training.save_weights_for_sampler(name or _default_name(training.base_model))
            self.result = self._metadata(training, saved)
        self.app.remember("checkpoints", [saved.path])
        self.app.remember("models", [training.base_model])
        self._write(parsed_args.output)
        *values, response = self.result.values()
        return self.column_names, (*values, Structure(response))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        if self._output == "-":
            return self._text.splitlines()
        return [f"Checkpoint saved to {self._output}"]

    @property
    def _text(self) -> str:
        import json

        return json.dumps(self.result, indent=2) + "\n"

    def _training_client(self, parsed_args: argparse.Namespace) -> TrainingClient:
        base_model, rank = parsed_args.base_model, parsed_args.rank
        if parsed_args.model_path:
            model = read_model_path(
                parsed_args.model_path,
                lambda name: checkpoint_path(self, name, kind="training"),
            )
            if model.base_model is None or _is_trainable(model.tinker_path):
                return self._continued(parsed_args, str(model.tinker_path))
            base_model, rank = model.base_model, rank or model.lora_rank
            self.status(f"No training state is known here: starting anew from {base_model}.")
        return self.client.create_lora_training_client(
            base_model,
            rank=rank or DEFAULT_RANK,
            seed=parsed_args.seed,
            train_mlp=parsed_args.train_mlp,
            train_attn=parsed_args.train_attn,
            train_unembed=parsed_args.train_unembed,
        )

    def _continued(self, parsed_args: argparse.Namespace, path: str) -> TrainingClient:
        """Load the training checkpoint *path* into a new run."""
        from tinkex.api.paths import TinkerPath

        if TinkerPath.from_string(path).kind != "weights":
            raise UsageError(
                f"{path} has no training state to go on from",
                hint="Only tinker://RUN/weights/NAME has. To begin anew: --base-model.",
            )
        fixed = {"--rank": parsed_args.rank, "--seed": parsed_args.seed}
        fixed |= {f"--no-train-{p}": not getattr(parsed_args, f"train_{p}") or None for p in _PARTS}
        given = [option for option, value in fixed.items() if value is not None]
        if given:
            raise UsageError(f"a checkpoint keeps its configuration: leave {', '.join(given)} out")
        return self.client.create_training_client_from_checkpoint(path)

    @staticmethod
    def _metadata(training: TrainingClient, saved: SavedWeights) -> dict[str, Any]:
        now = datetime.now(UTC).replace(microsecond=0)
        return {
            "base_model": training.base_model,
            "model_id": saved.model_id,
            "weights_path": saved.path,
            "saved_at": now.isoformat().replace("+00:00", "Z"),
            "response": {"model_id": saved.model_id, "path": saved.path},
        }

    def _write(self, output: str) -> None:
        from tinkex.files import write_atomically

        if output == "-":  # shown as the result
            return
        try:
            write_atomically(output, self._text)
        except LocalError as error:
            raise LocalError(
                f"{error}; the checkpoint itself is saved: {self.result['weights_path']}",
                hint="Free some space or choose another --output; see it with 'tinkex checkpoint "
                f"info {self.result['weights_path']}'.",
            ) from error


def _is_trainable(path: str | None) -> bool:
    return path is not None and "/weights/" in path


def _checked_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}", name):
        raise UsageError(
            f"not a checkpoint name: {name[:80]!r}",
            hint="Letters, digits, '_', '-' and '.', at most 255, not beginning with '-' or '.'.",
        )
    return name


def _default_name(base_model: str | None) -> str:
    last = (base_model or "").rstrip("/").rsplit("/", 1)[-1]
    slug = _UNSAFE.sub("-", last).strip("-").lower()
    return f"checkpoint-{slug}"[:255].rstrip("-")
