"""Base models of a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.pagination import Page
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport


@dataclass(frozen=True)
class Model:
    """A base model.

    :ivar max_context_length: maximum tokens of prompt and completion together, if reported.
    :ivar trainable: whether it can be trained, if reported.
    :ivar sampleable: whether it can be sampled from, if reported.
    :ivar is_prefix: the name is a prefix of model names, as some servers list them.
    """

    model_name: str
    max_context_length: int | None = None
    trainable: bool | None = None
    sampleable: bool | None = None
    is_prefix: bool = False

    @classmethod
    def from_json(cls, data: Any) -> Model | None:
        """Create a model from its JSON form *data*; ``None`` if it has no name."""
        if isinstance(data, str):
            return cls(data)
        model = data if isinstance(data, Mapping) else {}
        members = ("model_name", "model_id", "id")
        names = [name for member in members if (name := model.get(member))]
        if not names or not isinstance(names[0], str):
            return None
        can = model.get("capabilities")  # some servers send a list instead of the two members
        if isinstance(can, list):
            known = {"trainable": "training" in can, "sampleable": "sampling" in can}
            model = known | {name: value for name, value in model.items() if value is not None}
        given = {"model_name": names[0], "is_prefix": not model.get("model_name")}
        return schema.read(cls, model, "supported_models", lenient=True, **given)


class Models:
    """The base models of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Page[Model]:
        """Return all models in the service's order; ``note`` counts those without a name."""
        return list_models(self._transport, self._transport.deadline("the list of models"))


def list_models(transport: Transport, deadline: Deadline) -> Page[Model]:
    """Return all models, within the *deadline* of another operation."""
    request = Request("GET", "get_server_capabilities", what="a list of models")
    return models_in(transport.call(request, deadline).object())


def models_in(data: schema.Json) -> Page[Model]:
    """Return the models in *data*, the response with a service's capabilities."""
    rows = schema.rows(data, "supported_models", (Mapping, str))
    models = [model for row in rows if (model := Model.from_json(row)) is not None]
    left_out = len(rows) - len(models)
    note = f"Omitted models without a name: {left_out} of {len(rows)}." if left_out else None
    return Page(models, len(models), note=note)
