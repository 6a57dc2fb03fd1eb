"""Profiles that plugins bring: there without being written into the configuration file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from tinkex import plugins
from tinkex.exceptions import PluginError, SettingsError


def names() -> set[str]:
    """Return the names of the profiles that plugins bring; nothing is imported."""
    return {ep.name for ep in plugins.entry_points(plugins.PROFILES)}


def brought(name: str) -> dict[str, Any]:
    """Return the settings of the profile *name* of a plugin.

    :raises SettingsError: the plugin does not load, or gives no settings.
    """
    try:
        values = plugins.load_driver(plugins.PROFILES, name)
    except PluginError as error:
        raise SettingsError(str(error), hint=error.hint) from error
    if not isinstance(values, Mapping):
        raise SettingsError(f"the plugin of the profile {name!r} gives no mapping of settings")
    return dict(values)


def all_brought() -> dict[str, dict[str, Any]]:
    """Return the settings of every profile that a plugin brings and that can be used."""
    found = {}
    for name in names():
        with contextlib.suppress(SettingsError):  # told when it is used, and by 'plugin list'
            found[name] = brought(name)
    return found
