"""The models that the service can sample from: the one in the package and those added."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tinkex_local.modelfiles import ModelError, ModelFacts, read_facts
from tinkex_local.store import Store

#: Name of the model that comes with the package.
DEFAULT_MODEL = "tinkex/baker-street-2M"
_BUILT_IN = {DEFAULT_MODEL: Path(__file__).parent / "models" / "baker-street-2M"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99})?")


@dataclass(frozen=True)
class LocalModel:
    """One model: its public name and its directory.

    :ivar added: when it was added, seconds since the epoch; ``None`` for the built-in one.
    """

    name: str
    directory: Path
    added: float | None = None

    @property
    def facts(self) -> ModelFacts:
        """What its files say.

        :raises ModelError: the directory is gone or damaged.
        """
        return read_facts(self.directory)


def built_in(name: str) -> LocalModel | None:
    """Return the model of the package called *name*; needs no state."""
    directory = _BUILT_IN.get(name)
    return LocalModel(name, directory) if directory else None


class Registry:
    """The models known to one installation."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[LocalModel]:
        """Return every model, the built-in one first."""
        rows = self._store.rows("SELECT * FROM models ORDER BY added, name")
        added = [LocalModel(row["name"], Path(row["directory"]), row["added"]) for row in rows]
        return [LocalModel(name, directory) for name, directory in _BUILT_IN.items()] + added

    def find(self, name: str) -> LocalModel | None:
        """Return the model called exactly *name*, if there is one."""
        row = self._store.row("SELECT * FROM models WHERE name = ?", name)
        if row is not None:
            return LocalModel(row["name"], Path(row["directory"]), row["added"])
        return built_in(name)

    def add(self, name: str, directory: Path, now: float) -> LocalModel:
        """Make the onnxruntime-genai model in *directory* known as *name*.

        :raises ModelError: the name is malformed or taken, or the directory is no model.
        """
        if not _NAME.fullmatch(name):
            raise ModelError(
                f"{name!r} is no model name: use letters, digits, '.', '_', '-', "
                "and at most one '/'"
            )
        directory = directory.expanduser().absolute()
        if not directory.is_dir():
            raise ModelError(f"{directory} is not a directory")
        try:
            str(directory).encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"the name of {directory} is not UTF-8") from error
        read_facts(directory)
        model = LocalModel(name, directory, now)
        with self._store.transaction():
            if self.find(name):
                raise ModelError(f"there is a model called {name!r} already")
            self._store.insert("models", name=name, directory=str(directory), added=now)
        return model

    def remove(self, name: str) -> None:
        """Forget the model called *name*; its directory stays.

        :raises ModelError: it was never added.
        """
        if name in _BUILT_IN:
            raise ModelError(f"{name!r} comes with the package and cannot be removed")
        if not self._store.write("DELETE FROM models WHERE name = ?", name):
            raise ModelError(f"no model is called {name!r}")
