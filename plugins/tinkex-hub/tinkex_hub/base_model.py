"""Base models: their configuration and the headers of their weights, without the weights.

The names and shapes in the headers show which modules an adapter can have. They come from a
directory, from the cache of huggingface_hub, or from the Hub by range requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinkex.exceptions import LocalError, UsageError
from tinkex_hub.directories import open_file, read_json
from tinkex_hub.tensors import TensorFile, TensorInfo

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: Prefixes of the layers in the checkpoints of supported models.
_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
#: Ending of the names of packed or scaled values, which stand in for a weight.
_QUANTIZED = (
    *(".weight_packed", ".weight_scale", ".weight_scale_inv", ".qweight", ".absmax"),
    *("_blocks", "_scales"),
)


@dataclass(frozen=True)
class BaseModel:
    """A base model.

    :ivar name: its directory or its name on the Hub.
    :ivar config: the content of ``config.json``.
    :ivar tensors: all tensors of its weights by name.
    :ivar files: tensor → the file that contains it.
    :ivar directory: the directory with the files; ``None`` if only their headers are known.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    files: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None

    @property
    def model_type(self) -> str:
        """The architecture, such as ``qwen3_moe``; empty if unknown."""
        return str(self.config.get("model_type") or "")

    @property
    def prefix(self) -> str:
        """The path of the language model in the names of the tensors, with a dot at its end.

        :raises UsageError: the names have an unknown form.
        """
        for prefix in _PREFIXES:
            if f"{prefix}embed_tokens.weight" in self.tensors:
                return prefix
        raise UsageError(
            f"unsupported tensor names in the base model {self.name}: "
            f"no {' or '.join(f'{prefix}embed_tokens.weight' for prefix in _PREFIXES)}"
        )

    @property
    def output_layer(self) -> str:
        """The path of the output layer."""
        inner = "language_model.lm_head"
        return inner if f"{inner}.weight" in self.tensors else "lm_head"

    @property
    def is_tied(self) -> bool:
        """Whether the weights have no matrix for the output layer, which uses the embeddings."""
        return f"{self.output_layer}.weight" not in self.tensors

    @property
    def is_quantized(self) -> bool:
        """Whether weights are stored in a form that an update cannot be added to."""
        inner = [self.config, self.config.get("text_config")]
        if any(isinstance(one, Mapping) and one.get("quantization_config") for one in inner):
            return True
        return any(name.endswith(_QUANTIZED) for name in self.tensors)


def from_directory(directory: Path) -> BaseModel:
    """Return the base model in *directory*.

    :raises UsageError: it has no configuration, or no weights in safetensors files.
    :raises LocalError: a file cannot be read, or is malformed.
    """
    hint = "Specify a directory that contains the model's config.json and safetensors files."
    if not directory.is_dir():
        raise UsageError(
            f"no such directory: {directory}",
            hint="Specify a directory, or a model on the Hugging Face Hub as OWNER/NAME.",
        )
    try:
        config = read_json(directory, CONFIG)
    except FileNotFoundError as error:
        raise UsageError(f"the base model {directory} has no {CONFIG}", hint=hint) from error
    tensors: dict[str, TensorInfo] = {}
    files: dict[str, str] = {}
    try:
        for name in file_names(directory):
            with open_file(directory, name) as file:
                found = TensorFile(file, str(directory / name)).tensors
            if not tensors.keys().isdisjoint(found):
                raise LocalError(
                    f"two files in {directory} contain the same tensors",
                    hint="Download the model to a new directory.",
                )
            tensors |= found
            files |= dict.fromkeys(found, name)
    except FileNotFoundError as error:
        what = Path(error.filename).name
        raise UsageError(f"the base model {directory} has no {what}", hint=hint) from error
    return BaseModel(str(directory), config, tensors, files, directory)


def file_names(directory: Path) -> list[str]:
    """Return the names of the files with weights in *directory*.

    :raises FileNotFoundError: there are none.
    :raises LocalError: the index is malformed.
    """
    if not (directory / INDEX).exists():
        return [SINGLE]
    names = read_json(directory, INDEX).get("weight_map")
    values = names.values() if isinstance(names, dict) else [None]
    if not all(isinstance(v, str) and re.fullmatch(r"[\w.-]+\.safetensors", v) for v in values):
        raise LocalError(
            f"{directory / INDEX} is not a valid index of weight files",
            hint="Download the model again.",
        )
    return sorted(set(values))
