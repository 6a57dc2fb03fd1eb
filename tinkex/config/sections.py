"""Plugin settings: sections of a profile, read into the dataclasses that plugins declare."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from tinkex import plugins
from tinkex.config import file, pools
from tinkex.config.values import Written, parse_flag
from tinkex.exceptions import PluginError, SettingsError, TinkexError
from tinkex.files import user_path

#: The profile key that contains the sections of plugins, by distribution name.
KEY = "plugins"
#: Type of a setting → what its value must be, in words.
_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    tuple[str, ...]: "a list of strings",
}


def read(name: str, sections: Mapping[str, Any], origin: str, hint: str | None = None) -> Any:
    """Return the settings of the plugin *name*, an instance of the dataclass that it declares.

    :param sections: the sections of the profile.
    :param origin: where they come from, for error messages.
    :param hint: how to correct a value, if it is not in the configuration file.
    :raises PluginError: the plugin declares no settings, or its declaration is unusable.
    :raises SettingsError: a setting is unknown or malformed.
    """
    schema = declared(name)
    try:
        types = types_of(schema)
    except PluginError as error:
        raise PluginError(
            f"the plugin {name} declares unusable settings: {error}",
            hint=error.hint or "Report the problem to the plugin's maintainers.",
            category="bug",
        ) from error
    values = {}
    for key, value in _section(name, sections).items():
        if key not in types:
            raise SettingsError(
                f"{name} has no setting {str(key)!r} (from {origin})",
                hint=f"Known settings: {', '.join(types)}.",
            )
        try:
            values[key] = _parsed(types[key], value)
        except (ValueError, KeyError, TinkexError) as error:
            raise SettingsError(
                f"the setting {key} of {name} must be {_words(types[key])} (from {origin})",
                hint=hint or _how_to_change(origin),
            ) from error
    try:
        return schema(**values)
    except ValueError as error:  # raised by the plugin's __post_init__
        raise SettingsError(
            f"settings of {name}: {error} (from {origin})", hint=hint or _how_to_change(origin)
        ) from error


def effective(sections: Mapping[str, Any], origin: str) -> Iterator[tuple[str, Any, str, str]]:
    """Yield the name, value, origin and description of each plugin setting.

    Values of fields with ``repr=False``, and all values of a section that no plugin reads, are
    masked. Plugins that do not load are omitted unless *sections* has their settings.

    :raises SettingsError: see :func:`read`.
    """
    declared_by = [ep.name for ep in plugins.entry_points(plugins.SETTINGS)]
    for name in declared_by:
        section = _section(name, sections)
        try:
            settings = read(name, sections, origin)
        except PluginError:
            if section:
                raise
            continue
        for field in dataclasses.fields(settings):
            value = _shown(settings, field)
            where = origin if field.name in section else pools.origin_without(value)
            yield f"{KEY}.{name}.{field.name}", value, where, field.metadata.get("help", "")
    for name, unread in sections.items():
        if not any(plugins.same_name(name, known) for known in declared_by):
            about = "not declared by any loaded plugin"
            yield from ((f"{KEY}.{name}.{key}", "…", origin, about) for key in unread)


def value_of(name: str, sections: Mapping[str, Any], origin: str) -> tuple[Any, str]:
    """Return the value of ``plugins.DISTRIBUTION.SETTING``, masked, and where it comes from."""
    _, plugin, key = place(name, {KEY: sections})
    settings = read(plugin, sections, origin)
    is_set = key in _section(plugin, sections)
    return _shown(settings, _field(plugin, key)), origin if is_set else "default"


def masked(name: str, value: Any) -> Any:
    """Return *value* of ``plugins.DISTRIBUTION.SETTING`` for display, masked if it is secret."""
    _, plugin, key = place(name, None)
    return value if value is None or _field(plugin, key).repr else "…"


def names() -> list[str]:
    """Return the names of all plugin settings: ``plugins.DISTRIBUTION.SETTING``.

    Settings of a plugin that does not load are omitted.
    """
    found = []
    for entry_point in plugins.entry_points(plugins.SETTINGS):
        with contextlib.suppress(PluginError):
            types = types_of(declared(entry_point.name))
            found += [f"{KEY}.{entry_point.name}.{name}" for name in types]
    return found


def place(name: str, profile: Any) -> list[str]:
    """Return the path of keys in *profile* to the setting ``plugins.DISTRIBUTION.SETTING``."""
    plugin, _, key = name.removeprefix(f"{KEY}.").rpartition(".")
    sections = profile.get(KEY) if isinstance(profile, Mapping) else None
    written = (text for text in sections or {} if plugins.same_name(str(text), plugin))
    return [KEY, next(written, plugin), key]


def from_text(name: str, text: str) -> Any:
    """Convert *text* to the configuration file's value of ``plugins.DISTRIBUTION.SETTING``.

    :raises SettingsError: it is malformed.
    """
    _, plugin, key = place(name, None)
    hint = types_of(declared(plugin))[key]
    value: Any = text if hint in (str, Path) else Written(text)
    if hint == tuple[str, ...]:
        value = [part.strip() for part in text.split(",")]
    see = f"See: tinkex plugin show {plugin}"
    read(plugin, {plugin: {key: value}}, "the command line", see)
    return value


def described(schema: Any) -> list[str]:
    """Return a line for each setting of *schema*, with its name, help, type and default."""
    types = types_of(schema)
    defaults = schema()
    lines = []
    for field in dataclasses.fields(schema):
        value = getattr(defaults, field.name)
        default = "not set by default" if value in (None, ()) else f"default {value!r}"
        about = f"{_words(types[field.name])}; {default}"
        text = field.metadata.get("help")
        lines.append(f"{field.name}: {text} ({about})" if text else f"{field.name}: {about}")
    return lines


def declared(name: str) -> Any:
    """Return the dataclass that the plugin *name* declares in the group ``tinkex.settings``.

    :raises PluginError: it declares none, or it does not load.
    """
    declared = plugins.entry_points(plugins.SETTINGS)
    entry_point = next((ep for ep in declared if plugins.same_name(ep.name, name)), None)
    if entry_point is None:
        known = ", ".join(ep.name for ep in declared)
        is_installed = plugins.find_distribution(name) is not None
        if is_installed and (off := plugins.why_off(name)):
            raise PluginError(
                f"the plugin {name} is not loaded: {off}", hint=f"Change or unset {plugins.ONLY}."
            )
        raise PluginError(
            f"the plugin {name} {'declares no settings' if is_installed else 'is not installed'}",
            hint=f"Plugins with settings: {known or 'none'}. A plugin declares its settings as a "
            f"dataclass in the group {plugins.SETTINGS}.",
        )
    return plugins.load(plugins.pick(plugins.SETTINGS, entry_point.name))


def types_of(schema: Any) -> dict[str, Any]:
    """Return the type of each setting of *schema*, by name; without ``| None``.

    :raises PluginError: *schema* is not a dataclass, a field has no default, or a type is not
        supported in a configuration file.
    """
    if not isinstance(schema, type) or not dataclasses.is_dataclass(schema):
        raise PluginError(f"settings must be declared as a dataclass, not {schema!r}")
    try:
        hints = typing.get_type_hints(schema)
    except (NameError, TypeError) as error:
        raise PluginError(
            f"cannot resolve the annotations of {schema.__qualname__}: {error}",
            hint="Import the types in annotations at run time, not only for type checking.",
        ) from error
    found = {}
    for field in dataclasses.fields(schema):
        others = [hint for hint in typing.get_args(hints[field.name]) if hint is not NoneType]
        is_optional = NoneType in typing.get_args(hints[field.name]) and len(others) == 1
        found[field.name] = hint = others[0] if is_optional else hints[field.name]
        where = f"the setting {field.name} of {schema.__qualname__}"
        if field.default is field.default_factory is dataclasses.MISSING:
            raise PluginError(f"{where} has no default")
        if hint not in _WORDS and typing.get_origin(hint) is not typing.Literal:
            raise PluginError(
                f"{where} has an unsupported type",
                hint="Use str, int, float, bool, Path, tuple[str, ...] or Literal, "
                "optionally with None.",
            )
    return found


def check(schema: Any) -> None:
    """Check that a plugin can declare its settings with *schema*.

    :raises PluginError: see :func:`types_of`; or a default is not valid.
    """
    types = types_of(schema)
    try:
        defaults = schema()
    except Exception as error:
        raise PluginError(f"the defaults are not valid ({plugins.reason(error)})") from None
    for key, hint in types.items():
        value = getattr(defaults, key)
        is_choice = typing.get_origin(hint) is typing.Literal
        kind = (int, float) if hint is float else typing.get_origin(hint) or hint
        if is_choice:
            is_valid = value in typing.get_args(hint)
        else:
            is_valid = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if value is not None and not is_valid:
            raise PluginError(f"the default of the setting {key} must be {_words(hint)}")


def _how_to_change(origin: str) -> str:
    path, name = file.config_path(), origin.removeprefix("profile ")
    written = file.profiles_in(file.read(path))
    if name != origin and name not in written and name in file.plugin_profile_names():
        owner = plugins.distribution_of(plugins.pick(plugins.PROFILES, name))
        return (
            f"Report the problem to the maintainers of {owner}. To override the profile, define "
            f"{name!r} in {path}."
        )
    return f"Change the setting in {path}."


def _section(name: str, sections: Mapping[str, Any]) -> Mapping[Any, Any]:
    found: Iterator[Mapping[Any, Any]]
    found = (section for key, section in sections.items() if plugins.same_name(key, name))
    return {key: value for key, value in next(found, {}).items() if value is not None}


def _field(plugin: str, key: str) -> Any:
    return next(field for field in dataclasses.fields(declared(plugin)) if field.name == key)


def _shown(settings: Any, field: Any) -> Any:
    """Return the value of *field* for output, masked if it is secret."""
    value = getattr(settings, field.name)
    if value is not None and not field.repr:
        return "…"
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return _WORDS[hint]


def _parsed(hint: Any, value: Any) -> Any:
    """Return *value* as the type *hint*; numbers may be in quotes.

    :raises ValueError, KeyError, TinkexError: *value* has another type.
    """
    if hint is bool:
        return parse_flag(value)
    if typing.get_origin(hint) is typing.Literal:
        return {str(choice): choice for choice in typing.get_args(hint)}[str(value)]
    if hint == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return tuple(map(str, value))
    elif isinstance(value, str):
        return file.config_path().parent / user_path(value) if hint is Path else hint(value)
    elif type(value) is hint or (hint is float and type(value) is int):  # from a plugin's profile
        return hint(value)
    raise ValueError
