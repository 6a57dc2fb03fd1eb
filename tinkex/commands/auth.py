"""Store, select, show and remove API keys.

The official login file holds keys for the official service. A profile that specifies another server
holds its own key, so that a key is never sent to the wrong server.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from cliff.columns import FormattableColumn

from tinkex.cli.errors import hint_for
from tinkex.columns import plain_text
from tinkex.commands.base import Lister, ShowOne
from tinkex.config import credentials, file
from tinkex.config.credentials import KeyStore, StoredKey
from tinkex.config.values import CREDENTIAL, DEFAULT_BASE_URL, ENVIRONMENT
from tinkex.exceptions import Forbidden, SettingsError, TinkexError, Unauthorized, UsageError
from tinkex.files import exposed_mode
from tinkex.options import non_empty
from tinkex.settings import PROFILE_ORIGIN, Settings, is_of_profile

if TYPE_CHECKING:
    from tinkex.api import ApiKey, KeyCheck

_NOT_KNOWN = "so tinkex cannot check whether this key is valid"


class LoginAuth(ShowOne):
    """Ask for an API key, check it, and store it."""

    is_action = True
    column_names = ("name", "key_id", "key", "organization", "email", "base_url", "stored_in")
    examples = (
        "tinkex auth login",
        "pass show tinker | tinkex auth login --with-token",
        "tinkex --profile skyrl auth login",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--with-token", action="store_true", help="read the key from standard input"
        )
        parser.add_argument(
            "--name",
            metavar="<text>",
            type=non_empty,
            help="name to store the key under (default: its name on the service)",
        )
        parser.add_argument(
            "--in-profile",
            action="store_true",
            help="store the key in the active profile (default if the profile sets a server)",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.api.paths import console_page

        profile = _profile_to_store_in(self.settings, in_profile=parsed_args.in_profile)
        name = parsed_args.name
        page = console_page(self.settings.base_url, "keys")
        if page:
            page += f"?new_key=true&key_name={quote(name or _machine_name(), safe='')}"
        key, source = self._key(parsed_args, page)
        origins = {**self.settings.origins, "api_key": source}
        trial = replace(self.settings, api_key=key, api_key_command=None, origins=origins)
        if warning := trial.key_warning():
            self.status(warning)
        found = self._checked(trial)
        stored = _stored_key(trial, key, found, name)
        if profile is None:
            where = str(KeyStore().path)
            self._store(stored)
        else:
            where = f"profile {profile} ({file.config_path()})"
            file.write_setting(profile, "api_key", key)
        self.result = stored
        shown = (stored.name, stored.key_id, credentials.mask(key), stored.organization)
        return self.column_names, (*shown, stored.email, trial.base_url, where)

    def _key(self, parsed_args: argparse.Namespace, page: str | None) -> tuple[str, str]:
        """Return the key and where it comes from.

        :param page: URL of the page for creating a key, if known.
        """
        stdin = self.app.stdin
        # Do not store the key that the interactive shell was started with.
        on_this_line = hasattr(parsed_args, "api_key") or not self.app.interactive_mode
        if on_this_line and self.settings.origins.get("api_key") == "--api-key":
            return credentials.checked(self.settings.api_key or ""), "--api-key"
        if parsed_args.with_token:
            key = credentials.read_argument("-", stdin)
            return credentials.checked(key), "standard input"
        if not stdin or not stdin.isatty():
            raise UsageError(
                "cannot ask for the key: standard input is not a terminal",
                hint="Pass the key on standard input: … | tinkex auth login --with-token",
            )
        if page:
            self.status(f"Create a key here: {page}")
        self.app.display.clear()
        key = credentials.ask(f"API key for {self.settings.base_url}: ")
        return credentials.checked(key), "the terminal"

    def _checked(self, trial: Settings) -> ApiKey | None:
        """Check the key of *trial*; return what the service reports about it."""
        try:
            check = self.app.client_for(trial).auth.check()
        except (Unauthorized, Forbidden) as error:
            error.hint = (
                "Nothing was stored. Check that the key is complete and valid for this server."
            )
            raise
        if check.api_key is None:
            verdict = "but it accepts this key" if check.is_proved else _NOT_KNOWN
            self.status(f"This server provides no information about keys, {verdict}.")
        return check.api_key

    def _store(self, key: StoredKey) -> None:
        """Store *key* in the official login file."""
        store = KeyStore()
        if key.base_url is not None:
            self.status(f"tinkex sends this key only to {key.base_url}.")
            # The official program sends the default key to any server.
            if any(other.is_default and other.key_id != key.key_id for other in store.all()):
                key = replace(key, is_default=False)
            else:
                self.status(
                    "The official command line sends the key to any server. To keep the key in a "
                    f"profile instead: tinkex auth logout {shlex.quote(key.name or key.key_id)} && "
                    f"tinkex profile add NAME --base-url {key.base_url} && "
                    "tinkex --profile NAME auth login"
                )
        store.add(key)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        who = f" as {record['email']}" if record["email"] else ""
        who += f" ({record['organization']})" if record["organization"] else ""
        where = plain_text(record["stored_in"])
        return [plain_text(f"Logged in{who}: stored the key {record['name']!r} in {where}")]


class LogoutAuth(Lister):
    """Remove stored keys without revoking them."""

    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "key_id", "stored_in")
    examples = ("tinkex auth logout", "tinkex auth logout laptop", "tinkex auth logout --all")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "name",
            metavar="<key_name>",
            nargs="?",
            help="name or id of a stored key (default: the stored key in use)",
        )
        parser.add_argument(
            "--all",
            action="store_true",
            help="remove all keys in the official login file; keys in profiles are kept",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if parsed_args.all and parsed_args.name is not None:
            raise UsageError("use either a key name or --all", hint="Omit one of the two.")
        rows = self._remove(parsed_args)
        self.result = [row[0] or row[1] for row in rows]
        for name in CREDENTIAL:
            if os.environ.get(ENVIRONMENT[name]):
                self.status(f"{ENVIRONMENT[name]} is still set and will be used.")
        return self.column_names, rows

    def _remove(self, parsed_args: argparse.Namespace) -> list[tuple[Any, ...]]:
        from tinkex.api.paths import console_page

        store = KeyStore()
        if parsed_args.all:
            chosen = store.all()
        elif parsed_args.name is not None:
            chosen = [store.find(parsed_args.name)]
        else:
            settings = self.settings
            if settings.origins.get("api_key", "").startswith(PROFILE_ORIGIN):
                profile = str(settings.profile)
                file.write_setting(profile, "api_key", None)
                return [(profile, None, f"profile {profile}")]
            chosen = [_stored_key_in_use(settings, store)]
        if chosen:
            store.remove(*(key.key_id for key in chosen))
        else:
            self.status("There are no stored keys.")
        for key in chosen:
            if key.base_url is None and key.key_id.isdecimal():
                page = console_page(DEFAULT_BASE_URL, "keys", key.key_id)
                self.status(f"The key is still valid. To revoke it: {page}")
        return [(key.name, key.key_id, str(store.path)) for key in chosen]

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        name = plain_text(record["name"]) or plain_text(record["key_id"])
        return f"Removed the key {name!r} from {plain_text(record['stored_in'])}"


class SwitchAuth(ShowOne):
    """Switch to another key in the official login file."""

    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "key_id", "organization", "email", "stored_in")
    examples = ("tinkex auth switch laptop", "tinkex auth switch 7")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "name",
            metavar="<key_name>",
            help="name or id of a stored key; see 'tinkex auth status --offline'",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        store = KeyStore()
        key = store.find(parsed_args.name)
        if key.base_url is not None:
            raise UsageError(
                f"cannot switch to the key {key.name!r}, which is always used for {key.base_url}",
                hint="Choose a key for the hosted service; see 'tinkex auth status --offline'.",
            )
        store.set_default(key.key_id)
        self.result = replace(key, is_default=True)
        try:
            origin = self.settings.origins.get("api_key") or "the profile"
            if origin != str(store.path):
                self.status(f"The key in use comes from {origin}, not from the login file.")
        except SettingsError as error:
            self.app.warn(f"{error}")
        values = (getattr(key, name) for name in self.column_names[:-1])
        return self.column_names, (*values, str(store.path))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Using the key {plain_text(record['name'] or record['key_id'])!r}"]


class StatusAuth(ShowOne):
    """Show the key in use and all stored keys."""

    column_names = (
        *("base_url", "profile", "key", "key_origin", "key_name", "organization", "email"),
        *("latency_ms", "stored_keys"),
    )
    examples = ("tinkex auth status", "tinkex auth status --offline -f json")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--offline", action="store_true", help="show the stored keys without sending a request"
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        settings = self.settings
        origin = next((o for name in CREDENTIAL if (o := settings.origins.get(name))), None)
        stored = list(_stored_keys(settings))
        config, store = file.config_path(), KeyStore().path
        for path in {store if key["stored_in"] == str(store) else config for key in stored}:
            if mode := exposed_mode(path):
                self.app.warn(f"other users can read {path} (mode {mode}). Run: chmod 600 {path}")
        check = None if parsed_args.offline else self._check(origin)
        key = check and check.api_key
        return self.column_names, (
            settings.base_url,
            settings.profile,
            credentials.mask(settings.api_key or ""),
            (origin or "not set") if settings.needs_api_key else "not needed",
            key and key.name,
            key and key.organization,
            key and key.email,
            check and round(check.seconds * 1000),
            StoredKeys(stored),
        )

    def _check(self, origin: str | None) -> KeyCheck:
        """Query the service about the key, which comes from *origin*."""
        try:
            self.result = check = self.client.auth.check()
        except TinkexError as error:
            known = getattr(error, "key_origin", None) or not self.settings.needs_api_key
            if origin and not known:
                error.hint = f"The key comes from {origin}. {hint_for(error) or ''}".rstrip()
            raise
        if not check.is_proved:
            self.status(f"This server provides no information about keys, {_NOT_KNOWN}.")
        return check

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        shown = {k: v for k, v in record.items() if k != "stored_keys"}
        lines = record["stored_keys"].human_readable().splitlines()
        return [*super().plain_lines(shown), *(f"Stored key: {line}" for line in lines)]


class WhoamiAuth(ShowOne):
    """Show the user and organization of the key in use."""

    column_names = ("email", "organization", "user_urn", "org_urn", "key_name", "key_id")
    examples = ("tinkex auth whoami", "tinkex auth whoami -f json -c email")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        _require_keys(self.settings)
        self.result = who = self.client.auth.identity()
        return self.column_names, tuple(getattr(who, name) for name in self.column_names)


class StoredKeys(FormattableColumn[list[dict[str, Any]]]):
    """Stored keys: displayed one per line; objects in machine-readable formats."""

    def human_readable(self) -> str:
        return "\n".join(
            f"{plain_text(key['name'] or key['key_id'])}{' (in use)' if key['in_use'] else ''}: "
            f"{key['key']}, in {plain_text(_below_home(key['stored_in']))}"
            for key in self._value
        )


def _below_home(path: str) -> str:
    """Return *path* with ``~`` for the home directory, so that a line fits a terminal."""
    home = os.path.expanduser("~").rstrip("/") + "/"
    return f"~/{path.removeprefix(home)}" if path.startswith(home) else path


def _profile_to_store_in(settings: Settings, *, in_profile: bool) -> str | None:
    """Return the profile to store a key in; ``None`` for the official login file.

    :param in_profile: use the active profile even if it specifies no server.
    :raises UsageError: the server needs no key, or a stored key would not be used.
    """
    _require_keys(settings)
    if in_profile and settings.profile is None:
        raise UsageError(
            "there is no active profile to store the key in",
            hint="Specify the profile: tinkex --profile NAME auth login --in-profile",
        )
    own = is_of_profile(settings.base_url, settings.origins.get("base_url"))
    _refuse_if_unused(settings, into_profile=in_profile or own)
    return settings.profile if in_profile or own else None


def _require_keys(settings: Settings) -> None:
    if not settings.needs_api_key:
        raise UsageError(
            f"{settings.base_url} does not require a key",
            hint="Choose another server with --profile or --base-url.",
        )


def _refuse_if_unused(settings: Settings, *, into_profile: bool) -> None:
    """Refuse to store a key while another source takes precedence."""
    named = settings.origins.get("profile") == "--profile"
    # A profile with a server and its key ignores the key in the environment.
    precedes = named or is_of_profile(settings.base_url, settings.origins.get("base_url"))
    for name in CREDENTIAL:
        variable = ENVIRONMENT[name]
        if os.environ.get(variable) and not (into_profile and precedes):
            raise UsageError(
                f"{variable} is set and would be used instead of a stored key",
                hint=f"Before you log in, run: unset {variable}",
            )
        origin = settings.origins.get(name, "")
        replaces = into_profile and name == "api_key"
        if origin.startswith(PROFILE_ORIGIN) and not replaces:
            unset = f"tinkex --profile {settings.profile} config unset {name}"
            raise UsageError(
                f"{origin} sets {name}, which would be used instead of a stored key",
                hint=f"Before you log in, run: {unset}",
            )


def _stored_key(settings: Settings, key: str, found: ApiKey | None, name: str | None) -> StoredKey:
    """Return the record to store for *key*.

    :param found: what the service reported about it.
    :param name: the user's name for it.
    """
    key_id = found.key_id if found else hashlib.sha256(key.encode()).hexdigest()[:8]
    official = settings.base_url == DEFAULT_BASE_URL
    if not official:  # two services may both have a key 1
        key_id = f"{urlsplit(settings.base_url).netloc}:{key_id}"
    elif not found:
        key_id = f"local:{key_id}"
    return StoredKey(
        key_id=key_id,
        key=key,
        name=name or (found.name if found else "") or _machine_name(),
        note=found.note if found else None,
        organization=found.organization if found else None,
        email=found.email if found else None,
        base_url=None if official else settings.base_url,
        is_default=True,
    )


def _machine_name() -> str:
    """Return the name of a key created for this machine."""
    return f"tinkex-{socket.gethostname().partition('.')[0] or 'unknown'}"


def _stored_key_in_use(settings: Settings, store: KeyStore) -> StoredKey:
    """Return the key of *store* that *settings* use, or would use without the environment.

    :raises SettingsError: there is none, or the file cannot be parsed.
    """
    store.all()  # reports a damaged file
    own = is_of_profile(settings.base_url, settings.origins.get("base_url"))
    key = store.for_address(settings.base_url, only_its_own=own)
    if key is None:
        raise SettingsError(
            f"no key is stored for {settings.base_url}",
            hint="To see the stored keys: tinkex auth status --offline",
        )
    return key


def _stored_keys(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield every stored key and where it is: in a file or a profile; the key is masked.

    :raises SettingsError: a file cannot be read or parsed.
    """
    store = KeyStore()
    found = [(key, str(store.path)) for key in store.all()]
    for name, values in file.profiles_in(file.read(file.config_path())).items():
        if isinstance(values, Mapping) and values.get("api_key"):
            key = StoredKey("", str(values["api_key"]), name, base_url=values.get("base_url"))
            found.append((key, f"{PROFILE_ORIGIN}{name}"))
    for key, stored_in in found:
        yield {
            "name": key.name,
            "key_id": key.key_id or None,
            "in_use": (settings.api_key, settings.origins.get("api_key")) == (key.key, stored_in),
            "key": credentials.mask(key.key),
            "organization": key.organization,
            "email": key.email,
            "base_url": key.base_url,
            "stored_in": stored_in,
        }
