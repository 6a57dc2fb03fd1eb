"""Base models on the Hugging Face Hub: their configuration and headers, without the weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tinkex.exceptions import APIError, PluginError, SettingsError, TinkexError, UsageError
from tinkex_hub import base_model
from tinkex_hub.base_model import BaseModel
from tinkex_hub.directories import read_json
from tinkex_hub.hub import INSTALL, translate
from tinkex_hub.tensors import TensorInfo

#: Maximum seconds to wait for the first response of the Hub.
_PATIENCE = 10.0


def find(name: str, timeout: float, token: str | None = None) -> BaseModel:
    """Return the base model *name* from the cache of huggingface_hub, or from the Hub.

    From the Hub, only the configuration and the headers of the weights are fetched.

    :param timeout: maximum seconds without data from the Hub.
    :param token: by default from ``HF_TOKEN`` or ``hf auth login``, if there is one.
    :raises TinkexError: the Hub does not have it, rejects the request, or cannot be reached.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, logging
    except ImportError as error:
        raise PluginError(f"cannot import huggingface_hub: {error}", hint=INSTALL) from error
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    with _errors(name, endpoint):
        cached = huggingface_hub.try_to_load_from_cache(name, base_model.CONFIG)
        if isinstance(cached, str):
            with suppress(UsageError):  # the cache may have no weights
                return base_model.from_directory(Path(cached).parent)
        if constants.HF_HUB_OFFLINE:
            raise SettingsError(
                f"HF_HUB_OFFLINE is set, and {name} is not in the huggingface_hub cache",
                hint="Unset HF_HUB_OFFLINE, or specify a directory with --base.",
            )
        logging.set_verbosity_error()
        get_session().timeout = timeout  # there is no timeout by default
        api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
        # Unlike downloads, this request is not repeated for half a minute without a network.
        api.model_info(name, timeout=min(timeout, _PATIENCE))
        config = Path(api.hf_hub_download(name, base_model.CONFIG))
        found = api.get_safetensors_metadata(name)
    tensors: dict[str, TensorInfo] = {}
    for file in found.files_metadata.values():
        tensors |= {key: _info(one) for key, one in file.tensors.items()}
    return BaseModel(name, read_json(config.parent, config.name), tensors)


def _info(found: Any) -> TensorInfo:
    begin, end = found.data_offsets
    return TensorInfo(found.dtype, tuple(found.shape), begin, end - begin)


@contextmanager
def _errors(name: str, endpoint: str) -> Iterator[None]:
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        yield
    except TinkexError:
        raise
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise UsageError(f"the model {name} has no valid safetensors weights") from error
    except Exception as error:
        ours = translate(error, urlsplit(endpoint).netloc or endpoint, name)
        if ours is None:
            raise
        if isinstance(ours, APIError) and ours.category != "server":
            ours.hint = "Check the name. For a private or gated model, log in with 'hf auth login'."
        raise ours from error
