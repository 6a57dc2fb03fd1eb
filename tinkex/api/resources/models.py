"""Base models that a service offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport


@dataclass(frozen=True)
class Model:
    """A base model.

    :ivar model_name: its name, as ``--base-model`` takes it.
    :ivar max_context_length: most tokens of prompt and answer together, if told.
    :ivar trainable: whether it can be trained, if told.
    :ivar sampleable: whether it can be sampled from, if told.
    """

    model_name: str
    max_context_length: int | None = None
    trainable: bool | None = None
    sampleable: bool | None = None

    @classmethod
    def from_json(cls, data: Any) -> Model | None:
        """Read one model; ``None`` for one without a name, which nobody could ask for."""
        if isinstance(data, str):
            return cls(data)
        model = schema.mapping(data, "supported_models")
        name = schema.optional_text(model, "model_name")
        if not name:
            return None
        trainable = schema.optional_bool(model, "trainable")
        sampleable = schema.optional_bool(model, "sampleable")
        # Some servers name what a model can do in a list instead.
        can = model.get("capabilities")
        if isinstance(can, list):
            trainable = "training" in can if trainable is None else trainable
            sampleable = "sampling" in can if sampleable is None else sampleable
        length = schema.optional_int(model, "max_context_length")
        return cls(name, length, trainable, sampleable)


class Models:
    """The base models of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Model]:
        """Return all models in the service's order."""
        return list_models(self._transport, self._transport.deadline("the list of models"))


def list_models(transport: Transport, deadline: Deadline) -> list[Model]:
    """Return all models as part of another operation."""
    request = Request("GET", "get_server_capabilities", what="a list of models")
    data = transport.call(request, deadline).object()
    models = map(Model.from_json, schema.items(data, "supported_models"))
    return [model for model in models if model is not None]
