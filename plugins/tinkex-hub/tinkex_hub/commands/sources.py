"""Arguments that name an adapter and a base model."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tinkex.commands.arguments import checkpoint_path
from tinkex.commands.base import ShowOne
from tinkex.exceptions import APIError, LocalError, TinkexError, Unauthorized, UsageError
from tinkex.files import user_path
from tinkex.options import non_empty

if TYPE_CHECKING:
    from tinkex_hub.base_model import BaseModel
    from tinkex_hub.lora import Adapter

#: Maximum size of a remote configuration in bytes.
_MAX_CONFIG = 16 * 1024 * 1024


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``source``: a directory or a checkpoint."""
    parser.add_argument(
        "source",
        metavar="<source>",
        help="directory with a downloaded checkpoint or an adapter, or a checkpoint on the "
        "service: tinker://RUN/KIND/NAME, RUN:NAME, RUN@latest, @latest or @ALIAS",
    )


def directory_of(command: ShowOne, source: str) -> Path | None:
    """Return the directory that *source* names; ``None`` if it names a checkpoint.

    :raises LocalError: *source* can only name a directory, but there is no such directory.
    """
    directory = user_path(source)
    if directory.is_dir():
        return directory
    if directory.exists() or not ("@" in source or ":" in source):
        is_file = directory.exists()
        raise LocalError(
            f"{directory} is not a directory" if is_file else f"no such directory: {directory}",
            hint="Specify a directory with adapter_config.json, or a checkpoint such as RUN:NAME.",
        )
    return None


@contextmanager
def scratch() -> Iterator[Path]:
    """Create a private temporary directory for the block; remove it afterwards."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="tinkex-hub-")
    except OSError as error:
        raise LocalError(
            f"cannot create a temporary directory: {error.strerror}",
            hint="Free some space, or set TMPDIR to another directory.",
        ) from error
    with directory as name:
        yield Path(name)


def fetched(command: ShowOne, source: str, stack: ExitStack) -> tuple[Path, str | None]:
    """Return the directory of the adapter *source*, downloaded if necessary, and its base model.

    :param stack: removes a temporary directory at its end.
    """
    directory = directory_of(command, source)
    if directory is not None:
        return directory, None
    path = checkpoint_path(command, source)
    directory = stack.enter_context(scratch()) / "files"
    command.client.checkpoints.download(path, directory, on_progress=command.show_transfer)
    return directory, base_model_of(command, path)


def base_model_of(command: ShowOne, path: str) -> str | None:
    """Return the name of the base model of the checkpoint *path*, if the service knows it."""
    try:
        return command.client.checkpoints.info(path).base_model
    except Unauthorized:
        raise
    except APIError:
        return None


def open_adapter(directory: Path, label: str, stack: ExitStack) -> Adapter:
    """Open the adapter in *directory* until the end of *stack*.

    :param label: the name of the directory or checkpoint in errors.
    :raises UsageError: there is no adapter, or it is not plain LoRA in a safetensors file.
    :raises LocalError: a file cannot be read, or is malformed.
    """
    from tinkex_hub import adapter
    from tinkex_hub.directories import open_file, read_json
    from tinkex_hub.lora import CONFIG, WEIGHTS, Adapter

    adapter.check(directory, label)
    config = read_json(directory, CONFIG)
    try:
        file = stack.enter_context(open_file(directory, WEIGHTS))
    except FileNotFoundError as error:
        raise UsageError(
            f"{label} has no {WEIGHTS}; other formats are not read, because loading them can run "
            "code",
            hint="Convert the weights to safetensors with the software that created them.",
        ) from error
    return Adapter.open(config, file, str(directory / WEIGHTS))


def open_remote(command: ShowOne, path: str, stack: ExitStack) -> Adapter:
    """Open the adapter of the checkpoint *path* on the service until the end of *stack*."""
    from tinkex_hub.directories import json_object
    from tinkex_hub.lora import CONFIG, WEIGHTS, Adapter

    files = stack.enter_context(command.client.checkpoints.open_files(path))
    config = json_object(files.open(CONFIG).read(_MAX_CONFIG), CONFIG)
    return Adapter.open(config, files.open(WEIGHTS), WEIGHTS)


def add_base(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--base``; see :func:`find_base`."""
    parser.add_argument(
        "--base",
        metavar="<dir>",
        type=non_empty,
        help="base model to check tensor names and shapes against: a directory, or a model on "
        f"the Hugging Face Hub (default: {default})",
    )


def find_base(
    command: ShowOne, given: str | None, named: str | None, token: str | None = None
) -> BaseModel | None:
    """Return the base model that ``--base`` names, or else *named*, which the adapter names.

    If *named* is not available, a warning says so.

    :param token: for the Hub.
    :raises UsageError: *given* is neither a directory nor a model on the Hub.
    """
    from tinkex_hub import base_model, hub_models

    if given is not None:
        directory = user_path(given)
        if directory.is_dir() or given.count("/") != 1:
            return base_model.from_directory(directory)
        return hub_models.find(given, command.settings.timeout, token)
    if named is None:
        command.app.warn(
            "The base model is unknown, so tensor names and shapes are not checked. Specify it "
            "with --base."
        )
        return None
    try:
        return hub_models.find(named, command.settings.timeout, token)
    except TinkexError as error:
        command.app.warn(f"Tensor names and shapes are not checked: {error}")
        hint = "To check them, download the base model and specify its directory with --base."
        command.app.warn(hint, prefix="Hint: ")
        return None
