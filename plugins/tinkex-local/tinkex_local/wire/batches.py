"""Training batches: request bodies in JSON or protobuf, converted to arrays and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tinkex_local.engines import LOSSES, Datum
from tinkex_local.problems import Problem, bad_request
from tinkex_local.state.models import ModelFacts
from tinkex_local.wire import bodies, protobuf

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Number of an element type in protobuf → its name in numpy.
_DTYPES = {1: "float32", 2: "int64"}


@dataclass(frozen=True)
class Tensor:
    """A tensor as the client sent it.

    :ivar values: flat; for a sparse matrix the listed ones.
    :ivar rows: positions in *values* where the rows of a sparse matrix (CSR) start.
    :ivar columns: the column of each value of a sparse matrix.
    """

    values: NDArray[Any]
    shape: list[int] | None
    rows: NDArray[Any] | None = None
    columns: NDArray[Any] | None = None


@dataclass(frozen=True)
class Batch:
    """The body of ``forward`` or ``forward_backward``, not yet checked against a model.

    :ivar data: the tokens of each example, and its tensors by name.
    """

    model_id: str
    seq_id: int
    loss_fn: str
    config: Mapping[str, float | str]
    data: list[tuple[NDArray[Any], dict[str, Tensor]]]
    backward: bool

    @property
    def token_count(self) -> int:
        """Number of input tokens."""
        return sum(len(tokens) for tokens, _ in self.data)


@dataclass(frozen=True)
class Encoded:
    """The bytes of a body.

    :ivar kind: the endpoint: ``forward``, ``forward_backward`` …
    """

    kind: str
    raw: bytes
    is_protobuf: bool

    def digest(self) -> str:
        """Return a digest that is equal for identical requests."""
        return hashlib.sha256(f"{self.kind} {self.is_protobuf} ".encode() + self.raw).hexdigest()

    def identity(self) -> tuple[str | None, int | None]:
        """Return the model's id and the request's number, even if the rest is invalid."""
        found: dict[Any, Any] = {}
        with contextlib.suppress(
            protobuf.Malformed, ValueError, TypeError, KeyError, RecursionError
        ):
            if self.is_protobuf:
                for number, value in protobuf.fields(self.raw):
                    if number in (1, 2):
                        found["model_id" if number == 1 else "seq_id"] = value
                found["model_id"] = protobuf.text(found["model_id"])
            else:
                found = dict(json.loads(self.raw))
        model_id, seq_id = found.get("model_id"), found.get("seq_id")
        named = isinstance(model_id, str) and model_id.isprintable()
        numbered = type(seq_id) is int and 0 <= seq_id < 2**63
        return model_id if named else None, seq_id if numbered else None

    def decoded(self) -> Batch:
        """Return the batch.

        :raises Problem: it is malformed (400), or does not match the protocol (422).
        """
        if self.is_protobuf:
            batch = _from_protobuf(self.raw)
            return replace(batch, backward=batch.backward and self.kind != "forward")
        if self.kind == "forward":
            forward = bodies.decode(self.raw or b"{}", bodies.Forward)
            return _from_json(forward, forward.forward_input, backward=False)
        both = bodies.decode(self.raw or b"{}", bodies.ForwardBackward)
        return _from_json(both, both.forward_backward_input, backward=True)


def _from_json(
    body: bodies.Forward | bodies.ForwardBackward, given: bodies.LossInput, *, backward: bool
) -> Batch:
    import numpy as np

    def tensor(found: bodies.TensorData, where: str) -> Tensor:
        values = np.array(found.data, np.float64)
        if found.dtype == "int64":
            if not (np.isfinite(values) & (values == np.floor(values))).all():
                raise bad_request(f"{where} contains a value that is not a whole number")
            values = values.clip(-(2.0**53), 2.0**53).astype(np.int64)
        else:
            with np.errstate(over="ignore"):  # infinite values are rejected later
                values = values.astype(np.float32)
        sparse = (found.sparse_crow_indices, found.sparse_col_indices)
        rows, columns = (None if x is None else _indices(x, where) for x in sparse)
        return Tensor(values, found.shape, rows, columns)

    data = []
    for number, datum in enumerate(given.data):
        tokens: list[int] = []
        for chunk in datum.model_input.chunks:
            if chunk.type != "encoded_text" or chunk.tokens is None:
                raise _only_text(number, chunk.type)
            tokens += chunk.tokens
        names = datum.loss_fn_inputs.items()
        inputs = {name: tensor(found, _place(number, name)) for name, found in names}
        data.append((np.array(tokens, np.int64), inputs))
    config = given.loss_fn_config or {}
    return Batch(body.model_id, body.seq_id, given.loss_fn, config, data, backward)


def _indices(values: list[int], where: str) -> NDArray[Any]:
    import numpy as np

    if any(not 0 <= value < 2**31 for value in values):
        raise bad_request(f"{where} has an index out of range")
    return np.array(values, np.int64)


def _from_protobuf(raw: bytes) -> Batch:
    try:
        return _read_request(raw)
    except protobuf.Malformed as error:
        raise bad_request("The body is not a valid ForwardBackwardRequest") from error


def _read_request(raw: bytes) -> Batch:
    model_id, seq_id, loss_fn, backward = "", 0, "", True
    data: list[tuple[NDArray[Any], dict[str, Tensor]]] = []
    config: dict[str, float | str] = {}
    for number, value in protobuf.fields(raw):
        if number == 1:
            model_id = protobuf.text(value)
        elif number == 2:
            seq_id = protobuf.number(value)
        elif number == 3:
            data.append(_read_datum(protobuf.message(value), len(data)))
        elif number == 4:
            loss_fn = protobuf.text(value)
        elif number == 5:  # field 7 of newer clients repeats it
            key, encoded = protobuf.entry(value)
            config.setdefault(key, protobuf.double(encoded or bytes(8)))
        elif number == 6:
            backward = not value
        elif number == 7:
            key, encoded = protobuf.entry(value)
            config[key] = _setting(encoded)
    if not model_id or not seq_id:
        name = "seq_id" if model_id else "model_id"
        finding = {"type": "missing", "loc": ["body", name], "msg": f"{name} is missing"}
        raise Problem(422, [finding])
    return Batch(model_id, seq_id, loss_fn, config, data, backward)


def _setting(encoded: bytes) -> float | str:
    found: float | str = 0.0
    for number, value in protobuf.fields(encoded):
        found = protobuf.double(value) if number == 1 else protobuf.text(value)
    return found


def _read_datum(raw: bytes, index: int) -> tuple[NDArray[Any], dict[str, Tensor]]:
    import numpy as np

    chunks, inputs = [], {}
    for number, value in protobuf.fields(raw):
        if number == 1:
            for kind, chunk in protobuf.fields(protobuf.message(value)):
                if kind != 1:
                    raise _only_text(index, {2: "image", 3: "dmel"}.get(kind, "unknown"))
                packed = dict(protobuf.fields(protobuf.message(chunk))).get(1, b"")
                chunks.append(protobuf.array(packed, "int32"))
        elif number == 2:
            name, tensor = protobuf.entry(value)
            inputs[name] = _read_tensor(tensor, _place(index, name))
    tokens = np.concatenate(chunks).astype(np.int64) if chunks else np.zeros(0, np.int64)
    return tokens, inputs


def _read_tensor(raw: bytes, where: str) -> Tensor:
    dense: int | bytes = b""
    sparse: dict[int, int | bytes] | None = None
    dtype, shape = 0, []
    for number, value in protobuf.fields(raw):
        if number == 1:
            dense = value
        elif number == 2:
            sparse = dict(protobuf.fields(protobuf.message(value)))
        elif number == 3:
            dtype = protobuf.number(value)
        elif number == 4:
            shape += protobuf.varints(value)
    if dtype not in _DTYPES:
        raise bad_request(
            f"{where} has the element type {dtype}; only float32 and int64 are supported"
        )
    if sparse is None:
        return Tensor(protobuf.array(dense, _DTYPES[dtype]), shape or None)
    values = protobuf.array(sparse.get(1, b""), _DTYPES[dtype])
    rows, columns = (protobuf.array(sparse.get(number, b""), "int64") for number in (2, 3))
    return Tensor(values, shape, rows, columns)


def checked(
    batch: Batch, facts: ModelFacts, losses: frozenset[str]
) -> tuple[list[Datum], dict[str, float]]:
    """Return the examples of a batch for an engine, and every value of its ``loss_fn_config``.

    :param losses: names of the available losses.
    :raises Problem: the batch is invalid for the model; the message names the field.
    """
    if batch.loss_fn not in losses:
        known = ", ".join(name for name in LOSSES if name in losses)
        raise bad_request(
            f"Unknown loss_fn {batch.loss_fn[:100]!r}; this service supports: {known}"
        )
    loss = LOSSES[batch.loss_fn]
    config = dict(loss.config)
    for key, value in batch.config.items():
        if key not in config:
            keys = ", ".join(loss.config) or "none"
            raise bad_request(
                f"Unknown key {key[:100]!r} in loss_fn_config; valid keys for {batch.loss_fn}: "
                f"{keys}"
            )
        if isinstance(value, str) or not math.isfinite(value):
            raise bad_request(f"loss_fn_config.{key} is not a finite number")
        config[key] = value
    if not batch.data:
        raise bad_request("data is empty")
    return [
        Datum(_tokens(tokens, index, facts), dict(_inputs(batch, index, facts)))
        for index, (tokens, _) in enumerate(batch.data)
    ], config


def _tokens(tokens: NDArray[Any], index: int, facts: ModelFacts) -> NDArray[Any]:
    where = f"data[{index}].model_input"
    if not len(tokens):
        raise bad_request(f"{where} is empty")
    if len(tokens) > facts.context_length:
        raise bad_request(
            f"{where} has {len(tokens)} tokens; the model's context length is "
            f"{facts.context_length}"
        )
    _require_tokens(tokens, where, facts)
    return tokens


def _inputs(batch: Batch, index: int, facts: ModelFacts) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of the loss by name."""
    import numpy as np

    tokens, given = batch.data[index]
    shape: tuple[int, ...] = ()
    for name in ("target_tokens", *LOSSES[batch.loss_fn].inputs):
        where = _place(index, name)
        if name not in given:
            raise bad_request(f"{where} is missing; {batch.loss_fn} requires it")
        values = _dense(given[name], where)
        if name == "target_tokens":
            if values.dtype != np.int64:
                raise bad_request(f"{where} must be of type int64")
            shape = values.shape
            wide = batch.loss_fn == "cross_entropy" and values.ndim == 2 and shape[1] > 0
            if shape[:1] != (len(tokens),) or not (values.ndim == 1 or wide):
                raise _unequal(where, values, f"model_input has {len(tokens)} tokens")
            _require_tokens(values, where, facts)
        else:
            if values.shape != shape:
                raise _unequal(where, values, f"target_tokens has the shape {list(shape)}")
            values = values.astype(np.float32)
            if not np.isfinite(values).all():
                raise bad_request(f"{where} contains a value that is not finite")
        yield name, values


def _dense(tensor: Tensor, where: str) -> NDArray[Any]:
    count, shape = tensor.values.size, tensor.shape
    if shape is not None and any(size >= _LARGEST for size in shape):
        raise bad_request(f"{where} is too large")
    if tensor.rows is None and tensor.columns is None:
        if shape is None:
            return tensor.values
        if math.prod(shape) != count:
            raise bad_request(f"{where} has {count} values, but its shape is {shape}")
        return tensor.values.reshape(shape)
    if tensor.rows is not None and tensor.columns is not None and shape and len(shape) == 2:
        height, width = shape
        if height * width <= _LARGEST and _is_csr(tensor.rows, tensor.columns, count, shape):
            return _filled(tensor.values, tensor.rows, tensor.columns, (height, width))
    raise bad_request(f"{where} is not a valid sparse matrix (CSR)")


def _is_csr(rows: NDArray[Any], columns: NDArray[Any], count: int, shape: list[int]) -> bool:
    return (
        len(rows) == shape[0] + 1
        and len(columns) == count == rows[-1]
        and rows[0] == 0
        and bool((rows[1:] >= rows[:-1]).all())
        and bool(((columns >= 0) & (columns < shape[1])).all())
    )


def _filled(
    values: NDArray[Any], rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, int]
) -> NDArray[Any]:
    import numpy as np

    matrix = np.zeros(shape, values.dtype)
    matrix[np.repeat(np.arange(shape[0]), np.diff(rows)), columns] = values
    return matrix


#: Largest number of elements of a tensor; the body does not limit that of a sparse matrix.
_LARGEST = 2**24


def _require_tokens(tokens: NDArray[Any], where: str, facts: ModelFacts) -> None:
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < facts.vocabulary:
        wrong = next(int(token) for token in tokens.flat if not 0 <= token < facts.vocabulary)
        raise bad_request(
            f"Token {wrong} in {where} is outside the model's vocabulary "
            f"(0 to {facts.vocabulary - 1})"
        )


def _unequal(where: str, values: NDArray[Any], expected: str) -> Problem:
    return bad_request(f"{where} has the shape {list(values.shape)}, but {expected}")


def _only_text(index: int, kind: str) -> Problem:
    return bad_request(
        f"data[{index}].model_input has a chunk of type {kind[:40]!r}; this service accepts only "
        "encoded_text chunks with tokens"
    )


def _place(index: int, name: str) -> str:
    return f"data[{index}].loss_fn_inputs.{name[:100]}"
