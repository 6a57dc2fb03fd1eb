"""Options, prompts and models of commands that sample, for plugins that sample too."""

from __future__ import annotations

from tinkex.commands.batch import BatchRun, BatchSummary
from tinkex.commands.batch_prompts import PromptRow, PromptSource
from tinkex.commands.run import (
    add_chat_options,
    add_sampling_options,
    checked_model,
    find_tokenizer,
    sampling_params,
)

#: Names that plugins may use; see the page "Plugin API".
__all__ = [
    "BatchRun",
    "BatchSummary",
    "PromptRow",
    "PromptSource",
    "add_chat_options",
    "add_sampling_options",
    "checked_model",
    "find_tokenizer",
    "sampling_params",
]
