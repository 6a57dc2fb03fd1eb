"""Checkpoints: list and inspect."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Size, Structure, Time, plain_text
from tinkex.commands.base import Lister, ShowOne
from tinkex.commands.filters import (
    add_filters,
    add_order,
    add_scope,
    given_filters,
    selection,
    sorting,
)
from tinkex.commands.names import add_path, checkpoint_path, with_run
from tinkex.commands.run import add_paging, holds_all, tell_rest
from tinkex.commands.save import SaveCheckpoint

if TYPE_CHECKING:
    from tinkex.api import Checkpoint, CheckpointInfo
    from tinkex.api.paging import Page

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

    column_names = _FIELDS
    plain_columns = ("checkpoint_id", "tinker_path")
    droppable = ("expires_at", "public", "checkpoint_id", "size_bytes", "checkpoint_type", "time")
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
        page = self._page(parsed_args)
        self.result = page
        if page.note:
            self.status(page.note)
        tell_rest(self, page, "checkpoints")
        whole = not given_filters(parsed_args) and holds_all(page)
        self.app.remember("checkpoints", [c.tinker_path for c in page], whole=whole)
        return self.column_names, [_values(checkpoint) for checkpoint in page]

    def _page(self, parsed_args: argparse.Namespace) -> Page[Checkpoint]:
        from tinkex.api.selection import is_pattern

        checkpoints, scope = self.client.checkpoints, parsed_args.access_scope
        limit, offset = parsed_args.limit or None, parsed_args.offset
        if not given_filters(parsed_args) and not parsed_args.sort:
            return checkpoints.list(limit, offset, access_scope=scope)

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
