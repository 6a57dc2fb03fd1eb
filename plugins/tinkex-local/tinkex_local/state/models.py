"""The models of the service: a built-in model and added models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinkex_local.state.store import Store

#: Name of the built-in model.
DEFAULT_MODEL = "tinkex/baker-street-2M"
_BUILT_IN = {DEFAULT_MODEL: Path(__file__).parents[1] / "models" / "baker-street-2M"}
#: Names of the files that identify an onnxruntime-genai model and a Hugging Face model.
GENAI, HUGGING_FACE = "genai_config.json", "config.json"
#: Lists the files of weights that are split.
_INDEX = "model.safetensors.index.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99})?")


@dataclass(frozen=True)
class LocalModel:
    """A model: its public name and its directory."""

    name: str
    directory: Path

    @property
    def is_onnx(self) -> bool:
        """Whether the directory is in the format of onnxruntime-genai."""
        return (self.directory / GENAI).is_file()

    @property
    def facts(self) -> ModelFacts:
        """The sizes and special tokens read from the model's files.

        :raises ModelError: the directory is missing or damaged.
        """
        return read_facts(self.directory)


def built_in(name: str) -> LocalModel | None:
    """Return the built-in model *name*, without opening the state."""
    directory = _BUILT_IN.get(name)
    return LocalModel(name, directory) if directory else None


class Registry:
    """The models of an installation."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[LocalModel]:
        """Return every model, the built-in one first."""
        rows = self._store.rows("SELECT * FROM models ORDER BY added, name")
        added = [LocalModel(row["name"], Path(row["directory"])) for row in rows]
        return [LocalModel(name, directory) for name, directory in _BUILT_IN.items()] + added

    def find(self, name: str) -> LocalModel | None:
        """Return the model *name* (exact match), or ``None``."""
        row = self._store.row("SELECT * FROM models WHERE name = ?", name)
        if row is not None:
            return LocalModel(row["name"], Path(row["directory"]))
        return built_in(name)

    def add(
        self, name: str, directory: Path, now: float, check: Callable[[LocalModel], None]
    ) -> LocalModel:
        """Register the model in *directory* as *name*.

        :param check: raises :exc:`ModelError` if no engine runs the model.

        :raises ModelError: the name is malformed or in use, or the directory is not a model.
        """
        if not _NAME.fullmatch(name):
            raise ModelError(
                f"{name!r} is not a valid model name: use only letters, digits, '.', '_', '-', "
                "and at most one '/'"
            )
        directory = directory.expanduser().absolute()
        if not directory.is_dir():
            raise ModelError(f"{directory} is not a directory")
        try:
            str(directory).encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"the path {directory} is not valid UTF-8") from error
        read_facts(directory)
        model = LocalModel(name, directory)
        check(model)
        with self._store.transaction():
            if self.find(name):
                raise ModelError(f"model {name!r} already exists")
            self._store.insert("models", name=name, directory=str(directory), added=now)
        return model

    def remove(self, name: str) -> None:
        """Unregister the model *name*; its directory is kept.

        :raises ModelError: it is not an added model.
        """
        if name in _BUILT_IN:
            raise ModelError(f"model {name!r} is built in and cannot be removed")
        if not self._store.write("DELETE FROM models WHERE name = ?", name):
            raise ModelError(f"no model named {name!r}")


#: Maximum plausible number, far above that of any model.
_LARGEST = 2**31 - 1


class ModelError(Exception):
    """A directory is not a usable model; the message is a clause for users."""


@dataclass(frozen=True)
class ModelFacts:
    """Sizes and special tokens of a model.

    :ivar context_length: maximum tokens of prompt and completion together.
    :ivar eos: ids of the tokens that end a text.
    :ivar intermediate: width of the MLP; ``None`` without a ``config.json``.
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
    """Read the sizes and special tokens of the model in *directory*.

    :raises ModelError: a file is missing or has unexpected content.
    """
    for name, read in ((GENAI, _read_genai), (HUGGING_FACE, _read_hugging_face)):
        try:
            return read(directory, (directory / name).stat().st_mtime_ns)
        except OSError:
            continue
    raise ModelError(f"{directory} has no readable {GENAI} or {HUGGING_FACE}")


@lru_cache(maxsize=32)
def _read_genai(directory: Path, changed: int) -> ModelFacts:
    path = directory / GENAI
    model = _value(_read_json(path), "model", path, dict, "an object")
    decoder = _value(model, "decoder", path, dict, "an object")
    _require(directory, str(_value(decoder, "filename", path)), "tokenizer.json")
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


@lru_cache(maxsize=32)
def _read_hugging_face(directory: Path, changed: int) -> ModelFacts:
    path = directory / HUGGING_FACE
    model = _read_json(path)
    if not any((directory / name).is_file() for name in ("model.safetensors", _INDEX)):
        raise ModelError(f"{directory} has neither {GENAI} nor model.safetensors")
    _require(directory, "tokenizer.json")
    hidden, heads = (_count(model, name, path) for name in ("hidden_size", "num_attention_heads"))
    # Left out, or null, by models without grouped queries or a head size of their own.
    defaults = {"num_key_value_heads": heads, "head_dim": max(1, hidden // heads)}
    known = defaults | {name: value for name, value in model.items() if value is not None}
    return ModelFacts(
        model_type=str(_value(model, "model_type", path)),
        context_length=_count(model, "max_position_embeddings", path),
        vocabulary=_count(model, "vocab_size", path),
        hidden=hidden,
        layers=_count(model, "num_hidden_layers", path),
        heads=heads,
        key_value_heads=_count(known, "num_key_value_heads", path),
        head_size=_count(known, "head_dim", path),
        eos=_ids(model.get("eos_token_id"), path) | _generation_eos(directory),
        intermediate=_intermediate(directory),
    )


def _require(directory: Path, *names: str) -> None:
    for name in names:
        if not (directory / name).is_file():
            raise ModelError(f"{directory} has no {name}")


def _value(
    values: Mapping[str, Any], name: str, path: Path, kind: type = object, what: str = ""
) -> Any:
    if name not in values:
        raise ModelError(f"{path} lacks {name}")
    if not isinstance(values[name], kind):
        raise ModelError(f"{path}: {name} is not {what}")
    return values[name]


def _count(values: Mapping[str, Any], name: str, path: Path) -> int:
    value = _value(values, name, path)
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise ModelError(f"{path}: {name} is not a whole number from 1 to {_LARGEST}")
    return value


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path} as JSON") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not contain a JSON object")
    return value


def _ids(value: Any, path: Path) -> frozenset[int]:
    values = [item for item in (value if isinstance(value, list) else [value]) if item is not None]
    if any(type(item) is not int for item in values):
        raise ModelError(f"{path}: eos_token_id is not a token id or a list of token ids")
    return frozenset(values)


def _generation_eos(directory: Path) -> frozenset[int]:
    path = directory / "generation_config.json"
    return _ids(_read_json(path).get("eos_token_id"), path) if path.is_file() else frozenset()


def _intermediate(directory: Path) -> int | None:
    # Only the original config.json contains the width of the MLP.
    path = directory / HUGGING_FACE
    values = _read_json(path) if path.is_file() else {}
    known = values.get("intermediate_size") is not None
    return _count(values, "intermediate_size", path) if known else None
