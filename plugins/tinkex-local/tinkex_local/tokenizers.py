"""The tokenizers of the local service's models."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tinkex.plugins import TokenizerSource
from tinkex_local.home import default_home
from tinkex_local.state.models import Registry, built_in
from tinkex_local.state.store import FILE, StateError, Store


class LocalSource(TokenizerSource):
    """Finds the tokenizers of the built-in model and of models added with ``local model add``."""

    def find(self, model: str, *, network: bool) -> Path | None:
        """Return the directory of the local model *model*, or ``None`` if it is unknown."""
        known = built_in(model)
        state = default_home() / FILE
        if known is None and state.is_file():
            try:
                with contextlib.closing(Store(state)) as store:
                    known = Registry(store).find(model)
            except (StateError, sqlite3.Error):  # the service reports it
                return None
        if known is None or not (known.directory / "tokenizer.json").is_file():
            return None
        return known.directory
