"""The configuration file: where it is, what it says, and changes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinkex import private
from tinkex.exceptions import SettingsError
from tinkex.files import user_path

CONFIG_VARIABLE = "TINKEX_CONFIG"
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
    name: str, values: Mapping[str, Any] | None, environ: Mapping[str, str] | None = None
) -> None:
    """Write the profile *name* with *values* in the place of what it was; ``None`` removes it.

    :raises SettingsError: the file cannot be read or changed.
    :raises LocalError: it cannot be written.
    """
    _change(config_path(environ), ["profiles", name], values if values is None else dict(values))


def write_setting(
    profile: str, name: str, value: Any, environ: Mapping[str, str] | None = None
) -> None:
    """Write one setting of *profile*, which is created if need be; ``None`` removes it.

    :raises SettingsError: the file cannot be read or changed.
    :raises LocalError: it cannot be written.
    """
    _change(config_path(environ), ["profiles", profile, name], value)


def _change(path: Path, where: list[str], value: Any) -> None:
    from tinkex import yamledit

    with private.locked(path):
        text = _text(path)
        _content(text, path)  # what is damaged stays as it is
        try:
            drops = value is None
            text = yamledit.drop(text, where) if drops else yamledit.put(text, where, value)
        except KeyError:
            return
        except yamledit.NotEditable as error:
            raise SettingsError(
                f"{path} is laid out in a way that cannot be changed without losing something",
                hint=f"Change {': '.join(where)} in an editor; the file is as it was.",
            ) from error
        private.write(path, text)


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
