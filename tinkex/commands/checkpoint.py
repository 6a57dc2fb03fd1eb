"""Checkpoints: list and inspect."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Size, Structure, Time, plain_text
from tinkex.commands.arguments import (
    add_filters,
    add_order,
    add_scope,
    given_filters,
    selection,
    sorting,
)
from tinkex.commands.base import Lister, ShowOne
from tinkex.commands.names import add_path, checkpoint_path, with_run
from tinkex.commands.paging import add_paging, holds_all, tell_rest
from tinkex.commands.save import SaveCheckpoint

if TYPE_CHECKING:
    from tinkex.api import Checkpoint, CheckpointInfo
    from tinkex.api.http.pagination import Page, Walk

__all__ = ["InfoCheckpoint", "ListCheckpoint", "SaveCheckpoint"]

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
