"""API keys: their sources, and the file with stored keys.

A key is given as an argument, in a file, on standard input or by a command. Or it is stored in
``~/.tinker/credentials.json``, the file of the official login. Its format is the official one,
version 1::

    {"version": 1, "default": "7", "keys": {"7": {
        "type": "manual", "key": "tml-…", "name": "laptop", "note": "",
        "details": {"org_details": {"name": "…"}, "user_details": {"email": "…"}}}}}

The names in ``keys`` are the service's ids of the keys. The member ``base_url`` is specific to
tinkex: it marks the key of another server, which is sent only to that address. Unknown members are
kept, and a file that cannot be parsed is never overwritten.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tinkex.exceptions import LocalError, SettingsError, UsageError, without_keys
from tinkex.files import locked, user_path, write_private

#: Time limit of a credential command in seconds.
CREDENTIAL_COMMAND_TIMEOUT = 60
#: Prefix of every JSON Web Token (JWT).
JWT_PREFIX = "eyJ"
#: Version of the file format of stored keys.
VERSION = 1


def read_argument(argument: str, stdin: TextIO | None, what: str = "API key") -> str:
    """Return the key from ``--api-key``: *argument* itself, or read from *stdin* or ``@FILE``.

    :param what: name of the value, used in error messages.
    :raises SettingsError: the source is empty.
    :raises LocalError: the file cannot be read.
    """
    if argument != "-" and not argument.startswith("@"):
        return argument
    source = "standard input" if argument == "-" else argument[1:]
    try:
        if argument == "-":
            text = stdin.readline() if stdin is not None else ""
        else:
            text = user_path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise LocalError(f"cannot read the {what} from {source}: {why}") from error
    if not text.strip():
        raise SettingsError(
            f"no {what} in {source}",
            hint=f"Put the {what} on the first line of standard input or of the file.",
        )
    return text.strip()


def ask(question: str) -> str:
    """Ask for a key at the terminal, without showing it, and return it.

    :raises UsageError: nothing was typed.
    """
    import getpass

    try:
        key = getpass.getpass(question).strip()
    except EOFError:
        key = ""
    if not key:
        raise UsageError(
            "Cancelled: no key was entered and nothing was changed.", hint="", whole_line=True
        )
    return key


def from_command(command: str) -> str:
    """Run *command* in the shell and return the key that it prints.

    :raises SettingsError: the command fails or prints nothing.
    """
    import subprocess

    hint = "tinkex runs the command in the shell. The command must print only the key."
    try:
        done = subprocess.run(  # noqa: S602 - running the user's own command is its purpose
            command,
            shell=True,
            check=False,
            # Input piped to tinkex is not passed to the command; a terminal is.
            stdin=None if os.isatty(0) else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=CREDENTIAL_COMMAND_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise SettingsError(
            f"the credential command did not finish within {CREDENTIAL_COMMAND_TIMEOUT} s",
            hint=hint,
        ) from error
    key = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode or not key:
        what = f"exited with status {done.returncode}" if done.returncode else "printed nothing"
        raise SettingsError(f"the credential command {what}", hint=hint)
    return key


def checked(key: str) -> str:
    """Check that *key* can be sent in a header, and return it.

    :raises SettingsError: *key* cannot be sent.
    """
    # A line break in a header value would raise a less clear error later.
    if not key.isascii() or any(c.isspace() or not c.isprintable() for c in key):
        raise SettingsError(
            "the API key contains whitespace, a control character or a non-ASCII character",
            hint="An API key is a single word. Check that nothing else was copied with it.",
        )
    return key


def jwt_claims(token: str) -> Mapping[str, Any]:
    """Return the unverified claims of *token*; empty if it is not a JWT."""
    import base64

    parts = token.split(".")
    if not token.startswith(JWT_PREFIX) or len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def is_expired(key: str) -> bool:
    """Return whether *key* is a JWT that has expired; other keys do not expire."""
    import time

    try:
        return float(jwt_claims(key)["exp"]) < time.time()
    except (ValueError, KeyError, TypeError):
        return False


def mask(secret: str) -> str:
    """Return *secret* shortened so that it can be recognized but not used: ``tml-…9f3c``."""
    return f"{secret[:4]}…{secret[-4:]}" if len(secret) >= 16 else "…" if secret else ""


def masked(setting: str, value: Any) -> Any:
    """Return the *value* of a setting for display, with any key in it masked.

    A user may have put a key into another setting by mistake.
    """
    if setting == "api_key" and value:
        return mask(str(value))
    if setting == "headers" and value:
        return dict.fromkeys(value, "…") if isinstance(value, Mapping) else "…"
    if setting == "api_key_command" and value:
        return re.sub(rf"(?:tml-|{JWT_PREFIX})[\w.=-]+", lambda found: mask(found[0]), str(value))
    if isinstance(value, (list, tuple)):
        return [masked(setting, part) for part in value]
    return without_keys(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class StoredKey:
    """A key stored in the file.

    :ivar key_id: the service's id of the key, or one made by tinkex if the service has none.
    :ivar base_url: the only URL that it is sent to; ``None`` for the official service.
    :ivar is_default: whether it is used by default.
    """

    key_id: str
    key: str = field(repr=False)
    name: str = ""
    note: str | None = None
    organization: str | None = None
    email: str | None = None
    base_url: str | None = None
    is_default: bool = False


class KeyStore:
    """The keys stored in the file *path*; the default is the file of the official login."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(os.path.expanduser("~"), ".tinker", "credentials.json")

    def all(self) -> list[StoredKey]:
        """Return all keys, in file order.

        :raises SettingsError: the file cannot be read or parsed.
        """
        content = self._load()
        default = str(content.get("default"))
        return [
            StoredKey(
                key_id=key_id,
                key=record["key"],
                name=_text(record, "name") or "",
                note=_text(record, "note"),
                organization=_text(record, "details", "org_details", "name"),
                email=_text(record, "details", "user_details", "email"),
                base_url=_text(record, "base_url"),
                is_default=key_id == default,
            )
            for key_id, record in content["keys"].items()
            if _text(record, "key")
        ]

    def find(self, name: str) -> StoredKey:
        """Return the key with the id or the name *name*.

        :raises UsageError: no key has this name, or several do.
        """
        known = self.all()
        found = [k for k in known if k.key_id == name] or [k for k in known if k.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(key.key_id for key in found)
            raise UsageError(
                f"several stored keys are named {name!r}", hint=f"Use one of the ids: {ids}."
            )
        names = ", ".join(key.name or key.key_id for key in known) or "none"
        raise UsageError(f"no stored key named {name!r}", hint=f"Stored keys: {names}.")

    def for_address(self, base_url: str, *, only_its_own: bool) -> StoredKey | None:
        """Return the key stored for the service at *base_url*, or the default key.

        Never raises: a file that cannot be read counts as empty.

        :param only_its_own: do not return the default key.
        """
        try:
            known = sorted(self.all(), key=lambda key: not key.is_default)
        except SettingsError:
            return None
        own = [key for key in known if key.base_url == base_url]
        if not only_its_own:
            own += [key for key in known if key.is_default and key.base_url is None]
        return own[0] if own else None

    def addresses(self) -> list[str]:
        """Return the URLs that keys are stored for, except the official one.

        Never raises: a file that cannot be read counts as empty.
        """
        try:
            return sorted({key.base_url for key in self.all() if key.base_url})
        except SettingsError:
            return []

    def add(self, key: StoredKey) -> None:
        """Store *key* under its id, replacing a key with the same id.

        :raises LocalError: the file cannot be written.
        """
        with self._changing() as content:
            old = content["keys"].get(key.key_id)
            content["keys"][key.key_id] = _record(key, old if isinstance(old, dict) else {})
            if key.is_default:
                content["default"] = key.key_id

    def remove(self, *key_ids: str) -> None:
        """Remove the keys with these ids; clear the default if it is one of them."""
        with self._changing() as content:
            for key_id in key_ids:
                content["keys"].pop(key_id, None)
            if content.get("default") in key_ids:
                del content["default"]

    def set_default(self, key_id: str) -> None:
        """Make the key with this id the default."""
        with self._changing() as content:
            if key_id not in content["keys"]:
                raise UsageError(f"the key {key_id} is no longer stored")
            content["default"] = key_id

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        with locked(self.path):
            content = self._load()
            yield content
            write_private(self.path, json.dumps(content, indent=2))

    def _load(self) -> dict[str, Any]:
        """Return the content of the file, including ``keys``."""
        verb, problem = "parse", "it is not JSON"
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            problem = f"it is not in format version {VERSION}"
            keys = content.setdefault("keys", {})
            if content.setdefault("version", VERSION) == VERSION and isinstance(keys, dict):
                return content  # type: ignore[no-any-return]
        except FileNotFoundError:
            return {"version": VERSION, "keys": {}}
        except OSError as error:
            verb, problem = "read", str(error.strerror)
        except (ValueError, RecursionError, AttributeError):
            pass
        raise SettingsError(
            f"cannot {verb} {self.path}: {problem}",
            hint="To start over, move or rename the file. tinkex did not change it.",
        )


def _text(value: Any, *path: str) -> str | None:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None


def _record(key: StoredKey, old: Mapping[str, Any]) -> dict[str, Any]:
    """Return *key* as a record for the file; the official client requires all details or none."""
    kind = old.get("type", "manual") if old.get("key") == key.key else "manual"
    new: dict[str, Any] = {"type": kind, "key": key.key, "name": key.name}
    if key.note is not None:
        new["note"] = key.note
    if key.organization is not None and key.email is not None:
        new["details"] = {
            "org_details": {"name": key.organization},
            "user_details": {"email": key.email},
        }
    if key.base_url is not None:
        new["base_url"] = key.base_url
    return {**old, **new}
