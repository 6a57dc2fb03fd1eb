"""The command ``model list``."""

from __future__ import annotations

import argparse
from typing import Any

from tinkex.columns import cells
from tinkex.commands.base import Lister
from tinkex.exceptions import UsageError


class ListModel(Lister):
    """List the base models that the service offers."""

    column_names = ("model_name", "max_context_length", "trainable", "sampleable")
    plain_columns = ("model_name",)
    droppable = ("max_context_length",)
    examples = ("tinkex model list", "tinkex model list qwen3 -f json")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "substring",
            metavar="<substring>",
            nargs="?",
            help="only models whose names contain this string (case-insensitive)",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        models = self.client.models.list()
        self.app.remember("models", [model.model_name for model in models], whole=True)
        if models.note:
            self.status(models.note)
        wanted = (parsed_args.substring or "").lower()
        self.result = [model for model in models if wanted in model.model_name.lower()]
        if wanted and not self.result:
            raise UsageError(
                f"no model name contains {parsed_args.substring[:80]!r}",
                hint="To list all models: tinkex model list",
            )
        return self.column_names, [cells(model, self.column_names) for model in self.result]
