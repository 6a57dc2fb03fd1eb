"""Options that name several models."""

from __future__ import annotations

import argparse
from typing import Any

from tinkex.exceptions import UsageError
from tinkex.options import non_empty


class _AppendModel(argparse.Action):
    """Append (name of the option, value) to ``models``, in the order of the command line."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        namespace.models = [*getattr(namespace, "models", []), (self.dest, values)]


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add ``--model-path`` and ``--base-model``, which may be repeated, in any order."""
    parser.add_argument(
        "--model-path",
        metavar="<path>",
        type=non_empty,
        action=_AppendModel,
        help="checkpoint (tinker://RUN/KIND/NAME, RUN:NAME, @latest, @ALIAS), the directory of "
        "a downloaded checkpoint, a file in it, or a saved metadata file; may be repeated",
    )
    parser.add_argument(
        "--base-model",
        metavar="<id>",
        type=non_empty,
        action=_AppendModel,
        help="base model, such as Qwen/Qwen3-8B; may be repeated",
    )
    parser.set_defaults(models=[])


def given_models(
    parsed_args: argparse.Namespace, at_least: int = 1
) -> list[tuple[str, argparse.Namespace]]:
    """Return the label of each model, and options that name only this model.

    :raises UsageError: there are fewer than *at_least*, or one is given twice.
    """
    models: list[tuple[str, str]] = parsed_args.models
    if len(models) < at_least:
        number = "a model is" if at_least == 1 else f"at least {at_least} models are"
        raise UsageError(
            f"{number} required", hint="For example: --model-path run-123:final --base-model M"
        )
    if twice := next((model for model in models if models.count(model) > 1), None):
        raise UsageError(
            f"the model {twice[1]} is given twice", hint="Remove one of the two options."
        )
    named = []
    for option, text in models:
        both: dict[str, Any] = {"model_path": None, "base_model": None} | {option: text}
        named.append((text.removeprefix("tinker://"), argparse.Namespace(**both)))
    return named
