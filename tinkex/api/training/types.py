"""Training data, and the results and parameters of training steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tinkex.api.http import schema
from tinkex.api.sampling.supervised import SupervisedExample
from tinkex.api.sampling.types import are_token_ids, brief_json, why_not_token_ids
from tinkex.exceptions import UsageError

#: Maximum number of examples, and approximate bytes, of one request, as in the official SDK (0.38,
#: ``chunked_fwdbwd_helpers``).
MAX_DATUMS, MAX_BYTES = 1024, 5_000_000
#: Inputs of losses that are whole numbers; all others are 32-bit floating-point numbers.
_WHOLE = frozenset({"target_tokens"})

T = TypeVar("T")


@dataclass(frozen=True)
class Datum:
    """One training example.

    :ivar tokens: the input of the model, N token ids.
    :ivar loss_fn_inputs: name → N numbers for the loss function. ``cross_entropy`` needs
        ``target_tokens``, where item *i* is the token after input *i*, and ``weights``.
    :raises UsageError: a length is not N, or an item is not a number.
    """

    tokens: Sequence[int]
    loss_fn_inputs: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        size = len(self.tokens)
        for name in ("tokens", "target_tokens"):
            values = self.tokens if name == "tokens" else self.loss_fn_inputs.get(name, self.tokens)
            if not values or not are_token_ids(list(values)):
                why = why_not_token_ids(list(values)) or "the list is empty"
                raise UsageError(f"{name} must be token ids: {why}")
        for name, numbers in self.loss_fn_inputs.items():
            if len(numbers) != size:
                raise UsageError(f"{name} must have length {size}, not {len(numbers)}")
            if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
                raise UsageError(f"{name} contains an item that is not a finite number")

    @classmethod
    def from_example(cls, example: SupervisedExample, *, normalize: bool = False) -> Datum:
        """Return a datum for training on *example* with the loss ``cross_entropy``.

        :param normalize: divide the weights by their sum, so that all examples have equal weight.
        """
        scale = 1 / example.num_trained if normalize and example.num_trained else 1.0
        return cls(
            example.tokens[:-1],
            {
                "target_tokens": example.tokens[1:],
                "weights": [weight * scale for weight in example.weights[1:]],
            },
        )

    def body(self) -> dict[str, Any]:
        """Return the JSON form."""
        inputs = {}
        for name, numbers in self.loss_fn_inputs.items():
            dtype = "int64" if name in _WHOLE else "float32"
            inputs[name] = {"data": list(numbers), "dtype": dtype, "shape": [len(numbers)]}
        chunk = {"type": "encoded_text", "tokens": list(self.tokens)}
        return {"model_input": {"chunks": [chunk]}, "loss_fn_inputs": inputs}

    @property
    def size(self) -> int:
        """Approximate size in bytes of a request with this datum alone."""
        return len(self.tokens) * (4 + 8 * len(self.loss_fn_inputs))


def chunks_of(data: Sequence[Datum]) -> Iterator[Sequence[Datum]]:
    """Divide *data* into parts that fit into one request each."""
    start = size = 0
    for i, datum in enumerate(data):
        if i > start and (i - start == MAX_DATUMS or size + datum.size > MAX_BYTES):
            yield data[start:i]
            start, size = i, 0
        size += datum.size
    yield data[start:]


@dataclass(frozen=True)
class AdamParams:
    """Parameters of one AdamW optimizer step; they may change from step to step.

    :ivar weight_decay: decoupled from the gradient, as in AdamW.
    :ivar grad_clip_norm: maximum Euclidean norm of all gradients together; 0 for no limit.
    :raises UsageError: a value is out of range.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            most = 1.0 if name.startswith("beta") else math.inf
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(f"{name} must be a number, not {brief_json(value)}")
            if not 0 <= value < most:
                limit = " and finite" if most == math.inf else f" and below {most:g}"
                raise UsageError(f"{name} must be 0 or more{limit}, not {value}")

    def body(self) -> dict[str, Any]:
        """Return the JSON form; unused members that older servers do not know are omitted."""
        optional = ("weight_decay", "grad_clip_norm")
        return {n: v for n, v in vars(self).items() if v or n not in optional}


@dataclass(frozen=True)
class ForwardBackwardResult:
    """The result of a loss function for several examples.

    :ivar outputs: name → numbers for each example; ``logprobs`` has the natural logarithm of the
        probability of each target token, under the weights before the next optimizer step.
    :ivar metrics: metrics from the server, such as ``loss:sum``; the part after the colon says how
        the values of several requests are combined. Some servers send none.
    """

    outputs: Sequence[Mapping[str, Sequence[float]]]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: schema.Json, count: int) -> ForwardBackwardResult:
        """Create a result from its JSON form *data*.

        :param count: number of examples in the request.
        :raises tinkex.exceptions.InvalidResponse: *data* is not a result for so many examples.
        """
        outputs = [
            {name: _tensor(value, name) for name, value in schema.mapping(item, "outputs").items()}
            for item in schema.items(data, "loss_fn_outputs")
        ]
        if len(outputs) != count:
            schema.refuse(f"'loss_fn_outputs' must have length {count}, not {len(outputs)}")
        return cls(outputs, metrics_in(data))

    @classmethod
    def combined(cls, parts: Sequence[ForwardBackwardResult]) -> ForwardBackwardResult:
        """Return the result for the examples of all *parts*."""
        if len(parts) == 1:
            return parts[0]
        sizes = [len(part.outputs) for part in parts]
        metrics: dict[str, float] = {}
        for name in {name: None for part in parts for name in part.metrics}:
            found = [
                (part.metrics[name], size)
                for part, size in zip(parts, sizes, strict=True)
                if name in part.metrics
            ]
            metrics[name] = _reduced(name.rpartition(":")[2], found)
        return cls([output for part in parts for output in part.outputs], metrics)


def metrics_in(data: schema.Json) -> dict[str, float]:
    """Return the metrics in a result; items that are not numbers are omitted."""
    given = schema.optional_mapping(data, "metrics") or {}
    return {n: float(v) for n, v in given.items() if isinstance(v, (int, float))}


def _tensor(value: Any, name: str) -> list[float]:
    """Return the numbers of a tensor in JSON; null, for NaN, becomes NaN."""
    data = schema.items(schema.mapping(value, name), "data")
    if not all(x is None or isinstance(x, (int, float)) for x in data):
        schema.refuse(f"{name!r} contains an item that is not a number")
    return [math.nan if x is None else float(x) for x in data]


def _reduced(kind: str, values: Sequence[tuple[float, int]]) -> float:
    """Combine the *values* of a metric, each with its number of examples."""
    numbers = [value for value, _ in values]
    if kind == "mean":
        return math.fsum(v * size for v, size in values) / sum(size for _, size in values)
    if kind == "sum":
        return math.fsum(numbers)
    return min(numbers) if kind == "min" else max(numbers) if kind == "max" else numbers[0]


class TrainingFuture(Generic[T]):
    """A training operation that the service has accepted.

    The service performs the operations of a run one after the other, in the order of the calls.
    """

    def __init__(self, wait: Callable[[], T]) -> None:
        self._wait = wait
        self._result: list[T] = []

    def result(self) -> T:
        """Wait for the operation and return its result.

        There is no time limit while the service reports that it is busy. While the service cannot
        be reached, polls are repeated until the timeout of the settings.

        :raises tinkex.exceptions.OperationFailed: the operation failed.
        :raises tinkex.exceptions.TransportError: the service did not respond within the timeout.
        :raises tinkex.exceptions.NotFound: the service no longer knows the operation.
        """
        if not self._result:
            self._result.append(self._wait())
        return self._result[0]
