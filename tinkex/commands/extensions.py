"""Formats and hooks as cliff wants them, imported one at a time.

stevedore's managers import all entry points of a group at once, and drop the errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tinkex import plugins
from tinkex.exceptions import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from tinkex.shell import TinkexApp


class Extension:
    """What stevedore calls an extension, and cliff expects: something with ``obj``."""

    def __init__(self, obj: Any, entry_point: EntryPoint) -> None:
        self.obj = obj
        self.entry_point = entry_point


class Formatters:
    """The formats of one kind of command, as cliff's display classes want them.

    Built-in formats are there at once; a plugin's is imported only when its name is on the
    command line, which is when its own options are wanted too, or when a setting chooses it.
    """

    def __init__(self, group: str, app: TinkexApp | None) -> None:
        self._group = group
        self._entry_points = {ep.name: ep for ep in plugins.entry_points(group)}
        self._wanted = _formats_in(getattr(app, "words", ()))
        self._loaded: dict[str, Extension] = {}

    @staticmethod
    def known(name: str) -> bool:
        """Tell whether any kind of command has a format of this name."""
        groups = (plugins.LIST_FORMATTERS, plugins.SHOW_FORMATTERS)
        return any(ep.name == name for group in groups for ep in plugins.entry_points(group))

    def names(self) -> list[str]:
        return list(self._entry_points)

    def __getitem__(self, name: str) -> Extension:
        if name not in self._loaded:
            self._loaded[name] = Extension(
                plugins.load_driver(self._group, name), self._entry_points[name]
            )
        return self._loaded[name]

    def __iter__(self) -> Any:
        for name, entry_point in self._entry_points.items():
            if plugins.is_builtin(entry_point) or name in self._wanted:
                try:
                    yield self[name]
                except PluginError:
                    continue  # told when the format is really used


def _formats_in(words: Sequence[str]) -> set[str]:
    """Return all of *words* that may name a format: ``-f NAME``, ``-fNAME``, ``--format=NAME``."""
    joined = {word.partition("=")[2] for word in words if word.startswith("--format=")}
    joined |= {word[2:] for word in words if word.startswith("-f")}
    return joined | set(words)
