"""Copies of checkpoints: into a project, or from another account."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from tinkex.columns import plain_text
from tinkex.commands.base import ShowOne
from tinkex.commands.change import ttl_seconds
from tinkex.commands.names import add_path, checkpoint_path
from tinkex.exceptions import UsageError
from tinkex.options import duration, non_empty

__all__ = ["CopyCheckpoint"]

#: Holds the key of the account that a copied checkpoint belongs to.
TOKEN_VARIABLE = "TINKEX_SOURCE_API_KEY"  # noqa: S105 - a name, not a token


class CopyCheckpoint(ShowOne):
    """Copy a checkpoint: into a project, or from another account into this one."""

    is_action = True
    column_names = ("source_path", "tinker_path")
    examples = (
        "tinkex checkpoint copy run-123:final --project-id proj-archive",
        "tinkex checkpoint copy tinker://run-9/sampler_weights/best --source-api-key @other.key",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        add_path(parser)
        parser.add_argument(
            "--project-id",
            "--project",
            dest="project",
            metavar="<id>",
            type=non_empty,
            help="project that will own the copy (default: the project of the settings; without "
            "one, a new training run of its own)",
        )
        parser.add_argument(
            "--ttl",
            metavar="<time>",
            type=duration(bare="s"),
            help="time to live of the copy: seconds, or 12h, 7d, 1y (default: for ever)",
        )
        parser.add_argument(
            "--source-api-key",
            metavar="<file>",
            help="@FILE with the key of the account that may read the original, or - for standard "
            f"input; a key itself is not taken here [{TOKEN_VARIABLE}]",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        seconds = None if parsed_args.ttl is None else ttl_seconds(parsed_args.ttl)
        token = self._token(parsed_args.source_api_key)
        source = checkpoint_path(self, parsed_args.tinker_path)
        copied = self.client.checkpoints.copy(
            source,
            project_id=parsed_args.project or self.settings.project_id,
            ttl_seconds=seconds,
            access_token=token,
        )
        self.result = copied
        self.app.remember("checkpoints", [copied])
        return self.column_names, (source, copied)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Copied to {plain_text(record['tinker_path'])}"]

    def _token(self, argument: str | None) -> str | None:
        from tinkex.config.credentials import read_argument

        if argument is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        if argument != "-" and not argument.startswith("@"):
            raise UsageError(
                "a key on the command line can be read by everybody on this machine",
                hint=f"Give --source-api-key @FILE, or set {TOKEN_VARIABLE}.",
            )
        if argument == "-" and self.app.option("api_key") == "-":
            raise UsageError("standard input can give one key only")
        return read_argument(argument, self.app.stdin)
