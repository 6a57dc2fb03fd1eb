"""What ``--model-path`` may name: a checkpoint's path, or files here that tell about one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinkex.api.transfer import manifest
from tinkex.exceptions import LocalError, UsageError
from tinkex.files import user_path

#: Written by PEFT beside every adapter (``peft.LoraConfig``).
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class ModelPath:
    """A model as ``--model-path`` names it.

    :ivar tinker_path: the checkpoint on the service, if it is known.
    :ivar base_model: name of the base model, if it is known.
    :ivar lora_rank: rank of the adapter, if it is known.
    """

    tinker_path: str | None = None
    base_model: str | None = None
    lora_rank: int | None = None


def read_model_path(text: str, resolve: Callable[[str], str] | None = None) -> ModelPath:
    """Return what *text* names: a ``tinker://`` path, a downloaded checkpoint's directory, an
    adapter's directory, the metadata file that ``tinkex checkpoint --output`` wrote, or, where
    nothing here is called so, a name that the service knows.

    :param resolve: returns the path that such a name means, see :mod:`tinkex.api.resources.names`.
    :raises LocalError: it is neither, or does not tell the base model.
    """
    if text.startswith("tinker://"):
        return ModelPath(tinker_path=text)
    path = user_path(text)
    if resolve is not None and not path.exists() and _may_be_a_name(text):
        return ModelPath(tinker_path=resolve(text))
    if path.is_file():
        return _checked(_from_json(_load(path), "weights_path"), text)
    if not path.is_dir():
        raise LocalError(
            f"--model-path names nothing that is here: {text}",
            hint="Give tinker://RUN/sampler_weights/NAME or a directory with adapter_config.json.",
        )
    known = _from_json(_load(path / manifest.NAME), "tinker_path")
    config = _load(path / ADAPTER_CONFIG)
    base_model, rank = config.get("base_model_name_or_path"), config.get("r")
    return _checked(
        ModelPath(
            known.tinker_path,
            known.base_model or (base_model if isinstance(base_model, str) else None),
            known.lora_rank or (rank if type(rank) is int else None),
        ),
        text,
    )


def _may_be_a_name(text: str) -> bool:
    # Others are taken for files that are missing: ./model, model/, ~/model, adapter.json.
    return "@" in text or ":" in text or "~" in text[1:]


def _from_json(values: dict[str, Any], path_key: str) -> ModelPath:
    path, base_model, rank = (values.get(k) for k in (path_key, "base_model", "lora_rank"))
    return ModelPath(
        path if isinstance(path, str) and path.startswith("tinker://") else None,
        base_model if isinstance(base_model, str) else None,
        rank if type(rank) is int else None,
    )


def _checked(model: ModelPath, text: str) -> ModelPath:
    if model.tinker_path or model.base_model:
        return model
    raise UsageError(
        f"nothing in {text} tells its base model",
        hint=f"{ADAPTER_CONFIG} should have base_model_name_or_path; or give --base-model.",
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise LocalError(
            f"{path} is not JSON",
            hint="It should be the file of 'tinkex checkpoint --output', or one that PEFT wrote.",
        ) from error
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    return value if isinstance(value, dict) else {}
