"""The default engine: onnxruntime-genai on the CPU, sampling in numpy."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# onnxruntime otherwise stores a device id and telemetry events in the user's cache directory during
# its import, so disable_telemetry_events() alone is too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime_genai as og

from tinkex_local.engines import Engine, SampleResult, SampleSpec, Sequence
from tinkex_local.engines.sampling import best, choose, log_softmax, stops_at
from tinkex_local.problems import OperationError
from tinkex_local.state.models import LocalModel

#: Maximum number of models in memory.
LOADED = 2
#: Prompt tokens processed at once. Quantized kernels round differently for one token than for many,
#: so a prompt is split into the same pieces whether or not it is scored. Most models compute the
#: logits of a whole piece, which would be hundreds of megabytes for a long prompt.
PIECE = 64

og.disable_telemetry_events()


class OnnxEngine(Engine):
    """Runs onnxruntime-genai model directories."""

    name = "onnx"

    def __init__(self) -> None:
        self._models: dict[Path, Any] = {}

    def serves(self, model: LocalModel) -> bool:
        return model.is_onnx

    def sample(self, model: LocalModel, spec: SampleSpec) -> Generator[None, None, SampleResult]:
        ended = stops_at(spec, model.facts.eos, model.directory)
        loaded = self._load(model)
        try:
            reader = _Reader(loaded, spec)
            scores = yield from _read_prompt(reader, spec)
            sequences = []
            for index in range(spec.num_samples):
                sequences.append((yield from _continue(reader, spec, index, ended)))
        except (RuntimeError, MemoryError) as error:
            raise OperationError(f"the model {model.name} failed: {error}", "server") from error
        return SampleResult(sequences, *scores)

    def _load(self, model: LocalModel) -> Any:
        loaded = self._models.pop(model.directory, None)
        if loaded is None:
            try:
                loaded = og.Model(str(model.directory))
            except Exception as error:  # genai raises only generic exceptions
                message = f"cannot load the model {model.name}: {error}"
                raise OperationError(message, "server") from error
        self._models[model.directory] = loaded  # in the order of use
        while len(self._models) > LOADED:
            del self._models[next(iter(self._models))]
        return loaded


class _Reader:
    """A model and the tokens processed so far; it can return to the end of the prompt."""

    def __init__(self, model: Any, spec: SampleSpec) -> None:
        self._model = model
        self._prompt = list(spec.tokens)
        # Limited to this request: the cache of a whole context may be hundreds of megabytes.
        self._params = og.GeneratorParams(model)
        self._params.set_search_options(
            max_length=len(self._prompt) + spec.max_tokens, batch_size=1
        )
        self._generator = og.Generator(model, self._params)
        self._after_prompt: NDArray[Any] | None = None
        #: Whether the exported model returns the logits of the last position only.
        self.last_only = False

    def read(self, tokens: list[int]) -> NDArray[Any]:
        """Process *tokens* and return the logits after the last one."""
        self._generator.append_tokens(tokens)
        logits: NDArray[Any] = np.array(self._generator.get_logits())[0, -1]
        if self._generator.token_count() == len(self._prompt):
            self._after_prompt = logits
        return logits

    def read_each(self, tokens: list[int]) -> list[NDArray[Any]]:
        """Process *tokens* and return the logits after each of them."""
        if self.last_only:
            return [self.read([token]) for token in tokens]
        before = self._generator.token_count()
        self.read(tokens)
        rows = np.array(self._generator.get_output("logits"))[0]
        if len(rows) == len(tokens):
            return list(rows)
        self.last_only = True
        self.restart(before)
        return self.read_each(tokens)

    def back(self) -> NDArray[Any]:
        """Go back to the end of the prompt and return the logits there."""
        count = len(self._prompt)
        if self._generator.token_count() != count:
            try:
                self._generator.rewind_to(count)
            except RuntimeError:  # not every architecture supports this
                self.restart(count)
        assert self._after_prompt is not None
        return self._after_prompt

    def restart(self, count: int) -> None:
        """Process the first *count* tokens of the prompt again, in pieces."""
        self._generator = og.Generator(self._model, self._params)
        for at in range(0, count, PIECE):
            self.read(self._prompt[at : min(at + PIECE, count)])


_Scores = tuple[list[float | None] | None, list[list[tuple[int, float]] | None] | None]


def _read_prompt(reader: _Reader, spec: SampleSpec) -> Generator[None, None, _Scores]:
    prompt = spec.tokens
    first = max(1, len(prompt) - spec.prompt_logprobs)  # of the scored tokens
    scores: list[float | None] = [None] * first
    tables: list[list[tuple[int, float]] | None] = [None] * first
    for at in range(0, len(prompt), PIECE):
        piece = list(prompt[at : at + PIECE])
        # The logits after one token score the next.
        if not spec.prompt_logprobs or at + len(piece) < first:
            reader.read(piece)
        else:
            for position, row in enumerate(reader.read_each(piece), at + 1):
                if first <= position < len(prompt):
                    logprobs = log_softmax(row)
                    scores.append(float(logprobs[prompt[position]]))
                    tables.append(best(logprobs, spec.topk_prompt_logprobs))
        yield
    if reader.last_only:  # it was processed token by token
        reader.restart(len(prompt))
        yield
    if not spec.prompt_logprobs:
        return None, None
    return scores, tables if spec.topk_prompt_logprobs else None


def _continue(
    reader: _Reader, spec: SampleSpec, index: int, ended: Callable[[list[int]], bool]
) -> Generator[None, None, Sequence]:
    # Seeding with text gives the same result on every platform and Python version.
    draw = random.Random(f"{spec.seed}:{index}")  # noqa: S311 - not for secrets
    logits = reader.back()
    tokens: list[int] = []
    logprobs: list[float] = []
    tables: list[list[tuple[int, float]]] | None = [] if spec.topk_sample_logprobs else None
    while True:
        distribution = log_softmax(logits)
        token = choose(
            distribution,
            temperature=spec.temperature,
            top_k=spec.top_k,
            top_p=spec.top_p,
            uniform=draw.random(),
        )
        tokens.append(token)
        logprobs.append(float(distribution[token]))
        if tables is not None:
            tables.append(best(distribution, spec.topk_sample_logprobs))
        if ended(tokens):
            return Sequence(tokens, logprobs, "stop", tables)
        if len(tokens) >= spec.max_tokens:
            return Sequence(tokens, logprobs, "length", tables)
        yield
        logits = reader.read([token])
