"""Stored API keys: ``~/.tinker/credentials.json``, the file of the official login.

The format is the official one, version 1::

    {"version": 1, "default": "7", "keys": {"7": {
        "type": "manual", "key": "tml-…", "name": "laptop", "note": "",
        "details": {"org_details": {"name": "…"}, "user_details": {"email": "…"}}}}}

The members of ``keys`` are named by the id that the service has for the key. One member is ours: a
record with ``base_url`` is the key of another server than the official one, and is sent to that
address only. Members that are not known are kept, and a file that cannot be understood is never
written over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinkex.config import private
from tinkex.exceptions import SettingsError, UsageError

VERSION = 1


@dataclass(frozen=True)
class StoredKey:
    """A key of the file.

    :ivar key_id: the service's id of the key, or one of ours where the service has none.
    :ivar kind: ``manual``, or ``generated`` for one that an old official login made for itself.
    :ivar base_url: the only address that it is sent to; ``None`` for the official service's.
    :ivar is_default: it is the key that is used.
    """

    key_id: str
    key: str = field(repr=False)
    name: str = ""
    note: str | None = None
    kind: str = "manual"
    organization: str | None = None
    email: str | None = None
    base_url: str | None = None
    is_default: bool = False


class KeyStore:
    """The keys of the file *path*."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    def all(self) -> list[StoredKey]:
        """Return all keys in the order of the file.

        :raises SettingsError: the file cannot be read or understood.
        """
        return _keys_in(self._load())

    def find(self, name: str) -> StoredKey:
        """Return the key with the id or the name *name*.

        :raises UsageError: there is none, or several have this name.
        """
        known = self.all()
        found = [k for k in known if k.key_id == name] or [k for k in known if k.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(key.key_id for key in found)
            raise UsageError(
                f"several keys are called {name!r}", hint=f"Give one of the ids: {ids}."
            )
        names = ", ".join(key.name or key.key_id for key in known) or "none"
        raise UsageError(f"no stored key is called {name!r}", hint=f"Stored: {names}.")

    def add(self, key: StoredKey) -> None:
        """Store *key* under its id, in the place of one that has it.

        :raises LocalError: the file cannot be written.
        """

        def change(content: dict[str, Any]) -> None:
            records = content.setdefault("keys", {})
            old = records.get(key.key_id)
            records[key.key_id] = _record(key, old if isinstance(old, dict) else {})
            if key.is_default:
                content["default"] = key.key_id

        self._change(change)

    def remove(self, *key_ids: str) -> None:
        """Forget the keys with these ids; afterwards none of them is the default."""

        def change(content: dict[str, Any]) -> None:
            for key_id in key_ids:
                content["keys"].pop(key_id, None)
            if content.get("default") in key_ids:
                del content["default"]

        self._change(change)

    def set_default(self, key_id: str) -> None:
        """Make the key with this id the one that is used."""

        def change(content: dict[str, Any]) -> None:
            if key_id not in content["keys"]:
                raise UsageError(f"the key {key_id} is no longer stored")
            content["default"] = key_id

        self._change(change)

    def for_address(self, base_url: str, *, only_its_own: bool) -> StoredKey | None:
        """Return the key for the service at *base_url*: one stored for it, or else the default.

        Never raises: a file that cannot be read has no key.

        :param only_its_own: a key that was not stored for this very address is not wanted.
        """
        try:
            known = self.all()
        except SettingsError:
            return None
        known.sort(key=lambda key: not key.is_default)
        own = [key for key in known if key.base_url == base_url]
        shared = [key for key in known if key.is_default and key.base_url is None]
        return next(iter([*own, *([] if only_its_own else shared)]), None)

    def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        with private.locked(self.path):
            content = self._load()
            change(content)
            private.write(self.path, json.dumps(content, indent=2))

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"version": VERSION, "keys": {}}
        except OSError as error:
            raise SettingsError(f"cannot read {self.path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise self._damaged("it is not JSON") from error
        if not isinstance(content, dict) or not isinstance(content.setdefault("keys", {}), dict):
            raise self._damaged("it has no 'keys'")
        if content.setdefault("version", VERSION) != VERSION:
            raise self._damaged(f"its version is not {VERSION}")
        return content

    def _damaged(self, why: str) -> SettingsError:
        return SettingsError(
            f"{self.path} cannot be understood: {why}",
            hint="It is left as it is; move it away to begin with an empty one.",
        )


def default_path() -> Path:
    """Return where the official login keeps its keys."""
    return Path(os.path.expanduser("~"), ".tinker", "credentials.json")


def _keys_in(content: Mapping[str, Any]) -> list[StoredKey]:
    default = content.get("default")
    return [
        _stored(key_id, record, is_default=key_id == str(default))
        for key_id, record in content["keys"].items()
        if isinstance(record, dict) and isinstance(record.get("key"), str) and record["key"]
    ]


def _stored(key_id: str, record: Mapping[str, Any], *, is_default: bool) -> StoredKey:
    details = record.get("details")
    return StoredKey(
        key_id=key_id,
        key=record["key"],
        name=_text(record, "name") or "",
        note=_text(record, "note"),
        kind=_text(record, "type") or "manual",
        organization=_text(details, "org_details", "name"),
        email=_text(details, "user_details", "email"),
        base_url=_text(record, "base_url"),
        is_default=is_default,
    )


def _text(value: Any, *path: str) -> str | None:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None


def _record(key: StoredKey, old: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is written for *key*; the official reader wants details whole or not at all."""
    generated = old.get("type") == "generated" and old.get("key") == key.key
    new: dict[str, Any] = {
        "type": "generated" if generated else "manual",
        "key": key.key,
        "name": _writable(key.name),
    }
    if key.note is not None:
        new["note"] = _writable(key.note)
    if key.organization is not None and key.email is not None:
        new["details"] = {
            "org_details": {"name": _writable(key.organization)},
            "user_details": {"email": _writable(key.email)},
        }
    if key.base_url is not None:
        new["base_url"] = key.base_url
    return {**old, **new}


def _writable(text: str) -> str:
    """Return *text* without halves of surrogate pairs, which a strict JSON reader refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")
