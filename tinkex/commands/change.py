"""Who may use a checkpoint, and how long it lives: publish, unpublish, set-ttl."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tinkex.columns import Flag, Time, plain_text
from tinkex.commands.bulk import BulkChange
from tinkex.commands.names import add_paths, checkpoint_paths
from tinkex.exceptions import TinkexError, UsageError
from tinkex.options import duration

__all__ = ["PublishCheckpoint", "SetTtlCheckpoint", "UnpublishCheckpoint"]


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
        from tinkex.api.resources.retention import in_words

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
