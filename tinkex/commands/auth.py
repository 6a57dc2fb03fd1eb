"""API keys: storing them, choosing among them, and asking the service about them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tinkex.cli.errors import hint_for
from tinkex.columns import Flag, plain_text
from tinkex.commands.base import Lister, ShowOne
from tinkex.config import credentials
from tinkex.exceptions import Forbidden, SettingsError, TinkexError, Unauthorized, UsageError
from tinkex.options import non_empty

if TYPE_CHECKING:
    from tinkex.api import ApiKey
    from tinkex.config.credentials import StoredKey
    from tinkex.settings import Settings


class LoginAuth(ShowOne):
    """Ask for an API key, have the service check it, and store it."""

    is_action = True
    column_names = ("name", "key_id", "key", "organization", "email", "base_url", "stored_in")
    examples = (
        "tinkex auth login",
        "pass show tinker | tinkex auth login --with-token",
        "tinkex --profile skyrl auth login",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--with-token",
            action="store_true",
            help="read the key from standard input, without a question",
        )
        parser.add_argument(
            "--name",
            metavar="<text>",
            type=non_empty,
            help="name to store the key under (default: the name it has with the service)",
        )
        parser.add_argument(
            "--in-profile",
            action="store_true",
            help="store the key in the profile in force; it is stored there anyhow if the profile "
            "names a server of its own",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.commands import login

        place = login.place_for(self.settings, in_profile=parsed_args.in_profile)
        key, source = self._key(parsed_args, place)
        trial = login.with_key(self.settings, key, source)
        warning = trial.key_warning()
        if warning:
            self.status(warning)
        found = self._checked(trial)
        if found is None:
            self.status("This server offers no information about keys; it answers with this one.")
        stored = login.stored_key(trial, key, found, parsed_args.name)
        exposed = place.exposed()
        stored = place.store(stored)
        if exposed:
            self.app.warn(f"{place} could be read by others (mode {exposed}); no longer.")
        if place.profile is None and stored.base_url is not None:
            self._tell_about_address(stored)
        self.result = stored
        return self.column_names, (
            stored.name,
            stored.key_id,
            credentials.mask(key),
            stored.organization,
            stored.email,
            trial.base_url,
            str(place),
        )

    def _checked(self, trial: Settings) -> ApiKey | None:
        """Return what the service tells about the key of *trial*, which it takes."""
        try:
            return self.app.client_for(trial).auth.check().api_key
        except (Unauthorized, Forbidden) as error:
            error.hint = "Nothing was stored. Is it the whole key, and one for this server?"
            raise

    def _tell_about_address(self, stored: StoredKey) -> None:
        self.status(f"tinkex sends this key to {stored.base_url} only.")
        if stored.is_default:
            self.status(
                "The official command line sends it wherever it is pointed; a profile keeps it "
                f"from there: tinkex profile add NAME --base-url {stored.base_url}"
            )

    def _key(self, parsed_args: argparse.Namespace, place: Any) -> tuple[str, str]:
        """Return the key and where it comes from."""
        stdin = self.app.stdin
        # A key that the interactive shell was started with is not meant to be stored.
        on_this_line = hasattr(parsed_args, "api_key") or not self.app.interactive_mode
        if on_this_line and self.settings.origins.get("api_key") == "--api-key":
            return credentials.checked(self.settings.api_key or ""), "--api-key"
        if parsed_args.with_token:
            return credentials.checked(credentials.read_argument("-", stdin)), "standard input"
        if not stdin or not stdin.isatty():
            raise UsageError(
                "there is no terminal to ask for the key on",
                hint="Give it on standard input: … | tinkex auth login --with-token",
            )
        page = self._page(parsed_args.name)
        if page:
            self.status(f"Make a key here: {page}")
        self.app.display.clear()
        return credentials.checked(
            credentials.ask(f"API key for {place.base_url}: ")
        ), "what was typed"

    def _page(self, name: str | None) -> str | None:
        from tinkex.api.resources.auth import new_key_page
        from tinkex.commands.login import name_of_machine

        return new_key_page(self.settings, name or name_of_machine())

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        who = f" as {record['email']}" if record["email"] else ""
        who += f" ({record['organization']})" if record["organization"] else ""
        where = plain_text(record["stored_in"])
        return [plain_text(f"Logged in{who}: stored the key {record['name']!r} in {where}")]


class LogoutAuth(Lister):
    """Forget stored keys; they stay valid with the service."""

    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "key_id", "stored_in")
    examples = ("tinkex auth logout", "tinkex auth logout laptop", "tinkex auth logout --all")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "name",
            metavar="<key_name>",
            nargs="?",
            help="name or id of a stored key (default: the stored key that is in use)",
        )
        parser.add_argument(
            "--all",
            action="store_true",
            help="forget all keys in the file of the official login; profiles keep theirs",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if parsed_args.all and parsed_args.name is not None:
            raise UsageError("give the name of a key or --all, not both")
        rows = self._forget(parsed_args)
        self.result = [row[0] or row[1] for row in rows]
        self._tell_what_remains()
        return self.column_names, rows

    def _forget(self, parsed_args: argparse.Namespace) -> list[tuple[Any, ...]]:
        from tinkex.commands import login
        from tinkex.config import file
        from tinkex.config.credentials import KeyStore

        store = KeyStore()
        if parsed_args.all:
            chosen = store.all()
        elif parsed_args.name is not None:
            chosen = [store.find(parsed_args.name)]
        else:
            settings = self.settings
            profile = login.profile_of_key(settings)
            if profile is not None:
                file.write_setting(profile, "api_key", None)
                return [(profile, None, f"profile {profile}")]
            chosen = [login.key_in_force(settings, store)]
        for key in chosen:
            self._revoke(key)
        if chosen:
            store.remove(*(key.key_id for key in chosen))
        else:
            self.status("There is no stored key.")
        return [(key.name, key.key_id, str(store.path)) for key in chosen]

    def _revoke(self, key: StoredKey) -> None:
        """Delete on the server what an old official login made for itself: nobody else has it."""
        from tinkex.api.resources.auth import key_page
        from tinkex.commands import login

        if key.kind != "generated":
            if key.base_url is None and key.key_id.isdecimal():
                self.status(f"The key stays valid; revoke it at {key_page(key.key_id)}")
            return
        try:
            settings = login.with_key(self.settings, key.key, f"the stored key {key.name}")
            self.app.client_for(settings).auth.revoke()
        except TinkexError as error:
            self.app.warn(f"could not delete the key {key.name!r} on the server: {error}")

    def _tell_what_remains(self) -> None:
        import os

        for variable in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD"):
            if os.environ.get(variable):
                self.status(f"{variable} is still set, and is used.")

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        name = plain_text(record["name"]) or plain_text(record["key_id"])
        return f"Removed the key {name!r} from {plain_text(record['stored_in'])}"


class ListAuth(Lister):
    """List the stored keys: those of the official login's file and those in profiles."""

    tolerates_bad_settings = True
    column_names = (
        "name",
        "key_id",
        "in_use",
        "key",
        "organization",
        "email",
        "base_url",
        "stored_in",
    )
    plain_columns = ("name", "key_id", "in_use", "key", "base_url", "stored_in")
    droppable = ("email", "organization", "base_url", "key_id")
    examples = ("tinkex auth list", "tinkex auth list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.commands import login

        settings = self._settings_if_any()
        self.result = known = login.all_keys()
        for warning in login.exposed_files():
            self.app.warn(warning)
        origin = settings.origins.get("api_key") if settings else None
        if origin in ("TINKER_API_KEY", "--api-key"):
            self.status(f"{origin} is given, and is used instead of a stored key.")
        rows = [
            (
                key.name,
                key.key_id,
                Flag(bool(settings and settings.api_key == key.key and where == origin)),
                credentials.mask(key.key),
                key.organization,
                key.email,
                key.base_url,
                where,
            )
            for key, where in known
        ]
        return self.column_names, rows

    def _settings_if_any(self) -> Settings | None:
        try:
            return self.settings
        except SettingsError as error:
            self.app.warn(f"{error}")
            return None


class SwitchAuth(ShowOne):
    """Use another of the keys in the file of the official login."""

    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "key_id", "organization", "email", "stored_in")
    examples = ("tinkex auth switch laptop", "tinkex auth switch 7")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "name", metavar="<key_name>", help="name or id of a stored key; see 'tinkex auth list'"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.config.credentials import KeyStore

        store = KeyStore()
        key = store.find(parsed_args.name)
        if key.base_url is not None:
            raise UsageError(
                f"the key {key.name!r} is sent to {key.base_url} only, and needs no switch",
                hint="The default key is that of the official service.",
            )
        store.set_default(key.key_id)
        self.result = replace(key, is_default=True)
        try:
            origin = self.settings.origins.get("api_key")
            if origin != str(store.path):
                self.status(f"{origin or 'the profile'} says which key is used here, not the file.")
        except SettingsError as error:
            self.app.warn(f"{error}")
        return self.column_names, (
            key.name,
            key.key_id,
            key.organization,
            key.email,
            str(store.path),
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Using the key {plain_text(record['name'] or record['key_id'])!r}"]


class StatusAuth(ShowOne):
    """Show which key is used, where it comes from, and whether the service takes it."""

    column_names = (
        "base_url",
        "profile",
        "key",
        "key_origin",
        "key_name",
        "organization",
        "email",
        "latency_ms",
    )
    examples = ("tinkex auth status", "tinkex --profile skyrl auth status -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.commands import login

        settings = self.settings
        for warning in login.exposed_files():
            self.app.warn(warning)
        origins = settings.origins
        origin = origins.get("api_key") or origins.get("api_key_command")
        try:
            self.result = check = self.client.auth.check()
        except TinkexError as error:
            if origin and settings.needs_api_key and not getattr(error, "key_origin", None):
                error.hint = f"The key comes from {origin}. {hint_for(error) or ''}".rstrip()
            raise
        key = check.api_key
        return self.column_names, (
            settings.base_url,
            settings.profile,
            credentials.mask(settings.api_key or ""),
            origin if settings.needs_api_key else "none is needed",
            key and key.name,
            key and key.organization,
            key and key.email,
            round(check.seconds * 1000),
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return super().plain_lines({k: v for k, v in record.items() if plain_text(v)})


class WhoamiAuth(ShowOne):
    """Show whose key is used: the user and the organization."""

    column_names = ("email", "organization", "user_urn", "org_urn", "key_name", "key_id")
    examples = ("tinkex auth whoami", "tinkex auth whoami -f json -c email")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        if not self.settings.needs_api_key:
            raise UsageError(
                f"{self.settings.base_url} is used without a key",
                hint="Name the service that is meant: --profile or --base-url.",
            )
        self.result = who = self.client.auth.identity()
        return self.column_names, tuple(getattr(who, name) for name in self.column_names)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return super().plain_lines({k: v for k, v in record.items() if plain_text(v)})
