"""The tokenizers of the service's own models."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tinkex.plugins import TokenizerSource
from tinkex_local.home import default_home
from tinkex_local.state.models import Registry, built_in
from tinkex_local.state.store import FILE, StateError, Store


class LocalSource(TokenizerSource):
    """Knows the model in the package and those added with ``local model add``."""

    def find(self, model: str, *, network: bool) -> Path | None:
        """Return the directory of the model called exactly *model*, if it is one of ours."""
        known = built_in(model)
        state = default_home() / FILE
        if known is None and state.is_file():
            try:
                with contextlib.closing(Store(state)) as store:
                    known = Registry(store).find(model)
            except (StateError, sqlite3.Error):  # the service itself reports it
                return None
        if known is None or not (known.directory / "tokenizer.json").is_file():
            return None
        return known.directory
