"""What the files of an onnxruntime-genai model directory say about the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any


class ModelError(Exception):
    """A directory is not a usable model; the message is a clause for a person."""


@dataclass(frozen=True)
class ModelFacts:
    """Sizes and special tokens of one model.

    :ivar context_length: tokens of prompt and answer together.
    :ivar eos: ids of the tokens that end a text.
    :ivar intermediate: width of the MLP; ``None`` when no ``config.json`` tells it.
    """

    model_type: str
    context_length: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    eos: frozenset[int]
    intermediate: int | None


def read_facts(directory: Path) -> ModelFacts:
    """Return the facts about the model in *directory*.

    :raises ModelError: a file is missing or does not have what it should.
    """
    try:
        changed = (directory / "genai_config.json").stat().st_mtime_ns
    except OSError as error:
        raise ModelError(f"{directory} has no readable genai_config.json") from error
    return _read_facts(directory, changed)


@lru_cache(maxsize=32)
def _read_facts(directory: Path, changed: int) -> ModelFacts:
    config = _read_json(directory / "genai_config.json")
    try:
        model = config["model"]
        decoder = model["decoder"]
        for name in (str(decoder["filename"]), "tokenizer.json"):
            if not (directory / name).is_file():
                raise ModelError(f"{directory} has no {name}")
        return ModelFacts(
            model_type=str(model["type"]),
            context_length=int(model["context_length"]),
            vocabulary=int(model["vocab_size"]),
            hidden=int(decoder["hidden_size"]),
            layers=int(decoder["num_hidden_layers"]),
            heads=int(decoder["num_attention_heads"]),
            key_value_heads=int(decoder["num_key_value_heads"]),
            head_size=int(decoder["head_size"]),
            eos=_ids(model.get("eos_token_id")) | _generation_eos(directory),
            intermediate=_intermediate(directory),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{directory}/genai_config.json lacks or garbles {error}") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable as JSON") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return value


def _ids(value: Any) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(int(item) for item in values if item is not None)


def _generation_eos(directory: Path) -> frozenset[int]:
    path = directory / "generation_config.json"
    return _ids(_read_json(path).get("eos_token_id")) if path.is_file() else frozenset()


def _intermediate(directory: Path) -> int | None:
    # genai_config.json does not tell the width of the MLP; the original config.json does.
    path = directory / "config.json"
    value = _read_json(path).get("intermediate_size") if path.is_file() else None
    return int(value) if value is not None else None
