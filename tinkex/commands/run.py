"""Training runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tinkex.columns import Flag, Structure, Time, plain_text
from tinkex.commands.arguments import (
    add_order,
    add_paging,
    add_scope,
    holds_all,
    sorting,
    tell_rest,
    with_run,
)
from tinkex.commands.base import Lister, ShowOne
from tinkex.options import non_empty

if TYPE_CHECKING:
    from tinkex.api import TrainingRun
    from tinkex.api.http.pagination import Page, Walk

__all__ = ["InfoRun", "ListRun"]

#: What was saved last, of each kind: the path, and when.
_LAST = (
    "last_checkpoint",
    "last_checkpoint_time",
    "last_sampler_checkpoint",
    "last_sampler_checkpoint_time",
)


class ListRun(Lister):
    """List training runs, the newest first."""

    column_names = (
        "training_run_id",
        "base_model",
        "model_owner",
        "is_lora",
        "lora_rank",
        "corrupted",
        "last_request_time",
        *_LAST,
        "user_metadata",
    )
    plain_columns = ("training_run_id", "base_model")
    droppable = (
        "user_metadata",
        *_LAST[::2],
        "is_lora",
        *_LAST[1::2],
        "corrupted",
        "model_owner",
        "lora_rank",
        "last_request_time",
    )
    examples = (
        "tinkex run list --limit 10",
        "tinkex run list --model qwen3 --sort last_request_time:desc",
        "tinkex run list -c training_run_id,last_checkpoint,last_checkpoint_time",
        "tinkex run list --limit 0 -f json",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_paging(parser, "runs")
        parser.add_argument(
            "--model",
            metavar="<text>",
            type=non_empty,
            help="those whose base model's name holds this text, in any case",
        )
        add_scope(parser)
        add_order(parser, [n for n in self.column_names if n not in (*_LAST, "user_metadata")])
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        limit, offset = parsed_args.limit or None, parsed_args.offset
        scope = parsed_args.access_scope
        runs = self.client.runs
        if parsed_args.model or parsed_args.sort:
            chosen = runs.select(
                limit,
                offset,
                model=parsed_args.model,
                **sorting(parsed_args),
                access_scope=scope,
            )
            return self._whole(chosen, whole=not parsed_args.model)
        if not self.app.keeps_result:
            walk = runs.walk(limit, offset, access_scope=scope)
            return self.column_names, self._rows(walk, whole=True)
        return self._whole(runs.list(limit, offset, access_scope=scope), whole=True)

    def _whole(self, page: Page[TrainingRun], *, whole: bool) -> Any:
        self.result = page
        return self.column_names, list(self._rows(page, whole=whole))

    def _rows(
        self, found: Walk[TrainingRun] | Page[TrainingRun], *, whole: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows, and say what there is to say when the last has come.

        :param whole: nothing was left out, but for what is beyond the limit.
        """
        from tinkex.cli.remembered import KEPT

        latest: list[str] = []
        models: dict[str, None] = {}
        for run in found:
            if len(latest) < KEPT:
                latest.append(run.training_run_id)
                models[run.base_model] = None
            yield self._row(run)
        tell_rest(self, found, "runs")
        self.app.remember("runs", latest, whole=whole and holds_all(found))
        self.app.remember("models", models)

    @staticmethod
    def _row(run: TrainingRun) -> tuple[Any, ...]:
        return (
            run.training_run_id,
            run.base_model,
            run.model_owner,
            Flag(run.is_lora),
            run.lora_rank,
            Flag(run.corrupted),
            Time(run.last_request_time),
            *_last(run),
            Structure(run.user_metadata),
        )


class InfoRun(ShowOne):
    """Show one training run."""

    column_names = (
        "training_run_id",
        "base_model",
        "model_owner",
        "is_lora",
        "lora_rank",
        "corrupted",
        "last_request_time",
        *_LAST,
        "user_metadata",
    )
    examples = ("tinkex run info run-abc123", "tinkex run info @latest")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "run_id", metavar="<run_id>", help="training run: its id, its beginning, or @latest"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        run = with_run(self, parsed_args.run_id, self.client.runs.get)
        self.result = run
        self.add_link(run.training_run_id, "training_runs", run.training_run_id)
        return self.column_names, (
            run.training_run_id,
            run.base_model,
            run.model_owner,
            Flag(run.is_lora),
            run.lora_rank,
            Flag(run.corrupted),
            Time(run.last_request_time),
            *_last(run),
            Structure(run.user_metadata),
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        rest = dict(record)
        run_id, base_model = rest.pop("training_run_id"), rest.pop("base_model")
        first = f"{plain_text(run_id)} ({plain_text(base_model)})"
        return [first, *super().plain_lines({k: v for k, v in rest.items() if plain_text(v)})]


def _last(run: TrainingRun) -> Iterator[Any]:
    """Yield the values of the columns :data:`_LAST`."""
    for checkpoint in (run.last_checkpoint, run.last_sampler_checkpoint):
        yield checkpoint and checkpoint.tinker_path
        yield Time(checkpoint.time if checkpoint else None)
