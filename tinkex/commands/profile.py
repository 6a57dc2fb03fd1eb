"""Profiles: named groups of settings in the configuration file."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from typing import Any

from tinkex.columns import Flag, Structure, plain_text
from tinkex.commands.base import Lister, ShowOne
from tinkex.commands.config import checked_value
from tinkex.config import credentials
from tinkex.config.values import DEFAULT_BASE_URL, DESCRIPTIONS, SERVERS
from tinkex.exceptions import SettingsError, UsageError

#: What a profile may say, in the order in which it is shown.
_SETTINGS = tuple(name for name in DESCRIPTIONS if name != "profile")
#: Settings that are global options; ``profile add`` writes those that are given.
_GLOBAL = ("base_url", "api_key", "timeout", "http_pool")


class ListProfile(Lister):
    """List all profiles, those that plugins bring included."""

    tolerates_bad_settings = True
    column_names = ("name", "active", "base_url", "http_pool", "credential", "format")
    plain_columns = ("name", "active", "base_url", "http_pool")
    droppable = ("format", "http_pool", "credential")
    examples = ("tinkex profile list", "tinkex profile list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex import settings

        profiles = _all()
        active = settings.chosen_profile(self.app.option("profile"))
        if active is not None and active not in profiles:
            self.app.warn(f"the profile in force, {active!r}, does not exist")
        self.result = list(profiles)
        return self.column_names, [
            self._row(name, values, name == active) for name, values in profiles.items()
        ]

    @staticmethod
    def _row(name: str, values: Mapping[str, Any], active: bool) -> tuple[Any, ...]:
        pool = values.get("http_pool")
        return (
            name,
            Flag(active),
            values.get("base_url") or (None if pool else DEFAULT_BASE_URL),
            pool,
            _credential(values),
            values.get("format"),
        )


class ShowProfile(ShowOne):
    """Show what one profile says, its key masked."""

    tolerates_bad_settings = True
    column_names = ("name", "active", *_SETTINGS, "http_pool_options")
    examples = ("tinkex profile show", "tinkex profile show skyrl -f yaml")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "name",
            metavar="<profile>",
            nargs="?",
            help="name of a profile (default: the one in force)",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex import settings

        active = settings.chosen_profile(self.app.option("profile"))
        name = parsed_args.name or active
        if name is None:
            raise UsageError("no profile is in force", hint="Name one: tinkex profile list")
        values = _known(name)
        unknown = sorted(str(key) for key in values if key not in _SETTINGS)
        if unknown:
            self.app.warn(f"profile {name} has unknown settings: {', '.join(unknown)}")
        shown = {key: _shown(key, value) for key, value in values.items()}
        options = _pool_options(values)
        self.result = {"name": name, **shown}
        return self.column_names, (
            name,
            Flag(name == active),
            *(Structure(shown.get(key)) for key in _SETTINGS),
            Structure(options),
        )

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return super().plain_lines({k: v for k, v in record.items() if plain_text(v)})


class AddProfile(ShowOne):
    """Write a new profile."""

    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "active", *_SETTINGS)
    examples = (
        "tinkex profile add skyrl --server skyrl",
        "tinkex profile add gpu-box --base-url https://gpu-box:8000 --api-key @key.txt --use",
        "tinkex profile add work --api-key-command 'pass show tinker' --default-format table",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="<name>", help="name of the new profile")
        parser.add_argument(
            "--server",
            choices=tuple(SERVERS),
            type=_server,
            help="begin with what is known of this server: its usual address, and a key that will "
            "do where none is looked at",
        )
        parser.add_argument(
            "--api-key-command", metavar="<command>", help="command that prints the API key"
        )
        parser.add_argument(
            "--default-format", metavar="<format>", help="output format where -f names none"
        )
        parser.add_argument(
            "--project-id", metavar="<id>", help="project that new sessions belong to"
        )
        parser.add_argument(
            "--tags", metavar="<tags>", help="tags of new sessions, separated by commas"
        )
        parser.add_argument(
            "--allow-http",
            action="store_true",
            help="let the key travel over plain http to another machine",
        )
        parser.add_argument(
            "--use", action="store_true", help="use it from now on when none is named"
        )
        parser.add_argument("--force", action="store_true", help="replace a profile of this name")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.config import file

        name = parsed_args.name
        if not re.fullmatch(r"\w[\w.@-]*", name):
            raise UsageError(
                f"not a name for a profile: {name[:40]!r}",
                hint="Use letters, digits, '-', '_', '.' and '@'.",
            )
        written = file.profiles_in(file.read(file.config_path()))
        if name in written and not parsed_args.force:
            raise UsageError(
                f"there is a profile called {name!r} already",
                hint="Change it with 'tinkex config set', or replace it with --force.",
            )
        values = self._values(parsed_args)
        if name in file.plugin_profile_names() and values.keys().isdisjoint(
            {"http_pool", "base_url"}
        ):
            values = {**file.plugin_profile(name), **values}
        file.write_profile(name, values, use=parsed_args.use)
        if not ({"api_key", "api_key_command", "http_pool"} & values.keys()):
            self._tell_about_key(name, values)
        shown = {key: _shown(key, value) for key, value in values.items()}
        self.result = {"name": name, **shown}
        return self.column_names, (
            name,
            Flag(parsed_args.use),
            *(Structure(shown.get(key)) for key in _SETTINGS),
        )

    def _tell_about_key(self, name: str, values: Mapping[str, Any]) -> None:
        if values.get("base_url", DEFAULT_BASE_URL) != DEFAULT_BASE_URL:
            self.status(f"It has no key yet: tinkex --profile {name} auth login")

    def _values(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        given = {name: self._global(parsed_args, name) for name in _GLOBAL}
        given |= {
            "api_key_command": parsed_args.api_key_command,
            "format": parsed_args.default_format,
            "project_id": parsed_args.project_id,
            "tags": parsed_args.tags,
            "allow_http": "true" if parsed_args.allow_http else None,
        }
        if given["api_key"] is not None and given["api_key_command"] is not None:
            raise UsageError("give a key or a command that prints one, not both")
        values: dict[str, Any] = dict(SERVERS.get(parsed_args.server, {}))
        if given["api_key_command"] is not None:
            values.pop("api_key", None)
        for name in _SETTINGS:
            text = given.get(name)
            if text is not None:
                values[name] = checked_value(name, text, self.app.stdin)
        return values

    def _global(self, parsed_args: argparse.Namespace, name: str) -> Any:
        """Return a global option of this line; those that the shell was started with are not."""
        value = getattr(parsed_args, name, None)
        if value is None and not self.app.interactive_mode:
            value = self.app.option(name)
        return value

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Added the profile {plain_text(record['name'])}"]


class UseProfile(ShowOne):
    """Use a profile from now on when none is named."""

    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "file")
    examples = ("tinkex profile use work",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="<profile>", help="name of a profile")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex import settings
        from tinkex.config import file

        settings.resolve({"profile": parsed_args.name})  # it must be usable
        file.write_default_profile(parsed_args.name)
        self.result = parsed_args.name
        if os.environ.get("TINKEX_PROFILE"):
            self.status("TINKEX_PROFILE is set, and comes first.")
        return self.column_names, (parsed_args.name, str(file.config_path()))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Using the profile {plain_text(record['name'])}"]


class RemoveProfile(ShowOne):
    """Remove a profile, and the key in it, from the configuration file."""

    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "file")
    examples = ("tinkex profile remove skyrl --yes",)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="<profile>", help="name of a profile")
        parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
        parser.add_argument(
            "--force", action="store_true", help="also the one that is used when none is named"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex import settings
        from tinkex.config import file

        name = parsed_args.name
        _known(name)
        config = file.read(file.config_path())
        written = file.profiles_in(config)
        if name not in written:
            raise UsageError(
                f"the profile {name!r} is not written anywhere: it comes with a plugin",
                hint="It goes when the plugin is uninstalled.",
            )
        active = settings.chosen_profile(self.app.option("profile"))
        if name == active and not parsed_args.force:
            raise UsageError(
                f"the profile {name!r} is in force",
                hint="Use another one first, or add --force.",
            )
        holds = " and the API key in it" if _credential(written[name] or {}) else ""
        self.confirm(f"Remove the profile {name}{holds}?", assume_yes=parsed_args.yes)
        file.remove_profile(name)
        self.result = name
        return self.column_names, (name, str(file.config_path()))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Removed the profile {plain_text(record['name'])}"]


def _server(text: str) -> str:
    if "/" in text or ":" in text:
        raise UsageError(
            f"--server names a kind of server: {', '.join(SERVERS)}",
            hint=f"An address is --base-url: --base-url {text[:200]}",
        )
    return text


def _pool_options(values: Mapping[str, Any]) -> Any:
    """Return what the file says about the HTTP pool that a profile names."""
    from tinkex.config import file, pools

    name = str(values.get("http_pool", pools.DEFAULT_DRIVER))
    return pools.named_in(file.read(file.config_path())).get(name)


def _all() -> dict[str, Mapping[str, Any]]:
    """Return every profile by name, those that plugins bring included."""
    from tinkex.config import file

    written = file.profiles_in(file.read(file.config_path()))
    found = {**file.plugin_profiles(), **written}
    return {name: _mapping(name, found[name]) for name in sorted(found)}


def _known(name: str) -> Mapping[str, Any]:
    known = _all()
    if name not in known:
        raise SettingsError(
            f"no profile is called {name!r}",
            hint="Known: " + (", ".join(known) or "none") + ".",
        )
    return known[name]


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values or {}, Mapping):
        raise SettingsError(f"profile {name!r} is not a mapping in the configuration file")
    return values or {}


def _credential(values: Mapping[str, Any]) -> str | None:
    if values.get("api_key"):
        return credentials.mask(str(values["api_key"]))
    return "command" if values.get("api_key_command") else None


def _shown(name: str, value: Any) -> Any:
    """Return *value* so that it can be shown."""
    if name == "api_key" and value:
        return credentials.mask(str(value))
    return credentials.mask_inside(str(value)) if name == "api_key_command" and value else value
