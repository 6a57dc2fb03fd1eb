"""Formats and hooks as cliff wants them, imported one at a time.

stevedore's managers import all entry points of a group at once, and drop the errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from tinkex import plugins
from tinkex.exceptions import PluginError, TinkexError

if TYPE_CHECKING:
    import argparse
    from importlib.metadata import EntryPoint

    from tinkex.cli.app import TinkexApp


class Extension:
    """What stevedore calls an extension, and cliff expects: something with ``obj``."""

    def __init__(self, obj: Any, entry_point: EntryPoint) -> None:
        self.obj = obj
        self.entry_point = entry_point


class NamedHook:
    """A hook of cliff's that is named when it fails while the command runs.

    An error of ours passes as it is: the hook means to end the command.
    """

    def __init__(self, hook: Any, entry_point: EntryPoint) -> None:
        self._hook, self._entry_point = hook, entry_point
        self.get_parser, self.get_epilog = hook.get_parser, hook.get_epilog

    def before(self, parsed_args: argparse.Namespace) -> argparse.Namespace | None:
        """Let the hook look at the arguments, and change them.

        :raises PluginError: it failed.
        """
        with self._named():
            return cast("argparse.Namespace | None", self._hook.before(parsed_args))

    def after(self, parsed_args: argparse.Namespace, result: Any) -> Any:
        """Let the hook look at the result, and change it.

        :raises PluginError: it failed.
        """
        with self._named():
            return self._hook.after(parsed_args, result)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (TinkexError, BrokenPipeError):
            raise
        except Exception as error:
            owner = plugins.distribution_of(self._entry_point)
            raise PluginError(
                f"the hook {self._entry_point.name!r} of plugin {owner} failed "
                f"({type(error).__name__}: {error})",
                hint=f"To go on without it, list the other plugins in {plugins.ONLY}.",
            ) from error


class Formatters:
    """The formats of one kind of command, as cliff's display classes want them.

    Built-in formats are there at once; a plugin's is imported only when its name is on the
    command line, which is when its own options are wanted too, or when a setting chooses it.
    """

    def __init__(self, group: str, app: TinkexApp | None) -> None:
        self._group = group
        self._entry_points = {ep.name: ep for ep in plugins.entry_points(group)}
        self._wanted = set(_values(getattr(app, "words", ())))
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


def _values(words: Iterable[str]) -> Iterator[str]:
    """Yield all that may be the value of ``-f`` in *words*: ``-f X``, ``-fX``, ``--format=X``."""
    for word in words:
        yield word
        yield word.removeprefix("--format=" if word.startswith("--") else "-f")
