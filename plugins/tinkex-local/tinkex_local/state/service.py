"""One installation, opened: state, models, clock and signer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tinkex_local import home as homes
from tinkex_local.access import Signer
from tinkex_local.problems import Problem, bad_request
from tinkex_local.state.models import LocalModel, ModelError, ModelFacts, Registry
from tinkex_local.state.store import FILE, Store

#: Shown as the owner of every run.
OWNER = "local"


class Service:
    """State, models and clock of one home directory.

    :param home: created when missing.
    :param clock: the present in seconds since the epoch.
    :raises OSError: the directory cannot be used.
    :raises StateError: the state file cannot be used.
    """

    def __init__(self, home: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.home = homes.prepare(home)
        self.clock = clock
        self.store = Store(self.home / FILE)
        self.models = Registry(self.store)
        self.signer = Signer(self.store.scalar("SELECT value FROM meta WHERE key = 'secret'"))
        #: Set when the service stops: long polls end early.
        self.stopping = threading.Event()

    @property
    def checkpoints(self) -> Path:
        """The directory with one directory a checkpoint."""
        return homes.checkpoints_directory(self.home)

    def model(self, name: str) -> LocalModel:
        """Return the model called *name*.

        :raises Problem: it does not exist.
        """
        model = self.models.find(name)
        if model is None:
            known = ", ".join(entry.name for entry in self.models.all())
            raise bad_request(f"Unknown base model {name!r}; this service has: {known}")
        return model

    def facts(self, name: str) -> ModelFacts:
        """Return what the files of the model called *name* say.

        :raises Problem: the model does not exist, or its directory has gone.
        """
        model = self.model(name)
        try:
            return model.facts
        except ModelError as error:
            raise Problem(500, f"The model {name} is not usable: {error}") from error

    def close(self) -> None:
        """Let long polls end and close the state."""
        self.stopping.set()
        self.store.close()
