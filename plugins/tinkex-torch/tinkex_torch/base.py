"""Base models in memory: Hugging Face directories, with adapters added to their linear modules."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tinkex_local.problems import OperationError
from tinkex_torch.adapter import Adapter, Factors


def choose_device() -> torch.device:
    """Return the best device of this machine: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class BaseModel:
    """A causal language model whose weights do not change.

    :ivar config: transformers' configuration of the model.
    """

    def __init__(self, directory: Path, device: str | None = None) -> None:
        """Load the model in *directory*; nothing is downloaded and no code in it is run.

        :param device: by default the best one of this machine.
        :raises OperationError: the files are damaged or of an unknown architecture.
        """
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        self.device = torch.device(device) if device else choose_device()
        logging.disable_progress_bar()  # only tinkex writes to standard error
        logging.set_verbosity_error()
        try:
            self._model, found = AutoModelForCausalLM.from_pretrained(
                directory,
                # Processors compute float32 faster; on a GPU, memory and bandwidth matter more.
                dtype="auto" if self.device.type == "cuda" else torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (MemoryError, ImportError):
            raise
        except Exception as error:  # many classes of exceptions are possible
            reason = str(error).strip().partition("\n")[0]
            raise OperationError(f"cannot load {directory}: {reason}", "server") from error
        if lacking := sorted(found["missing_keys"]):  # transformers would use random numbers
            raise OperationError(f"{directory} has no tensor {lacking[0]}", "server")
        self._model.to(self.device).eval().requires_grad_(False)
        self.config = self._model.config
        parameters = inspect.signature(self._model.forward).parameters
        # transformers 5.2x renamed it.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._linear: dict[str, nn.Linear] = {}
        self._factors: Factors = {}
        self._scale = 1.0
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Linear):
                self._linear[name] = module
                module.register_forward_hook(partial(self._add, name))

    @property
    def vocabulary(self) -> int:
        """The number of logits for each token."""
        return int(self._model.get_output_embeddings().weight.shape[0])

    def check(self, adapter: Adapter) -> None:
        """Check that the model has a module for each lora_A and lora_B of *adapter*.

        :raises OperationError: a module is missing or has another shape.
        """
        for name, (first, second) in adapter.factors(adapter.vector).items():
            module = self._linear.get(name)
            if module is None:
                raise OperationError(
                    f"the adapter does not fit the base model, which has no module {name}"
                )
            if (second.shape[0], first.shape[1]) != tuple(module.weight.shape):
                raise OperationError(
                    f"the adapter does not fit the base model: {name} has a different shape"
                )

    @contextmanager
    def adapted(self, factors: Factors, scale: float) -> Iterator[None]:
        """Add *scale* · B·A to the modules for which there are factors."""
        self._factors, self._scale = factors, scale
        try:
            yield
        finally:
            self._factors = {}

    def logits(self, tokens: Tensor, *, cache: Any = None, last: int = 0) -> Tensor:
        """Return the float32 logits after each token: batch × tokens × vocabulary.

        :param tokens: token ids, batch × tokens. Rows may be padded at the end, because a token
            does not depend on later ones.
        :param cache: keys and values of earlier tokens, which is extended.
        :param last: compute them for this number of tokens at the end only; 0 for all.
        """
        cached = {self._cache_name: cache} if cache is not None else {}
        output = self._model(
            tokens, use_cache=cache is not None, logits_to_keep=last, return_dict=True, **cached
        )
        logits: Tensor = output.logits
        return logits.float()

    def _add(self, name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Any:
        factors = self._factors.get(name)
        if factors is None:
            return None  # keeps the output
        first, second = factors
        change = linear(linear(inputs[0].to(first.dtype), first), second)
        return (output + change * self._scale).to(output.dtype)
