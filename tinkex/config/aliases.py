"""Aliases: names that the user gives to checkpoints, such as ``@prod``.

A file next to the configuration file contains them as a JSON object, name → ``tinker://`` path.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinkex.config.file import DISTRUSTED, config_path
from tinkex.exceptions import InvalidName, LocalError, SettingsError, UsageError, a_few
from tinkex.files import locked, why_not_trusted, write_private

#: Name of the file with the aliases.
FILE = "aliases.json"
#: Names that have another meaning after ``@``, see :mod:`tinkex.api.resources.names`.
RESERVED = frozenset({"latest"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def aliases_path() -> Path:
    """Return the path of the file with the aliases, which need not exist."""
    return config_path().with_name(FILE)


def read() -> dict[str, str]:
    """Return all aliases: name → path of the checkpoint, sorted by name.

    :raises SettingsError: the file cannot be read, is not valid, or others can write to it.
    """
    path = aliases_path()
    try:
        with path.open(encoding="utf-8") as stream:
            # Another user's file could direct a command to another checkpoint.
            distrust = why_not_trusted(os.fstat(stream.fileno()))
            text = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SettingsError(
            f"cannot read {path}: {reason}", hint="Check the file's permissions and encoding."
        ) from error
    if distrust:
        raise SettingsError(f"cannot use {path}: {distrust}", hint=DISTRUSTED)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(item, str) for item in found.values()):
        raise SettingsError(
            f"{path} is not a JSON object that maps names to paths",
            hint="Fix the file in an editor, or remove it and set the aliases again.",
        )
    return dict(sorted(found.items()))


def expand(text: str) -> str:
    """Return the path of the checkpoint if *text* is an alias such as ``@prod``, else *text*.

    :raises InvalidName: it looks like an alias, but no alias has this name.
    :raises SettingsError: see :func:`read`.
    """
    name = text.removeprefix("@")
    if name == text or not _NAME.fullmatch(name) or name in RESERVED:
        return text
    known = read()
    if name not in known:
        near = difflib.get_close_matches(name, [*known, *RESERVED], n=1)
        hint = f"Did you mean @{near[0]}?" if near else None
        raise InvalidName(f"no alias named {text}", resource="alias", hint=hint)
    return known[name]


def checked_name(text: str) -> str:
    """Return the name of an alias in *text*, which may begin with ``@``.

    :raises UsageError: it cannot be the name of an alias.
    """
    name = text.removeprefix("@")
    if name.lower() in RESERVED:
        raise UsageError(
            f"@{name} cannot be an alias because it refers to the newest checkpoint",
            hint="Choose another name.",
        )
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"invalid alias name: {text[:40]!r}",
            hint="Use up to 64 letters, digits, '-', '_' and '.', starting with a letter or digit.",
        )
    return name


def write(name: str, path: str) -> str | None:
    """Set the alias *name*, checked by :func:`checked_name`, to *path*; return its previous path.

    :raises LocalError: the file cannot be written, or another process is changing it.
    :raises SettingsError: see :func:`read`.
    """
    with _changing() as known:
        previous = known.get(name)
        known[name] = path
    return previous


def remove(names: list[str]) -> dict[str, str]:
    """Remove the aliases *names*, or none if one does not exist; return them with their paths.

    :raises InvalidName: one of these aliases does not exist.
    :raises LocalError: see :func:`write`.
    :raises SettingsError: see :func:`read`.
    """
    with _changing() as known:
        for name in names:
            if name not in known:
                hint = f"Known aliases: {a_few([f'@{each}' for each in known])}." if known else None
                raise InvalidName(f"no alias named @{name}", resource="alias", hint=hint)
        return {name: known.pop(name) for name in dict.fromkeys(names)}


@contextmanager
def _changing() -> Iterator[dict[str, str]]:
    """Lock the file, yield its content, and write the content back if the block succeeds."""
    config, path = config_path(), aliases_path()
    if config.exists() and not config.is_file():  # /dev/null turns the configuration off
        raise LocalError(
            f"cannot store aliases next to {config}, which is not a regular file",
            hint="Set TINKEX_CONFIG to a regular file, or unset it.",
        )
    with locked(path):
        known = read()
        yield known
        write_private(path, json.dumps(dict(sorted(known.items())), indent=2) + "\n")
