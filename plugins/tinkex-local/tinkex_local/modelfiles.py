"""What the files of an onnxruntime-genai model directory say about the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

#: Largest number that is believed, far above that of any model.
_LARGEST = 2**31 - 1


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
    path = directory / "genai_config.json"
    model = _part(_read_json(path), "model", path)
    decoder = _part(model, "decoder", path)
    for name in (str(_value(decoder, "filename", path)), "tokenizer.json"):
        if not (directory / name).is_file():
            raise ModelError(f"{directory} has no {name}")
    return ModelFacts(
        model_type=str(_value(model, "type", path)),
        context_length=_count(model, "context_length", path),
        vocabulary=_count(model, "vocab_size", path),
        hidden=_count(decoder, "hidden_size", path),
        layers=_count(decoder, "num_hidden_layers", path),
        heads=_count(decoder, "num_attention_heads", path),
        key_value_heads=_count(decoder, "num_key_value_heads", path),
        head_size=_count(decoder, "head_size", path),
        eos=_ids(model.get("eos_token_id"), path) | _generation_eos(directory),
        intermediate=_intermediate(directory),
    )


def _value(values: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in values:
        raise ModelError(f"{path} lacks {name}")
    return values[name]


def _part(values: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    value = _value(values, name, path)
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {name} is not an object")
    return value


def _count(values: Mapping[str, Any], name: str, path: Path) -> int:
    value = _value(values, name, path)
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ModelError(f"{path}: {name} is not a whole number above 0")
    return value


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable as JSON") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return value


def _ids(value: Any, path: Path) -> frozenset[int]:
    values = [item for item in (value if isinstance(value, list) else [value]) if item is not None]
    if any(type(item) is not int for item in values):
        raise ModelError(f"{path}: eos_token_id is not a token or a list of them")
    return frozenset(values)


def _generation_eos(directory: Path) -> frozenset[int]:
    path = directory / "generation_config.json"
    return _ids(_read_json(path).get("eos_token_id"), path) if path.is_file() else frozenset()


def _intermediate(directory: Path) -> int | None:
    # genai_config.json does not tell the width of the MLP; the original config.json does.
    path = directory / "config.json"
    values = _read_json(path) if path.is_file() else {}
    known = values.get("intermediate_size") is not None
    return _count(values, "intermediate_size", path) if known else None
