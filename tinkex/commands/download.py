"""Checkpoints brought home: download."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from tinkex.columns import Size, Structure
from tinkex.commands.base import ShowOne

__all__ = ["DownloadCheckpoint"]


class DownloadCheckpoint(ShowOne):
    """Download the files of a checkpoint into a directory."""

    acts = True
    column_names = ("tinker_path", "directory", "files", "size_bytes")
    examples = (
        "tinkex checkpoint download tinker://run-123/weights/0001 --output ./models/0001",
        "tinkex checkpoint download tinker://run-123/weights/0001 --output ./models/0001 --force",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "tinker_path",
            metavar="<tinker_path>",
            help="checkpoint path, such as tinker://run-123/weights/0001",
        )
        parser.add_argument(
            "--output",
            metavar="<dir>",
            default=".",
            help="directory for the files; made if it is not there (default: here)",
        )
        parser.add_argument("--force", action="store_true", help="replace files of the same name")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.files import user_path

        done = self.client.checkpoints.download(
            parsed_args.tinker_path,
            user_path(parsed_args.output),
            force=parsed_args.force,
            on_progress=self.app.display.transfer,
        )
        self.result = done
        files = Structure([name for name, _ in done.files])
        return self.column_names, (
            parsed_args.tinker_path,
            parsed_args.output,
            files,
            Size(done.bytes),
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Downloaded to {record['directory']}"]
