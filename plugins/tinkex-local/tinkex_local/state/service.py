"""The objects of an open service: its state, models, clock and signer."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tinkex_local import home as homes
from tinkex_local.access import Signer
from tinkex_local.problems import Problem, bad_request, not_found
from tinkex_local.state.models import LocalModel, ModelError, ModelFacts, Registry
from tinkex_local.state.store import FILE, Store

#: The owner of every run.
OWNER = "local"
#: Name of an object in errors → its table.
TABLES = {
    "session": "sessions",
    "training run": "runs",
    "model": "runs",
    "sampling session": "samplers",
}


class Service:
    """State, models and clock of one home directory.

    :param home: created if missing.
    :param clock: returns the current time in seconds since the epoch.
    :ivar checkpoints: the directory with one directory for each checkpoint.
    :ivar process: the id of this service among those that use the same state.
    :raises OSError: the directory cannot be used.
    :raises StateError: the state file cannot be used.
    """

    def __init__(self, home: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.home = homes.prepare(home)
        self.checkpoints = self.home / homes.CHECKPOINTS
        self.clock = clock
        self.process = uuid.uuid4().hex
        self.store = Store(self.home / FILE)
        self.models = Registry(self.store)
        self.signer = Signer(self.store.scalar("SELECT value FROM meta WHERE key = 'secret'"))
        #: Set when the service stops: long polls end early.
        self.stopping = threading.Event()

    def find(self, what: str, name: str) -> sqlite3.Row:
        """Return the row of a session, run or sampler.

        :param what: one of the names in :data:`TABLES`.
        :raises Problem: it does not exist.
        """
        row = self.store.row(f"SELECT * FROM {TABLES[what]} WHERE id = ?", name)  # noqa: S608
        if row is None:
            raise not_found(what, name)
        return row

    def model(self, name: str) -> LocalModel:
        """Return the model *name*.

        :raises Problem: it does not exist.
        """
        model = self.models.find(name)
        if model is None:
            known = ", ".join(entry.name for entry in self.models.all())
            raise bad_request(f"Unknown base model {name!r}; available models: {known}")
        return model

    def facts(self, name: str) -> ModelFacts:
        """Read the sizes and special tokens of the model *name*.

        :raises Problem: the model or its directory does not exist.
        """
        model = self.model(name)
        try:
            return model.facts
        except ModelError as error:
            raise Problem(500, f"The model {name} is not usable: {error}") from error

    def close(self) -> None:
        """End long polls and close the state."""
        self.stopping.set()
        self.store.close()
