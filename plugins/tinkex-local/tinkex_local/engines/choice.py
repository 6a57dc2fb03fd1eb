"""The choice of an engine for a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from tinkex_local.engines import DEFAULT, GROUP, Engine, TrainingEngine
from tinkex_local.problems import OperationError, bad_request, note_fault
from tinkex_local.state.adapter import ARCHITECTURES
from tinkex_local.state.models import LocalModel, ModelError

#: How to install an engine that trains and runs Hugging Face models.
INSTALL = "pip install tinkex-torch"


class Engines:
    """The engines of this process; each is created when it is first needed.

    The default engine is the last choice, so that base model and adapters are run by one engine and
    comparisons of the two measure training, not quantization.

    :param given: the engines to choose from, preferred first; by default the installed ones.
    """

    def __init__(self, given: Sequence[Engine] | None = None) -> None:
        self._others = None if given is None else list(given)
        self._has_default = given is None
        self._default: Engine | None = None
        self._guard = threading.Lock()

    def name_for(self, model: LocalModel) -> str | None:
        """Return the name of the engine that runs *model*, if any; imports nothing heavy."""
        for engine in self._preferred():
            if engine.serves(model):
                return engine.name
        return DEFAULT if self._has_default and model.is_onnx else None

    def engine(self, model: LocalModel) -> Engine:
        """Return the engine that runs *model*.

        :raises OperationError: there is none, or it cannot be imported.
        """
        for engine in self._preferred():
            if engine.serves(model):
                return engine
        if not (self._has_default and model.is_onnx):
            raise OperationError(no_engine(model))
        with self._guard:
            if self._default is None:
                try:
                    from tinkex_local.engines.onnx import OnnxEngine
                except ImportError as error:
                    message = f"the engine {DEFAULT} cannot be loaded: {error}"
                    raise OperationError(message, "server") from error
                self._default = OnnxEngine()
            return self._default

    def trainer(self, model: LocalModel) -> TrainingEngine | None:
        """Return the engine that trains *model*, if any."""
        found = next((engine for engine in self._preferred() if engine.serves(model)), None)
        return found if isinstance(found, TrainingEngine) else None

    def trains(self, model: LocalModel) -> bool:
        """Return whether an engine trains *model* and the service has adapters of its kind."""
        try:
            has_adapters = model.facts.model_type in ARCHITECTURES
        except ModelError:
            return False
        return has_adapters and self.trainer(model) is not None

    def require_trainer(self, model: LocalModel) -> TrainingEngine:
        """Return the engine that trains *model*.

        :raises Problem: there is none.
        """
        found = self.trainer(model)
        if found is None:
            raise bad_request(
                f"No installed engine trains {model.name}; '{INSTALL}' adds an engine for Hugging "
                "Face models"
            )
        return found

    def _preferred(self) -> list[Engine]:
        with self._guard:
            if self._others is None:
                self._others = list(_installed())
            return self._others


def no_engine(model: LocalModel) -> str:
    """Return the message for a model that no installed engine runs."""
    return (
        f"No installed engine runs {model.name}; '{INSTALL}' adds an engine for Hugging Face models"
    )


def _installed() -> Iterator[Engine]:
    """Yield the engines of other distributions, in the order of their names."""
    from importlib.metadata import entry_points

    for entry_point in sorted(entry_points(group=GROUP), key=lambda found: found.name):
        if entry_point.name != DEFAULT:
            try:
                yield entry_point.load()()
            except Exception as error:  # others may still run the model
                note_fault(f"the engine {entry_point.name}", error)
