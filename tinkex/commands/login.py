"""Where a key that somebody logs in with is stored, and which stored key is in force.

The file of the official login holds keys of the official service. A profile that names a server of
its own holds its key itself, so that neither key is ever sent to the other server.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tinkex import files
from tinkex.config import file
from tinkex.config.credentials import KeyStore, StoredKey
from tinkex.config.values import DEFAULT_BASE_URL, ENVIRONMENT
from tinkex.exceptions import SettingsError, UsageError
from tinkex.settings import PROFILE_ORIGIN, Settings, is_of_profile

if TYPE_CHECKING:
    from tinkex.api import ApiKey

_CREDENTIAL = ("api_key", "api_key_command")


@dataclass(frozen=True)
class Place:
    """Where a key is stored.

    :ivar profile: the profile that holds it; ``None`` for the file of the official login.
    :ivar base_url: address of the service that the key is for.
    """

    profile: str | None
    base_url: str

    def __str__(self) -> str:
        if self.profile is not None:
            return f"profile {self.profile} ({file.config_path()})"
        return str(KeyStore().path)

    def exposed(self) -> str | None:
        """Return the mode of the file if others may read it."""
        return files.exposed_mode(self._file())

    def store(self, key: StoredKey) -> StoredKey:
        """Store *key*, and return it as it is stored."""
        if self.profile is not None:
            file.write_setting(self.profile, "api_key", key.key)
            return key
        store = KeyStore()
        others = [known for known in store.all() if known.key_id != key.key_id]
        # The official program sends the default key wherever it is pointed to.
        keeps = key.base_url is not None and any(known.is_default for known in others)
        key = replace(key, is_default=not keeps)
        store.add(key)
        return key

    def _file(self) -> Path:
        return KeyStore().path if self.profile is None else file.config_path()


def place_for(settings: Settings, *, in_profile: bool = False) -> Place:
    """Return where a key for the service of *settings* belongs.

    :param in_profile: the profile in force, whatever its server.
    :raises UsageError: no key is needed, or a stored one would not be used.
    """
    if not settings.needs_api_key:
        raise UsageError(
            f"{settings.base_url} is used without a key",
            hint="Name the service that is meant: --profile or --base-url.",
        )
    if in_profile and settings.profile is None:
        raise UsageError(
            "there is no profile in force to store the key in",
            hint="Name it: tinkex --profile NAME auth login --in-profile",
        )
    own = in_profile or is_of_profile(settings.base_url, settings.origins.get("base_url"))
    _refuse_if_unused(settings, own=own)
    return Place(settings.profile if own else None, settings.base_url)


def _refuse_if_unused(settings: Settings, *, own: bool) -> None:
    """Refuse to store a key while another source would be asked first."""
    named = settings.origins.get("profile") == "--profile"
    # A profile with a server and a key for it does not take one from the environment.
    stands_first = named or is_of_profile(settings.base_url, settings.origins.get("base_url"))
    for name in _CREDENTIAL:
        variable = ENVIRONMENT[name]
        if os.environ.get(variable) and not (own and stands_first):
            raise UsageError(
                f"{variable} is set, and would be used instead of a stored key",
                hint=f"First: unset {variable}",
            )
        origin = settings.origins.get(name, "")
        replaces = own and name == "api_key"
        if origin.startswith(PROFILE_ORIGIN) and not replaces:
            raise UsageError(
                f"{origin} has {name}, which would be used instead of a stored key",
                hint=f"First: tinkex --profile {settings.profile} config unset {name}",
            )


def with_key(settings: Settings, key: str, source: str) -> Settings:
    """Return *settings* with *key* in the place of theirs.

    :param source: where it comes from, in words.
    """
    origins: Mapping[str, str] = {**settings.origins, "api_key": source}
    return replace(settings, api_key=key, api_key_command=None, origins=origins)


def stored_key(settings: Settings, key: str, found: ApiKey | None, name: str | None) -> StoredKey:
    """Return what is stored for *key*.

    :param found: what the service told about it.
    :param name: what the person calls it.
    """
    key_id = found.key_id if found else sha256(key.encode()).hexdigest()[:8]
    official = settings.base_url == DEFAULT_BASE_URL
    if not official:  # two services may both have a key 1
        key_id = f"{urlsplit(settings.base_url).netloc}:{key_id}"
    elif not found:
        key_id = f"local:{key_id}"
    return StoredKey(
        key_id=key_id,
        key=key,
        name=name or (found.name if found else "") or name_of_machine(),
        note=found.note if found else None,
        organization=found.organization if found else None,
        email=found.email if found else None,
        base_url=None if official else settings.base_url,
        is_default=True,
    )


def name_of_machine() -> str:
    """Return the name of a key made for this machine."""
    return f"tinkex-{socket.gethostname().partition('.')[0] or 'unknown'}"


def profile_of_key(settings: Settings) -> str | None:
    """Return the profile that holds the key in force, or ``None`` if it comes from elsewhere."""
    origin = settings.origins.get("api_key", "")
    return settings.profile if origin.startswith(PROFILE_ORIGIN) else None


def key_in_force(settings: Settings, store: KeyStore) -> StoredKey:
    """Return the key of *store* that *settings* use, or would use without the environment.

    :raises SettingsError: there is none, or the file cannot be understood.
    """
    store.all()  # tells of a damaged file
    own = is_of_profile(settings.base_url, settings.origins.get("base_url"))
    key = store.for_address(settings.base_url, only_its_own=own)
    if key is None:
        raise SettingsError(
            f"no key is stored for {settings.base_url}", hint="See: tinkex auth list"
        )
    return key


def all_keys() -> list[tuple[StoredKey, str]]:
    """Return every stored key and where it is stored.

    :raises SettingsError: a file cannot be read or understood.
    """
    store = KeyStore()
    found = [(key, str(store.path)) for key in store.all()]
    for name, values in file.profiles_in(file.read(file.config_path())).items():
        key = values.get("api_key") if isinstance(values, Mapping) else None
        if key:
            url = values.get("base_url")
            stored = StoredKey("", str(key), name, base_url=url and str(url))
            found.append((stored, f"{PROFILE_ORIGIN}{name}"))
    return found


def exposed_files() -> list[str]:
    """Return a warning for each file with keys that others than its owner may read."""
    store = KeyStore().path
    paths = {store if where == str(store) else file.config_path() for _, where in _known()}
    return [
        f"{path} can be read by others (mode {mode}); chmod 600 {path}"
        for path in sorted(paths)
        if (mode := files.exposed_mode(path))
    ]


def _known() -> list[tuple[StoredKey, str]]:
    try:
        return all_keys()
    except SettingsError:
        return []
