"""Options, models and tokenizers for commands that sample."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tinkex.commands import arguments
from tinkex.exceptions import TinkexError, UsageError
from tinkex.files import user_path
from tinkex.options import integer, non_empty, number, top_k

if TYPE_CHECKING:
    from tinkex.api import SamplingParams, Tokenizer
    from tinkex.commands.base import Command, Lister

#: Names that plugins may use; see the page "Plugin API".
__all__ = [
    "add_chat_options",
    "add_sampling_options",
    "checked_model",
    "find_tokenizer",
    "sampling_params",
]

#: Option, metavar, type, default and help.
_SAMPLING_OPTIONS = (
    (
        *("max-tokens", "<int>", integer(1), None),
        "maximum number of tokens to generate (default: 256)",
    ),
    (
        *("temperature", "<float>", number(0), 1.0),
        "sampling temperature; 0 always selects the most likely token (default: 1.0)",
    ),
    ("top-k", "<int>", top_k, -1, "sample from the k most likely tokens; -1: all (default: -1)"),
    (
        *("top-p", "<float>", number(0, 1, above=True), 1.0),
        "sample from the most likely tokens up to this total probability (default: 1.0)",
    ),
    ("num-samples", "<int>", integer(1, 4096), 1, "number of samples, at most 4096 (default: 1)"),
    ("seed", "<int>", integer(0), None, "seed for reproducible samples (default: random)"),
    (
        *("tokenizer", "<name>", str, None),
        "model name or local directory of the tokenizer (default: the base model's)",
    ),
)


def checked_model(
    command: Command | Lister, parsed_args: argparse.Namespace, name: str
) -> tuple[str | None, str | None]:
    """Return the checkpoint path and base model to sample from; one of the two is ``None``.

    :param name: name of the command, for messages.
    :raises UsageError: neither or both are given, or the path names no checkpoint on the service.
    """
    arguments.check_model_options(parsed_args, name)
    if parsed_args.base_model:
        return None, parsed_args.base_model
    from tinkex.commands.inputs import read_model_path

    model = read_model_path(
        parsed_args.model_path,
        lambda short: arguments.checkpoint_path(command, short, kind="sampler"),
    )
    if not model.tinker_path:
        raise _without_checkpoint(parsed_args.model_path, model.base_model)
    return model.tinker_path, None


def _without_checkpoint(name: str, base_model: str | None) -> UsageError:
    from tinkex.commands.inputs import ADAPTER_CONFIG

    path = user_path(name)
    directory = path if path.is_dir() else path.parent
    hint = f"To sample from its base model: --base-model {base_model}"
    if (directory / ADAPTER_CONFIG).is_file():
        add = f"tinkex local checkpoint add {shlex.quote(str(directory))}"
        hint += f". To sample from this adapter, add it to the local service first: {add}"
    what = f"{name} does not refer to a checkpoint on the service"
    return UsageError(what, hint=hint)


def find_tokenizer(
    command: Command | Lister, name: Callable[[], str], *, needed: bool
) -> Tokenizer | None:
    """Return the tokenizer of the model *name*, or ``None`` if it is missing and not *needed*.

    :raises TinkexError: it is needed, and missing.
    """
    from tinkex.api.sampling.tokenizer import load_tokenizer

    try:
        return load_tokenizer(name())
    except TinkexError as error:
        if needed:
            raise
        command.status(f"Showing token ids instead of text: {error}.")
        return None


def add_sampling_options(
    parser: argparse.ArgumentParser, *, single: bool = False, seed: int | None = None
) -> None:
    """Add the options for the sampling parameters, and ``--tokenizer``.

    :param single: omit ``--num-samples``.
    :param seed: default of ``--seed``; ``None`` for a random one.
    """
    for name, metavar, kind, default, text in _SAMPLING_OPTIONS:
        if single and name == "num-samples":
            continue
        if name == "seed" and seed is not None:
            default, text = seed, f"seed for reproducible samples (default: {seed})"
        parser.add_argument(f"--{name}", metavar=metavar, type=kind, default=default, help=text)
    parser.add_argument(
        "--stop",
        metavar="<text>",
        type=non_empty,
        action="append",
        default=[],
        help="string that ends a sample; may be repeated",
    )


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--chat`` and ``--system``."""
    parser.add_argument(
        "--chat",
        action="store_true",
        help="treat the prompt as a user message and apply the chat template",
    )
    parser.add_argument(
        "--system", metavar="<text>", type=non_empty, help="system message; implies --chat"
    )


def sampling_params(parsed_args: argparse.Namespace) -> SamplingParams:
    """Return the sampling parameters from the options."""
    from tinkex.api import SamplingParams

    return SamplingParams(
        max_tokens=parsed_args.max_tokens,
        temperature=parsed_args.temperature,
        top_k=parsed_args.top_k,
        top_p=parsed_args.top_p,
        seed=parsed_args.seed,
        stop=parsed_args.stop,
    )


def mean(logprobs: Sequence[float | None] | None) -> float | None:
    """Return the mean of the finite *logprobs*, or ``None`` if there are none."""
    known = [x for x in logprobs or () if x is not None]
    if not math.isfinite(total := sum(known)):  # rare; checking each value is slow
        known = list(filter(math.isfinite, known))
        total = sum(known)
    return total / len(known) if known else None
