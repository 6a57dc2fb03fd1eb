"""Save, list and show checkpoints."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tinkex.columns import Structure, Time, cells, counted, iso, plain_text
from tinkex.commands import arguments
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import LocalError, UsageError
from tinkex.options import integer

if TYPE_CHECKING:
    from tinkex.api import Checkpoint, TrainingClient
    from tinkex.api.http.pagination import Page, Walk


_FIELDS = (
    *("checkpoint_id", "checkpoint_type", "size_bytes", "public"),
    *("time", "expires_at", "tinker_path"),
)

_EXPIRES_AT = _FIELDS.index("expires_at")
#: A list warns of checkpoints that expire within this time.
_SOON = timedelta(hours=24)
#: Also the default in the official SDK.
DEFAULT_RANK = 32
MAX_RANK = 65536
#: Parts of a model that can be trained: option → words.
_PARTS = {"mlp": "MLP layers", "attn": "attention layers", "unembed": "unembedding layer"}


class ListCheckpoint(Lister):
    """List checkpoints."""

    column_names = (*_FIELDS[:-1], "user_metadata", "tinker_path")
    plain_columns = ("checkpoint_id", "tinker_path")
    # Hide the expiry last.
    droppable = (
        *("user_metadata", "checkpoint_id", "public", "tinker_path"),
        *("size_bytes", "checkpoint_type", "time", "expires_at"),
    )
    examples = (
        "tinkex checkpoint list --limit 10 --offset 10",
        "tinkex checkpoint list --run-id run-123 -f json",
        "tinkex checkpoint list --type sampler --after 7d --sort size_bytes:desc",
        "tinkex checkpoint list --expires-before 3d",
        "tinkex checkpoint list -f value -c tinker_path",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_paging(parser, "checkpoints")
        arguments.add_filters(parser)
        arguments.add_scope(parser)
        arguments.add_order(parser, _FIELDS)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        scope, filtered = parsed_args.access_scope, arguments.given_filters(parsed_args)
        limit, offset = parsed_args.limit or None, parsed_args.offset
        found: Page[Checkpoint] | Walk[Checkpoint]
        if filtered or parsed_args.sort:
            found = arguments.select_checkpoints(self, parsed_args, limit, offset)
        elif self.app.keeps_result:
            found = self.client.checkpoints.list(limit, offset, access_scope=scope)
        else:  # page by page
            found = self.client.checkpoints.walk(limit, offset, access_scope=scope)
        self.result = found

        def short(paths: Sequence[str]) -> list[str]:
            from tinkex.api.resources.names import short_checkpoints

            complete = not filtered and arguments.holds_all(found)
            return short_checkpoints(paths, complete=complete)

        self.presentation.short["tinker_path"] = ("Name", short)
        rows = arguments.list_rows(
            *(self, found, "checkpoints", self._row),
            name=lambda c: c.tinker_path,
            whole=not filtered,
        )
        return self.column_names, self._guarded(rows)

    def _guarded(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield *rows*, then add a note with the number of checkpoints that expire soon."""
        self._now, self._expiring = datetime.now(UTC), 0
        yield from rows
        if self._expiring:
            one = self._expiring == 1
            expire = f"{counted(self._expiring, 'checkpoint')} expire{'s' if one else ''}"
            # A note, which follows the table.
            self.presentation.notes += [
                f"{expire} within 24 hours. To keep {'it' if one else 'them'}:",
                "  tinkex checkpoint set-ttl --expires-before 24h --remove",
            ]

    def _row(self, checkpoint: Checkpoint) -> tuple[Any, ...]:
        expires = checkpoint.expires_at
        self._expiring += expires is not None and self._now < expires < self._now + _SOON
        values = list(cells(checkpoint, self.column_names))
        values[_EXPIRES_AT] = _Expiry(expires)
        return tuple(values)


class _Expiry(Time):
    """A checkpoint's expiry time; null is displayed as ``never``."""

    def human_readable(self) -> str:
        return super().human_readable() or "never"


class InfoCheckpoint(ShowOne):
    """Show a checkpoint and its LoRA configuration."""

    column_names = (
        *("base_model", "is_lora", "lora_rank", "train_attn", "train_mlp", "train_unembed"),
        *("run_id", *_FIELDS, "user_metadata"),
    )
    examples = (
        "tinkex checkpoint info tinker://run-123/weights/0001",
        "tinkex checkpoint info @latest:sampler",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_path(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        path = arguments.checkpoint_path(self, parsed_args.tinker_path)
        self.result = info = self.client.checkpoints.info(path)
        if info.run_id:
            self.add_link(info.run_id, "training_runs", info.run_id)
            self.add_link(info.tinker_path, "checkpoints", info.run_id, info.checkpoint_id)
        return self.column_names, cells(info, self.column_names)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        rest = dict(record)
        base_model, is_lora = rest.pop("base_model"), rest.pop("is_lora")
        lines = [f"Base model: {plain_text(base_model)}", f"LoRA: {plain_text(is_lora)}"]
        return lines + super().plain_lines(rest)


class SaveCheckpoint(ShowOne):
    """Save a checkpoint of a new LoRA adapter."""

    is_action = True
    operation = "Checkpoint"
    column_names = ("base_model", "model_id", "weights_path", "saved_at", "response")
    examples = (
        "tinkex checkpoint --base-model Qwen/Qwen3-8B --rank 64 -o checkpoint.json",
        "tinkex checkpoint --model-path tinker://run-123/weights/0001 -o next.json",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        arguments.add_model_options(parser)
        parser.add_argument(
            "-o",
            "--output",
            metavar="<path>",
            help="JSON file for the checkpoint metadata (required), or - for standard output",
        )
        parser.add_argument(
            "--name",
            metavar="<name>",
            help="name of the checkpoint (default: derived from the base model)",
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
            help="random seed (default: a random number)",
        )
        for part, words in _PARTS.items():
            parser.add_argument(
                f"--train-{part}",
                action=argparse.BooleanOptionalAction,
                default=True,
                help=f"train the {words} (default: yes)",
            )
        arguments.add_unload(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import check_writable

        arguments.check_model_options(parsed_args, "checkpoint")
        self._output = output = parsed_args.output
        if output is None:
            raise UsageError(
                "--output is required for checkpoint command",
                hint="Specify a file for the metadata: --output checkpoint.json",
            )
        name = _checked_name(parsed_args.name)
        if output != "-":
            check_writable(output)
        if name:
            self.client.checkpoints.check_name(name)
        with self._training_client(parsed_args) as training:
            saved = training.save_weights_for_sampler(name or _default_name(training.base_model))
            self.result = {
                "base_model": training.base_model,
                "model_id": saved.model_id,
                "weights_path": saved.path,
                "saved_at": iso(datetime.now(UTC).replace(microsecond=0)),
                "response": {"model_id": saved.model_id, "path": saved.path},
            }
        self.app.remember("checkpoints", [saved.path])
        self.app.remember("models", [training.base_model])
        if output != "-":  # the result is shown there
            self._write(output)
        if parsed_args.unload:
            arguments.unload(self, saved.model_id)
        *values, response = self.result.values()
        return self.column_names, (*values, Structure(response))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        if self._output == "-":
            return json.dumps(self.result, indent=2).splitlines()
        return [f"Checkpoint saved to {self._output}"]

    def _training_client(self, parsed_args: argparse.Namespace) -> TrainingClient:
        base_model, rank = parsed_args.base_model, parsed_args.rank
        if parsed_args.model_path:
            from tinkex.commands.inputs import read_model_path

            model = read_model_path(
                parsed_args.model_path,
                lambda name: arguments.checkpoint_path(self, name, kind="training"),
            )
            if model.base_model is None or "/weights/" in (model.tinker_path or ""):
                return self._resumed(parsed_args, str(model.tinker_path))
            base_model, rank = model.base_model, rank or model.lora_rank
            self.status(f"No training state found; starting fresh from {base_model}.")
        return self.client.create_lora_training_client(
            base_model,
            rank=rank or DEFAULT_RANK,
            seed=parsed_args.seed,
            **{f"train_{part}": getattr(parsed_args, f"train_{part}") for part in _PARTS},
        )

    def _resumed(self, parsed_args: argparse.Namespace, path: str) -> TrainingClient:
        """Load the training checkpoint *path* into a new run."""
        from tinkex.api.paths import TinkerPath

        if TinkerPath.from_string(path).checkpoint_type in ("sampler", "external"):
            raise UsageError(
                f"{path} has no training state to resume from",
                hint="Use a tinker://RUN/weights/NAME path, or start over with --base-model.",
            )
        fixed = [f"--{x}" for x in ("rank", "seed") if getattr(parsed_args, x) is not None]
        fixed += [f"--no-train-{x}" for x in _PARTS if not getattr(parsed_args, f"train_{x}")]
        if fixed:
            raise UsageError(
                f"{', '.join(fixed)} cannot change a checkpoint's configuration",
                hint=f"Omit {' and '.join(fixed)}, or start over with --base-model.",
            )
        return self.client.create_training_client_from_checkpoint(path)

    def _write(self, output: str) -> None:
        from tinkex.files import write_atomically

        try:
            write_atomically(output, json.dumps(self.result, indent=2) + "\n")
        except LocalError as error:
            raise LocalError(
                f"{error}; the checkpoint itself was saved: {self.result['weights_path']}",
                hint="Free some space, or choose another file with --output.",
            ) from error


def _checked_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}", name):
        raise UsageError(
            f"invalid checkpoint name: {name[:80]!r}",
            hint="Use at most 255 letters, digits, '_', '-' and '.', not starting with '-' or '.'.",
        )
    return name


def _default_name(base_model: str | None) -> str:
    last = (base_model or "").rstrip("/").rsplit("/", 1)[-1]
    # Only characters that every known server accepts.
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", last).strip("-").lower()
    return f"checkpoint-{slug}"[:255].rstrip("-")
