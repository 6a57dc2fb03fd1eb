"""Base models of a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport


@dataclass(frozen=True)
class Model:
    """A base model.

    :ivar max_context_length: maximum tokens of prompt and completion together, if reported.
    :ivar trainable: whether it can be trained, if reported.
    :ivar sampleable: whether it can be sampled from, if reported.
    """

    model_name: str
    max_context_length: int | None = None
    trainable: bool | None = None
    sampleable: bool | None = None

    @classmethod
    def from_json(cls, data: Any) -> Model | None:
        """Return the model that *data* describes, or ``None`` if it has no name."""
        if isinstance(data, str):
            return cls(data)
        model = schema.mapping(data, "supported_models")
        if not schema.optional_text(model, "model_name"):
            return None
        can = model.get("capabilities")  # some servers have a list instead of the two members
        if isinstance(can, list):
            known = {"trainable": "training" in can, "sampleable": "sampling" in can}
            model = known | {name: value for name, value in model.items() if value is not None}
        return schema.read(cls, model, "supported_models")


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
