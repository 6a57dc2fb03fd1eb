"""The command ``checkpoint export``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinkex.columns import Flag, Size, Structure, plain_text
from tinkex.commands.base import ShowOne
from tinkex.exceptions import UsageError
from tinkex.files import user_path
from tinkex.options import non_empty
from tinkex_hub.commands import sources


class ExportCheckpoint(ShowOne):
    """Convert a checkpoint to PEFT format or a merged model."""

    is_action = True
    column_names = (
        "source", "format", "output", "base_model", "base_checked", "files", "size_bytes",
    )  # fmt: skip
    examples = (
        "tinkex checkpoint export ./final --to peft -o ./final-peft",
        "tinkex checkpoint export run-123:final --base Qwen/Qwen3-8B -o ./final-peft",
        "tinkex checkpoint export ./final --to merged --base ./Qwen3-8B -o ./merged",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        sources.add_source(parser)
        parser.add_argument(
            "--to",
            choices=("peft", "merged"),
            default="peft",
            help="peft: an adapter that PEFT and vLLM can load; "
            "merged: the base model with the adapter added to its weights (default: peft)",
        )
        sources.add_base(parser, "the adapter's base model; --to merged requires a directory")
        parser.add_argument(
            "-o",
            "--output",
            metavar="<dir>",
            type=non_empty,
            required=True,
            help="new directory for the result",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        output = user_path(parsed_args.output)
        base = parsed_args.base
        if parsed_args.to == "merged" and not (base and user_path(base).is_dir()):
            raise UsageError(
                f"--to merged requires --base to be a directory{f', not {base}' if base else ''}",
                hint="Run 'hf download MODEL --local-dir DIR', then add --base DIR.",
            )
        with ExitStack() as stack:
            self._export(parsed_args, output, stack)
        shown = {"base_checked": Flag, "files": Structure, "size_bytes": Size}
        return self.column_names, tuple(
            shown[name](value) if name in shown else value for name, value in self.result.items()
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Exported to {plain_text(record['output'])}"]

    def _export(self, parsed_args: argparse.Namespace, output: Path, stack: ExitStack) -> None:
        from tinkex_hub import merge, peft_format
        from tinkex_hub.directories import check_new, new_directory
        from tinkex_hub.placement import place

        check_new(output)
        directory, named = sources.fetched(self, parsed_args.source, stack)
        adapter = sources.open_adapter(directory, parsed_args.source, stack)
        named = named or adapter.base_model
        base = sources.find_base(self, parsed_args.base, named)
        places = place(adapter, base)
        if parsed_args.to == "peft":
            size = peft_format.size_of(adapter, places)
            with new_directory(output, size) as new:
                peft_format.write(adapter, places, named, new)
        else:
            assert base is not None  # checked by take_action()
            assert base.directory is not None
            planned = merge.plan(adapter, places, base)
            self._total, self._done = merge.size_of(planned, base), 0
            with new_directory(output, self._total) as new:
                merge.write(adapter, planned, base, base.directory, new, self._show)
        files = sorted(output.iterdir())
        self.result = {
            "source": parsed_args.source,
            "format": parsed_args.to,
            "output": str(output),
            "base_model": named or (base.name if base else None),
            "base_checked": base is not None,
            "files": [file.name for file in files],
            "size_bytes": sum(file.stat().st_size for file in files),
        }

    def _show(self, name: str, size: int) -> None:
        from tinkex.api import Progress

        self._done += size
        self.show_transfer(Progress(self._done, self._total, name))
