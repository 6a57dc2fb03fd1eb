"""The configuration file: where it is, what it says, and changes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinkex.config import private
from tinkex.exceptions import SettingsError
from tinkex.files import user_path

CONFIG_VARIABLE = "TINKEX_CONFIG"
#: Where a value stands, as a key of each mapping on the way, and what it shall be; None removes it.
_Change = tuple[list[str], Any]
_MEND = f"Mend it in an editor, or let {CONFIG_VARIABLE} name another file."


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of the configuration file, which need not exist."""
    environ = os.environ if environ is None else environ
    if environ.get(CONFIG_VARIABLE):
        return user_path(environ[CONFIG_VARIABLE])
    base = environ.get("XDG_CONFIG_HOME")
    # Unlike Path.home(), expanduser() does not fail for a user without a home.
    return Path(base or os.path.expanduser("~/.config"), "tinkex", "config.yaml")


def read(path: Path) -> Mapping[str, Any]:
    """Return what the configuration file *path* says; nothing where there is none.

    :raises SettingsError: it cannot be read, or is no configuration file.
    """
    return _content(_text(path), path)


def profiles_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profiles that *config*, the content of a configuration file, has written out."""
    return {str(name): values for name, values in (config.get("profiles") or {}).items()}


def write_default(name: str | None, environ: Mapping[str, str] | None = None) -> None:
    """Make *name* the profile that is used when none is named; ``None`` for none.

    :raises SettingsError: the file cannot be read or changed.
    :raises LocalError: it cannot be written.
    """
    _change(config_path(environ), ["profile"], name)


def write_profile(
    name: str,
    values: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    *,
    use: bool = False,
) -> None:
    """Write the profile *name* with *values* in the place of what it was.

    :param use: also make it the profile that is used when none is named, in the same step.
    :raises SettingsError: the file cannot be read or changed.
    :raises LocalError: it cannot be written.
    """
    changes: list[_Change] = [(["profiles", name], dict(values))]
    _change_all(config_path(environ), [*changes, *([(["profile"], name)] if use else [])])


def remove_profile(name: str, environ: Mapping[str, str] | None = None) -> None:
    """Remove the profile *name*; if it is used when none is named, none is from then on.

    :raises SettingsError: the file cannot be read or changed.
    :raises LocalError: it cannot be written.
    """
    path = config_path(environ)
    changes: list[_Change] = [(["profiles", name], None)]
    is_default = str(read(path).get("profile")) == name
    _change_all(path, [*changes, *([(["profile"], None)] if is_default else [])])


def write_setting(
    profile: str, name: str, value: Any, environ: Mapping[str, str] | None = None
) -> None:
    """Write one setting of *profile*, which is created if need be; ``None`` removes it.

    :raises SettingsError: the file cannot be read or changed.
    :raises LocalError: it cannot be written.
    """
    _change(config_path(environ), ["profiles", profile, name], value)


def _change(path: Path, where: list[str], value: Any) -> None:
    _change_all(path, [(where, value)])


def _change_all(path: Path, changes: Sequence[_Change]) -> None:
    """Make all of *changes*, or none."""
    with private.locked(path):
        before = text = _text(path)
        _content(text, path)  # what is damaged stays as it is
        for where, value in changes:
            text = _changed(text, where, value, path)
        if before or text:  # also what stays as it is: nobody else may read it afterwards
            private.write(path, text)


def _changed(text: str, where: list[str], value: Any, path: Path) -> str:
    from tinkex.config import yamledit

    try:
        drops = value is None
        return yamledit.drop(text, where) if drops else yamledit.put(text, where, value)
    except KeyError:
        return text
    except yamledit.NotEditable as error:
        raise SettingsError(
            f"{path} is laid out in a way that cannot be changed without losing something",
            hint=f"Change {': '.join(where)} in an editor; the file is as it was.",
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {_reason(error)}", hint=_MEND) from error


def _content(text: str, path: Path) -> Mapping[str, Any]:
    if not text.strip():
        return {}  # most have no such file: nothing to import for it
    import json

    import yaml

    try:
        config = yaml.safe_load(text)
        json.dumps(config, default=str, skipkeys=True)  # fails where a value holds itself
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        # Dates out of range, endless nesting, values that are not what their tag says.
        raise SettingsError(f"{path} is not valid YAML", hint=_MEND) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path} is not valid YAML{where}", hint=_MEND) from error
    if config is None:
        return {}
    if not isinstance(config, dict) or not isinstance(config.get("profiles") or {}, dict):
        raise SettingsError(f"{path} must be a mapping with 'profile' and 'profiles'", hint=_MEND)
    return config


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not UTF-8 text"
