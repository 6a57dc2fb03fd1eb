"""The entry points installed in tinkex's groups, and why some of them are not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cliff.formatters.base import ListFormatter, SingleFormatter

from tinkex import plugins
from tinkex.cli.commandmanager import load_command, parser_with_hooks
from tinkex.cli.errors import nearest
from tinkex.config import file, sections
from tinkex.config.values import PROFILE_KEYS
from tinkex.exceptions import PluginError, TinkexError

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

#: Group → the class that its entry points extend.
_BASES = {
    plugins.HTTP_POOLS: plugins.HttpPool,
    plugins.TOKENIZERS: plugins.TokenizerSource,
    plugins.LIST_FORMATTERS: ListFormatter,
    plugins.SHOW_FORMATTERS: SingleFormatter,
}


class Inventory:
    """Finds out which entry points are used, and why the others are not."""

    def __init__(self) -> None:
        #: Every entry point of a tinkex group with its distribution.
        self.claims: Sequence[tuple[EntryPoint, Distribution]] = list(plugins.claims())
        #: Group and name → distributions that are loaded; "" stands for tinkex itself.
        self._owners: dict[tuple[str, str], set[str]] = {}
        #: Name of an entry point → command.
        self._commands: dict[str, EntryPoint] = {}
        self._hook_faults: dict[str, dict[EntryPoint, Exception]] = {}
        for ep, owner in self.claims:
            loaded_from = "" if plugins.is_builtin(ep) else owner.name
            if not loaded_from or not plugins.why_off(owner.name):
                self._owners.setdefault((ep.group, ep.name), set()).add(loaded_from)
                if ep.group == plugins.COMMANDS and (
                    not loaded_from or ep.name not in self._commands
                ):
                    self._commands[ep.name] = ep

    def problem(self, entry_point: EntryPoint, distribution: Distribution) -> str | None:
        """Return why *entry_point* is not used, or ``None``; imports it to find out."""
        group, name = entry_point.group, entry_point.name
        if text := self._problem_of_group(group):
            return text
        if not plugins.is_builtin(entry_point):
            if off := plugins.why_off(distribution.name):
                return f"not used: {off}"
            others = self._owners[group, name] - {distribution.name}
            if "" in others:
                return "not used: tinkex already uses this name"
            if others and not is_hook(group):  # a command may have several hooks
                return f"also claimed by {' and '.join(sorted(others))}"
        try:
            loaded = (load_command if group == plugins.COMMANDS else plugins.load)(entry_point)
            if group == plugins.SETTINGS:
                sections.check(loaded)
            if group == plugins.PROFILES:
                unknown = file.plugin_profile(name).keys() - PROFILE_KEYS
                return f"unknown settings: {', '.join(sorted(unknown))}" if unknown else None
            if group in _BASES:
                _check_driver(group, name, loaded)
            if fault := self._faults_of_hooks(group).get(entry_point):
                raise fault
        except TinkexError as error:
            return plugins.reason(error.__cause__) if error.__cause__ else str(error)
        return None

    def problems(self) -> Iterator[tuple[EntryPoint, Distribution, str]]:
        """Yield each entry point that is unintentionally unused, its distribution, and why."""
        for ep, owner in self.claims:
            if not plugins.why_off(owner.name) and (text := self.problem(ep, owner)):
                yield ep, owner, text

    def not_installed(self) -> list[str]:
        """Return the names in ``TINKEX_PLUGINS`` that match no plugin, and similar names."""
        found = []
        for word in plugins.names_in_variable():
            name = word.lstrip("-")
            if not any(plugins.same_name(owner.name, name) for _, owner in self.claims):
                near = nearest_plugin(name)
                found.append(f"{word} (did you mean {near}?)" if near else word)
        return found

    def misspelt_groups(self, name: str) -> Iterator[str]:
        """Yield faults for groups of the distribution *name* that resemble tinkex's groups."""
        distribution = plugins.find_distribution(name)
        groups = {ep.group for ep in distribution.entry_points} if distribution else set()
        for group in sorted(groups - {ep.group for ep, _ in self.claims}):
            if near := nearest(group.lower(), plugins.GROUPS, 0.8):
                yield f"{group} is not used: tinkex has no such group; did you mean {near}?"

    def _problem_of_group(self, group: str) -> str | None:
        if is_hook(group):
            command = group.removeprefix(f"{plugins.HOOKS}.")
            if command in self._commands:
                return None
            near = nearest(command, self._commands)
            text, near = f"no command named {command!r}", near and f"{plugins.HOOKS}.{near}"
        elif group in plugins.GROUPS and group != plugins.HOOKS:
            return None
        else:
            text, near = "tinkex has no such group", nearest(group, plugins.GROUPS)
            near = f"{plugins.HOOKS}.<noun_verb>" if near == plugins.HOOKS else near
        return f"not used: {text}" + (f"; did you mean {near}?" if near else "")

    def _faults_of_hooks(self, group: str) -> dict[EntryPoint, Exception]:
        """Return the errors of unusable hooks in *group*, by entry point."""
        if not is_hook(group):
            return {}
        if group not in self._hook_faults:
            self._hook_faults[group] = {}
            entry_point = self._commands[group.removeprefix(f"{plugins.HOOKS}.")]
            name = entry_point.name.replace("_", " ")
            with suppress(Exception):  # a broken command is a separate problem
                # Without an application, because nothing is run.
                command = load_command(entry_point)(None, None, name)  # type: ignore[arg-type]
                self._hook_faults[group] = parser_with_hooks(command, name)[2]
        return self._hook_faults[group]


def is_hook(group: str) -> bool:
    """Return whether *group* contains the hooks of a command."""
    return group.startswith(plugins.HOOKS + ".")


def nearest_plugin(name: str) -> str | None:
    """Return the installed plugin whose name is closest to *name*, or ``None``."""
    # Without their common prefix, which would make all names similar.
    known = {d.name.removeprefix("tinkex-"): d.name for _, d in plugins.claims()}
    near = nearest(name.removeprefix("tinkex-"), known)
    return known[near] if near else None


def _check_driver(group: str, name: str, loaded: Any) -> None:
    """Check that *loaded* can be used in *group*.

    :raises PluginError: it has another base class, lacks a method, or cannot be created.
    """
    base = _BASES[group]
    if not isinstance(loaded, type) or not issubclass(loaded, base):
        raise PluginError(f"it is not a subclass of {base.__module__}.{base.__name__}")
    if missing := getattr(loaded, "__abstractmethods__", None):
        raise PluginError(f"it does not implement {' or '.join(sorted(missing))}")
    plugins.load_driver(group, name)
