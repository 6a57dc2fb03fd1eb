"""The configuration file: its path, its content, and changes that keep its layout.

This module also reads profiles from plugins, which are not in the file.

PyYAML rewrites the whole file and loses comments, order and layout. But its parser reports where
each value is in the text, so that one value can be replaced, added or removed in place. Every
change is read back and compared with what was intended; where they differ (anchors, merge keys, an
unforeseen layout) nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinkex import plugins
from tinkex.config.values import Written
from tinkex.exceptions import PluginError, SettingsError
from tinkex.files import locked, user_path, why_not_trusted, write_private, xdg_directory

CONFIG_VARIABLE = "TINKEX_CONFIG"
_FIX = f"Fix the file in an editor, or set {CONFIG_VARIABLE} to another file."
_NO_LIMIT = 10**9
#: Hint about a command that another user may have written.
DISTRUSTED = (
    "Check the file's content, then use chown and chmod go-w to make it writable only by you."
)


class NotEditable(Exception):
    """The file cannot be edited in place without losing comments or layout."""


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of the configuration file, which need not exist."""
    environ = os.environ if environ is None else environ
    if environ.get(CONFIG_VARIABLE):
        return user_path(environ[CONFIG_VARIABLE])
    return xdg_directory("config", environ) / "tinkex" / "config.yaml"


def read(path: Path) -> Mapping[str, Any]:
    """Return the content of the configuration file *path*; empty if there is no such file.

    :raises SettingsError: it cannot be read, or is not a configuration file.
    """
    return read_checked(path)[0]


def read_checked(path: Path) -> tuple[Mapping[str, Any], str | None]:
    """Return the content of the file *path*, and why its commands must not run, or ``None``.

    :raises SettingsError: see :func:`read`.
    """
    text, distrust = _text(path)
    return _parse(text, path), distrust


def profiles_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profiles that *config*, the content of a configuration file, defines."""
    return {str(name): values for name, values in (config.get("profiles") or {}).items()}


def _text(path: Path) -> tuple[str, str | None]:
    try:
        with path.open(encoding="utf-8") as stream:
            # Status of the open file: its name may refer to another file by now.
            return stream.read(), why_not_trusted(os.fstat(stream.fileno()))
    except FileNotFoundError:
        return "", None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SettingsError(f"cannot read {path}: {reason}", hint=_FIX) from error


def _parse(text: str, path: Path) -> Mapping[str, Any]:
    if not text.strip():
        return {}  # most users have no such file, so YAML is imported later
    import json

    import yaml

    try:
        config = _load(text)
        json.dumps(config, default=str, skipkeys=True)  # fails if a value contains itself
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        # Dates out of range, endless nesting, values that do not match their tag.
        raise SettingsError(f"{path} is not valid YAML", hint=_FIX) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path} is not valid YAML{where}", hint=_FIX) from error
    if config is None:
        return {}
    if not isinstance(config, dict) or not isinstance(config.get("profiles") or {}, dict):
        raise SettingsError(
            f"the top level and 'profiles' of {path} must be YAML mappings", hint=_FIX
        )
    return config


def _load(text: str) -> Any:
    """Parse the YAML *text*, and keep every scalar except null as written."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def as_written(loader: Any, node: Any) -> Written:
        return Written(loader.construct_scalar(node))

    for guessed in ("bool", "float", "int", "timestamp"):
        Loader.add_constructor(f"tag:yaml.org,2002:{guessed}", as_written)
    return yaml.load(text, Loader)  # noqa: S506 - a safe one


def plugin_profile_names() -> set[str]:
    """Return the names of the profiles that plugins provide, without importing any."""
    return {ep.name for ep in plugins.entry_points(plugins.PROFILES)}


def plugin_profile(name: str) -> dict[str, Any]:
    """Return the settings of the profile *name*, which a plugin provides.

    :raises SettingsError: the plugin does not load, or does not return settings.
    """
    try:
        values = plugins.load_driver(plugins.PROFILES, name)
    except PluginError as error:
        raise SettingsError(str(error), hint=error.hint, category=error.category) from error
    if not isinstance(values, Mapping):
        owner = plugins.owner_of(plugins.pick(plugins.PROFILES, name))
        raise SettingsError(
            f"the profile {name!r} of plugin {owner} does not return a mapping of settings",
            category="bug",
        )
    return dict(values)


def plugin_profiles() -> dict[str, dict[str, Any]]:
    """Return the settings of every usable profile that a plugin provides, by name."""
    found = {}
    for name in plugin_profile_names():
        with contextlib.suppress(SettingsError):  # reported when used, and by 'plugin list'
            found[name] = plugin_profile(name)
    return found


def write_default_profile(name: str | None) -> None:
    """Make *name* the default profile; ``None`` removes the default.

    This and the following functions raise:

    :raises SettingsError: the file cannot be read or changed.
    :raises LocalError: it cannot be written.
    """
    _change((["profile"], name))


def write_profile(name: str, values: Mapping[str, Any], *, use: bool = False) -> None:
    """Write the profile *name*, replacing its earlier settings by *values*.

    :param use: also make it the default profile, in the same write.
    """
    _change((["profiles", name], dict(values)), *([(["profile"], name)] if use else []))


def remove_profile(name: str) -> None:
    """Remove the profile *name*; if it is the default, no default remains."""
    is_default = str(read(config_path()).get("profile")) == name
    _change((["profiles", name], None), *([(["profile"], None)] if is_default else []))


def write_setting(profile: str, name: str | Sequence[str], value: Any) -> None:
    """Write one setting of *profile*, which is created if necessary; ``None`` removes the setting.

    :param name: its name, or the keys of the nested mappings that contain it.
    """
    _change((["profiles", profile, *([name] if isinstance(name, str) else name)], value))


def _change(*changes: tuple[list[str], Any]) -> None:
    """Make all changes or none; each change is a path of keys and the new value."""
    path = config_path()
    with locked(path):
        before, distrust = _text(path)
        profiles = profiles_in(_parse(before, path)).values()  # a damaged file is not changed
        if distrust and any(isinstance(p, dict) and "api_key_command" in p for p in profiles):
            # The new file would belong to this user, so that its command would be run.
            raise SettingsError(
                f"cannot change {path}: it has an api_key_command, and {distrust}", hint=DISTRUSTED
            )
        text = before
        for where, value in changes:
            try:
                text = edit(text, where, value)
            except KeyError:
                continue
            except NotEditable as error:
                raise SettingsError(
                    f"cannot change {path} without losing comments or layout",
                    hint=f"{'Remove' if value is None else 'Set'} {'.'.join(where)} in an editor. "
                    "tinkex did not change the file.",
                ) from error
        if before or text:  # also without a change, to make the file private
            write_private(path, text)


def edit(text: str, path: list[str], value: Any) -> str:
    """Return the YAML *text* with a new value at *path*, a sequence of keys.

    :param value: the new value; ``None`` removes the old one.
    :raises NotEditable: the layout does not allow it.
    :raises KeyError: there is no value to remove.
    """
    import yaml

    expected = _with(_load(text), path, None if value is None else _load(_flow(value)))
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    try:
        changed = _changed(text, node, path, value)
        if _without_none(_load(changed)) == _without_none(expected):
            return changed
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotEditable from error
    raise NotEditable


def _with(content: Any, path: Sequence[str], value: Any) -> dict[Any, Any]:
    """Return a copy of *content* with *value* at *path*; shared parts are not changed."""
    changed = dict(content) if isinstance(content, dict) else {}
    if len(path) > 1:
        changed[path[0]] = _with(changed.get(path[0]), path[1:], value)
    elif value is None:
        del changed[path[0]]
    else:
        changed[path[0]] = value
    return changed


def _without_none(value: Any) -> Any:
    """Return *value* with None replaced by empty mappings; an empty mapping is written as null."""
    if isinstance(value, dict):
        return {key: _without_none(below) for key, below in value.items()}
    return {} if value is None else value


def _changed(text: str, node: Any, path: Sequence[str], value: Any) -> str:
    if node is None:
        return _with_newline(text) + _block({path[0]: _nested(path[1:], value)}, 0)
    name, *rest = path
    if node.id != "mapping":
        raise NotEditable
    if node.flow_style:
        return _change_flow(text, node, path, value)
    entry = next(((key, below) for key, below in node.value if key.value == name), None)
    if entry is None:
        at = _line_end(text, _end(node))
        added = _block({name: _nested(rest, value)}, node.start_mark.column)
        return _with_newline(text[:at]) + added + text[at:]
    key, below = entry
    if rest and below.id == "mapping":
        return _changed(text, below, rest, value)
    if value is None:
        line = text.rfind("\n", 0, key.start_mark.index) + 1
        return text[:line] + text[_line_end(text, _end(below)) :]
    return _replace(text, node.start_mark.column, key, below, _nested(rest, value))


def _change_flow(text: str, node: Any, path: Sequence[str], value: Any) -> str:
    """Rewrite a mapping in braces that is on one line and has no comment."""
    begin, end = node.start_mark.index, node.end_mark.index
    old = text[begin:end]
    if "\n" in old or "#" in old:
        raise NotEditable
    return text[:begin] + _flow(_with(_load(old), path, value)) + text[end:]


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _replace(text: str, column: int, key: Any, old: Any, value: Any) -> str:
    """Write *value* in place of the node *old*, in a mapping that begins at *column*."""
    begin, end = old.start_mark.index, _end(old)
    if begin < key.end_mark.index:  # an alias: its text is elsewhere
        raise NotEditable
    if isinstance(value, dict):
        head = text[:begin].rstrip(" ") + text[end : _line_end(text, end)]
        return _with_newline(head) + _block(value, column + 2) + text[_line_end(text, end) :]
    written = _flow([value])[1:-1]
    if old.id != "scalar" and not old.flow_style:  # the value begins on the next line
        colon = text.index(":", key.end_mark.index) + 1
        rest = text[colon : _line_end(text, colon)]
        return f"{text[:colon]} {written}{rest}{text[_line_end(text, end) :]}"
    if old.id == "scalar" and old.style in ("|", ">"):
        return text[:begin] + written + "\n" + text[end:]
    space = "" if text[begin - 1 : begin].isspace() else " "
    return text[:begin] + space + written + text[end:]


def _end(node: Any) -> int:
    """Return where the text of *node* ends; a block ends with its last value."""
    while node.id != "scalar" and not node.flow_style and node.value:
        last = node.value[-1]
        last = last[1] if isinstance(last, tuple) else last
        if last.start_mark.index <= node.start_mark.index:  # an alias: its text is elsewhere
            raise NotEditable
        node = last
    end: int = node.end_mark.index
    return end


def _flow(value: Any) -> str:
    return _dump(value, flow=True).rstrip("\n")


def _block(value: dict[str, Any], indent: int) -> str:
    lines = _dump(value, flow=False).splitlines(keepends=True)
    return "".join(" " * indent + line for line in lines)


def _dump(value: Any, *, flow: bool) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def as_written(dumper: Any, text: Written) -> Any:
        tag = dumper.resolve(yaml.ScalarNode, str(text), (True, False))
        return dumper.represent_scalar(tag, str(text))

    Dumper.add_representer(Written, as_written)
    dumped: str = yaml.dump(
        value,
        Dumper=Dumper,
        default_flow_style=flow,
        width=_NO_LIMIT,
        allow_unicode=True,
        sort_keys=False,
    )
    return dumped


def _with_newline(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _line_end(text: str, at: int) -> int:
    """Return the end of the line that contains the character before *at*, line break included."""
    if text[at - 1 : at] == "\n":  # in a block scalar
        return at
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1
