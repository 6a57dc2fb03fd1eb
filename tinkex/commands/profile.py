"""Profiles: named groups of settings in the configuration file."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Mapping
from typing import Any

from tinkex import settings
from tinkex.columns import Flag, Structure, plain_text
from tinkex.commands.base import Lister, ShowOne
from tinkex.commands.config import checked_value
from tinkex.config import credentials, file, pools
from tinkex.config.values import (
    CREDENTIAL,
    DEFAULT_BASE_URL,
    DESCRIPTIONS,
    PROFILE_KEYS,
    SERVERS,
    parse_flag,
)
from tinkex.exceptions import SettingsError, UsageError, without_keys

#: Settings that a profile may have, in the order in which they are shown.
_SETTINGS = tuple(name for name in DESCRIPTIONS if name != "profile")
#: Settings that are global options; ``profile add`` writes those that are given.
_GLOBAL = ("base_url", "api_key", "timeout", "http_pool")


class ListProfile(Lister):
    """List all profiles and their settings."""

    tolerates_bad_settings = True
    column_names = ("name", "active", *_SETTINGS, "http_pool_options")
    plain_columns = ("name", "active", "base_url", "http_pool")
    droppable = (
        *("http_pool_options", "headers", "allow_http", "tags", "project_id", "timeout", "format"),
        *("http_pool", "api_key_command", "api_key"),
    )
    examples = ("tinkex profile list", "tinkex profile list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        profiles = _all()
        active = settings.chosen_profile(self.app.option("profile"))
        if active is not None and active not in profiles:
            self.app.warn(f"the active profile, {active!r}, does not exist")
        named_pools = pools.named_in(file.read(file.config_path()))
        self.result = list(profiles)
        rows = []
        for name, values in profiles.items():
            unknown = sorted(str(key) for key in values if key not in PROFILE_KEYS)
            if unknown:
                self.app.warn(f"profile {name} has unknown settings: {', '.join(unknown)}")
            options = named_pools.get(str(values.get("http_pool", pools.DEFAULT_DRIVER)))
            address = {} if values.get("http_pool") else {"base_url": DEFAULT_BASE_URL}
            row = _row(name, {**address, **values}, active=name == active)
            if isinstance(options, Mapping):
                options = _with_flags(options)
            rows.append((*row, Structure(options)))
        return self.column_names, rows


class AddProfile(ShowOne):
    """Add a profile."""

    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "active", *_SETTINGS)
    examples = (
        "tinkex profile add skyrl --server skyrl",
        "tinkex profile add gpu --base-url https://gpu:8000 --api-key @key.txt --use",
        "tinkex profile add work --api-key-command 'pass show tinker'",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="<name>", help="name of the new profile")
        parser.add_argument(
            "--server",
            choices=tuple(SERVERS),
            help="use this server's default URL, and a placeholder key if the server ignores keys",
        )
        for name, metavar, meaning in (
            ("api-key-command", "<command>", "command that prints the API key"),
            ("default-format", "<format>", "output format if -f is not given"),
            ("project-id", "<id>", "project that new sessions belong to"),
            ("tags", "<tags>", "comma-separated tags for new sessions"),
        ):
            parser.add_argument(f"--{name}", metavar=metavar, help=meaning)
        for name, meaning in (
            ("allow-http", "allow sending the key over unencrypted HTTP to another machine"),
            ("use", "make this profile the default"),
            ("force", "replace an existing profile with this name"),
        ):
            parser.add_argument(f"--{name}", action="store_true", help=meaning)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        name = parsed_args.name
        if not re.fullmatch(r"\w[\w.@-]*", name) or without_keys(name) != name:
            raise UsageError(
                f"invalid profile name: {name[:40]!r}",
                hint="Use letters, digits, '-', '_', '.' and '@', starting with a letter, a digit "
                "or '_'.",
            )
        written = file.profiles_in(file.read(file.config_path()))
        if name in written and not parsed_args.force:
            raise UsageError(
                f"profile {name!r} already exists",
                hint=f"Change it with 'tinkex --profile {name} config set', or add --force.",
            )
        values = self._values(parsed_args)
        is_of_plugin = name in file.plugin_profile_names()
        if is_of_plugin and values.keys().isdisjoint({"http_pool", "base_url"}):
            values = {**file.plugin_profile(name), **values}
        file.write_profile(name, values, use=parsed_args.use)
        address = str(values.get("base_url", DEFAULT_BASE_URL))
        if warning := settings.Settings(base_url=address).address_warning():
            self.app.warn(warning)
        has_key = not {*CREDENTIAL, "http_pool"}.isdisjoint(values)
        if not has_key and values.get("base_url", DEFAULT_BASE_URL) != DEFAULT_BASE_URL:
            self.status(
                f"The profile has no key yet. To add a key: tinkex --profile {name} auth login"
            )
        self.result = {"name": name} | {k: credentials.masked(k, v) for k, v in values.items()}
        return self.column_names, _row(name, values, active=parsed_args.use)

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
            raise UsageError("use either --api-key or --api-key-command")
        values: dict[str, Any] = dict(SERVERS.get(parsed_args.server, {}))
        if given["api_key_command"] is not None:
            values.pop("api_key", None)
        for name in _SETTINGS:
            text = given.get(name)
            if text is not None:
                values[name] = checked_value(name, text, self.app.stdin)
        return values

    def _global(self, parsed_args: argparse.Namespace, name: str) -> Any:
        """Return a global option of this command, ignoring those of the interactive shell."""
        value = getattr(parsed_args, name, None)
        if value is None and not self.app.interactive_mode:
            value = self.app.option(name)
        return value

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Added the profile {plain_text(record['name'])}"]


class _OneProfile(ShowOne):
    is_action = True
    tolerates_bad_settings = True
    column_names = ("name", "file")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="<profile>", help="profile name")


class UseProfile(_OneProfile):
    """Make a profile the default."""

    examples = ("tinkex profile use work",)

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        settings.resolve({"profile": parsed_args.name})  # it must be usable
        file.write_default_profile(parsed_args.name)
        self.result = parsed_args.name
        if os.environ.get("TINKEX_PROFILE"):
            self.status("TINKEX_PROFILE is set and takes precedence over the default profile.")
        return self.column_names, (parsed_args.name, str(file.config_path()))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Using the profile {plain_text(record['name'])}"]


class RemoveProfile(_OneProfile):
    """Remove a profile and its key."""

    examples = ("tinkex profile remove skyrl --yes",)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation")
        parser.add_argument(
            "--force", action="store_true", help="remove the profile even if it is active"
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        name, profiles = parsed_args.name, _all()
        if name not in profiles:
            known = ", ".join(profiles) or "none"
            raise SettingsError(f"no profile named {name!r}", hint=f"Known profiles: {known}.")
        if name not in file.profiles_in(file.read(file.config_path())):
            raise UsageError(
                f"the profile {name!r} comes from a plugin, not from the configuration file",
                hint="To remove the profile, uninstall the plugin.",
            )
        active = settings.chosen_profile(self.app.option("profile"))
        if name == active and not parsed_args.force:
            raise UsageError(
                f"cannot remove the active profile {name!r}",
                hint="Switch to another profile with 'tinkex profile use', or add --force.",
            )
        has_key = any(profiles[name].get(key) for key in CREDENTIAL)
        with_key = " and the API key in it" if has_key else ""
        self.confirm(f"Remove the profile {name}{with_key}?", assume_yes=parsed_args.yes)
        file.remove_profile(name)
        self.result = name
        return self.column_names, (name, str(file.config_path()))

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Removed the profile {plain_text(record['name'])}"]


def _row(name: str, values: Mapping[str, Any], *, active: bool) -> tuple[Any, ...]:
    """Return the name of a profile, whether it is active, and its settings; keys are masked."""
    typed = _with_flags(values)
    shown = (credentials.masked(key, typed.get(key)) for key in _SETTINGS)
    return name, Flag(active), *map(Structure, shown)


def _with_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return *values*, read from the file, with flags converted to booleans."""
    typed = dict(values)
    for key in {"allow_http", "insecure"} & typed.keys():
        with contextlib.suppress(SettingsError):  # reported when it is used
            typed[key] = parse_flag(typed[key])
    return typed


def _all() -> dict[str, Mapping[str, Any]]:
    """Return all profiles by name, including profiles from plugins.

    :raises SettingsError: a profile is not a mapping.
    """
    found = file.plugin_profiles() | file.profiles_in(file.read(file.config_path()))
    for name, values in found.items():
        if not isinstance(values or {}, Mapping):
            raise SettingsError(f"profile {name!r} in {file.config_path()} is not a mapping")
    return {name: found[name] or {} for name in sorted(found)}
