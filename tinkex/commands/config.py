"""The effective settings, and changes of the configuration file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from tinkex.cli.extensions import Formatters
from tinkex.columns import Structure, plain_text
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import UsageError

#: The profile that a setting is written to where none is in force.
FIRST_PROFILE = "default"


class ShowConfig(Lister):
    """Show every effective setting and where it comes from, the key masked."""

    operation = "Config show"
    column_names = ("name", "value", "origin")
    examples = ("tinkex config show", "tinkex --profile local config show -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.config import pools
        from tinkex.settings import effective

        found = self.result = self.settings
        options = pools.effective(found.pool_options, found.origins)
        rows = [
            (name, Structure(value), origin)
            for name, value, origin in (*effective(found), *options)
        ]
        return self.column_names, rows


class ListConfig(Lister):
    """List every setting that can be set: its value, where it comes from, and what it is for."""

    column_names = ("name", "value", "origin", "variable", "description")
    droppable = ("variable", "description", "origin")
    examples = ("tinkex config list", "tinkex config list -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.config.values import DESCRIPTIONS, ENVIRONMENT
        from tinkex.settings import effective

        self.result = self.settings
        rows = [
            (name, Structure(value), origin, ENVIRONMENT.get(name), DESCRIPTIONS[name])
            for name, value, origin in effective(self.settings)
        ]
        return self.column_names, rows


class _OneSetting(ShowOne):
    is_action = True

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        from tinkex.config.values import DESCRIPTIONS

        parser = super().get_parser(prog_name)
        parser.add_argument(
            "name",
            metavar="<setting>",
            choices=tuple(DESCRIPTIONS),
            help="name of a setting: " + ", ".join(DESCRIPTIONS),
        )
        return parser


class GetConfig(_OneSetting):
    """Print the effective value of one setting, a key masked."""

    column_names = ("name", "value", "origin")
    examples = ("tinkex config get base_url", "tinkex --profile skyrl config get timeout")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.settings import effective

        found = {name: (value, origin) for name, value, origin in effective(self.settings)}
        value, origin = found[parsed_args.name]
        self.result = value
        return self.column_names, (parsed_args.name, Structure(value), origin)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [plain_text(record["value"])]


class _Change(_OneSetting):
    tolerates_bad_settings = True
    column_names = ("name", "value", "profile", "file")

    def _profile(self) -> str | None:
        """Return the profile in force, which must exist."""
        from tinkex import settings

        name = settings.chosen_profile(self.app.option("profile"))
        if name is not None and name not in settings.profile_names():
            raise UsageError(
                f"no profile is called {name!r}", hint=f"Make it: tinkex profile add {name}"
            )
        return name

    def _row(self, name: str, value: Any, profile: str | None) -> Any:
        from tinkex.config import credentials
        from tinkex.config.file import config_path

        self.result = value
        if name == "api_key" and value:
            value = credentials.mask(value)
        if name == "api_key_command" and value:
            value = credentials.mask_inside(value)
        return self.column_names, (name, Structure(value), profile, str(config_path()))

    def _tell_if_overruled(self, name: str) -> None:
        from tinkex.config.values import ENVIRONMENT

        variable = ENVIRONMENT.get(name, "")
        if os.environ.get(variable):
            self.status(f"{variable} is set, and comes first unless --profile names the profile.")


class SetConfig(_Change):
    """Write a setting to the profile in force, or to the one that --profile names."""

    examples = (
        "tinkex config set format table",
        "tinkex --profile work config set timeout 5m",
        "tinkex config set profile work",
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "value",
            metavar="<value>",
            help="value; of api_key: - reads it from standard input, @FILE from a file",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex import settings
        from tinkex.config import file

        name = parsed_args.name
        if name == "profile":
            settings.resolve({"profile": parsed_args.value})  # it must be usable
            file.write_default_profile(parsed_args.value)
            self._tell_if_overruled(name)
            return self._row(name, parsed_args.value, None)
        value = self._value(name, parsed_args.value)
        profile = self._profile()
        if profile is None:
            profile = FIRST_PROFILE
            file.write_profile(profile, {name: value}, use=True)
            self.status(f"Made the profile {profile!r}, which is used when none is named.")
        else:
            self._write(profile, name, value)
        self._tell_if_overruled(name)
        return self._row(name, value, profile)

    def _write(self, profile: str, name: str, value: Any) -> None:
        from tinkex.config import file

        written = file.profiles_in(file.read(file.config_path()))
        other = {"api_key": "api_key_command", "api_key_command": "api_key"}.get(name)
        if other and other in (written.get(profile) or {}):
            raise UsageError(
                f"profile {profile} has {other}, which is the same setting",
                hint=f"First: tinkex --profile {profile} config unset {other}",
            )
        if profile not in written and profile in file.plugin_profile_names():
            # Once it is written, it is what is written and no more.
            file.write_profile(profile, {**file.plugin_profile(profile), name: value})
        else:
            file.write_setting(profile, name, value)

    def _value(self, name: str, text: str) -> Any:
        return checked_value(name, text, self.app.stdin)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        where = f" in profile {record['profile']}" if record["profile"] else ""
        return [f"Set {record['name']} to {plain_text(record['value'])}{where}"]


class UnsetConfig(_Change):
    """Remove a setting from the profile in force, or from the one that --profile names."""

    examples = ("tinkex config unset format", "tinkex config unset profile")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        from tinkex.config import file

        name = parsed_args.name
        config = file.read(file.config_path())
        profile = None if name == "profile" else self._profile()
        written = config if name == "profile" else file.profiles_in(config).get(profile or "")
        if not isinstance(written, Mapping) or written.get(name) is None:
            where = f"profile {profile}" if profile else "the configuration file"
            raise UsageError(f"{where} does not set {name}", hint="See: tinkex config show")
        if name == "profile":
            file.write_default_profile(None)
        else:
            file.write_setting(str(profile), name, None)
        self._tell_if_overruled(name)
        return self._row(name, None, profile)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        where = f" from profile {record['profile']}" if record["profile"] else ""
        return [f"Removed {record['name']}{where}"]


def checked_value(name: str, text: str, stdin: Any) -> Any:
    """Return *text* as the configuration file holds the setting *name*.

    :raises SettingsError: it is malformed.
    :raises UsageError: it names a format or a driver that there is not.
    """
    from tinkex import settings
    from tinkex.config import credentials, values

    if name == "api_key":
        return credentials.checked(credentials.read_argument(text, stdin))
    value = values.from_text(name, text)
    pools = settings.pool_names() if name == "http_pool" else []
    if name == "http_pool" and value not in pools:
        raise UsageError(
            f"no HTTP pool is called {value!r}", hint="Known: " + ", ".join(pools) + "."
        )
    if name == "format" and not Formatters.known(value):
        raise UsageError(
            f"no format is called {value!r}", hint="See the formats: tinkex help config show"
        )
    return value
