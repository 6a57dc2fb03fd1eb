"""The effective settings, and changes to the configuration file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from tinkex import plugins, settings
from tinkex.cli.commandmanager import Formatters
from tinkex.columns import Structure, heading, plain_text
from tinkex.commands.base import Lister, ShowOne
from tinkex.config import credentials, file, pools, sections, values
from tinkex.config.values import CREDENTIAL, DESCRIPTIONS, ENVIRONMENT
from tinkex.exceptions import UsageError

#: The profile that a setting is written to if none is active.
FIRST_PROFILE = "default"
#: For the help.
_WHICH_PROFILE = "Changes the active profile, or the profile specified with --profile."


def _is_of_plugin(name: str) -> bool:
    return name.startswith(f"{sections.KEY}.")


def _place(name: str, profile: Any) -> list[str]:
    """Return the keys that lead to the setting *name* in *profile*."""
    return sections.place(name, profile) if _is_of_plugin(name) else [name]


def _nested(name: str, value: Any) -> dict[str, Any]:
    """Return a profile with only the setting *name*."""
    *outer, last = _place(name, None)
    entry = {last: value}
    for key in reversed(outer):
        entry = {key: entry}
    return entry


class ShowConfig(Lister):
    """Show every setting and where its value comes from."""

    operation = "Config show"
    column_names = ("name", "value", "origin", "variable", "description")
    plain_columns = ("name", "value", "origin")
    droppable = ("variable", "description")
    examples = ("tinkex config show", "tinkex --profile local config show -f json")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        found = self.result = self.settings
        driver, origins = found.pool_driver, dict(found.origins)
        if pools.AUTO in (found.pool_options.driver, found.http_pool):
            owner = plugins.distribution_of(plugins.pick(plugins.HTTP_POOLS, driver))
            is_default = driver == pools.DEFAULT_DRIVER
            why = "no other pool is preferred" if is_default else f"preferred by {owner}"
            origins["http_pool.driver"] = f"auto: {why}"
        options = pools.effective(found.pool_options._replace(driver=driver), origins)
        descriptions = DESCRIPTIONS | values.POOL_DESCRIPTIONS
        rows = [
            (name, Structure(value), origin, ENVIRONMENT.get(name), descriptions.get(name))
            for name, value, origin in (*settings.effective(found), *options)
        ]
        of_plugins = sections.effective(found.plugins, found.origins.get("plugins", ""))
        rows += [(name, Structure(v), origin, None, about) for name, v, origin, about in of_plugins]
        # On a narrow terminal, the column of values comes last, so that only long ones wrap.
        unchanged: Any = list
        self.presentation.short = {n: (heading(n), unchanged) for n in ("name", "origin")}
        return self.column_names, rows


class _OneSetting(ShowOne):
    is_action = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        # Plugins are imported only if the command line contains a plugin setting.
        is_of_plugin = any(map(_is_of_plugin, getattr(self.app, "words", ())))
        parser.add_argument(
            "name",
            metavar="<setting>",
            choices=(*DESCRIPTIONS, *(sections.names() if is_of_plugin else ())),
            help=f"setting name: {', '.join(DESCRIPTIONS)}, or "
            "plugins.DISTRIBUTION.SETTING for a plugin setting",
        )


class GetConfig(_OneSetting):
    """Print the effective value of one setting."""

    column_names = ("name", "value", "origin")
    examples = ("tinkex config get base_url", "tinkex --profile skyrl config get timeout")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        found = {name: rest for name, *rest in settings.effective(self.settings)}
        if _is_of_plugin(parsed_args.name):
            self.result, origin = sections.value_of(
                parsed_args.name, self.settings.plugins, self.settings.origins.get("plugins", "")
            )
        else:
            self.result, origin = found[parsed_args.name]
        return self.column_names, (parsed_args.name, Structure(self.result), origin)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [plain_text(record["value"])]


class _Change(_OneSetting):
    tolerates_bad_settings = True
    column_names = ("name", "value", "profile", "file")

    def _profile(self) -> str | None:
        """Return the active profile, which must exist."""
        name = settings.chosen_profile(self.app.option("profile"))
        if name is not None and name not in settings.profile_names():
            raise UsageError(
                f"no profile named {name!r}", hint=f"To create it: tinkex profile add {name}"
            )
        return name

    def _changed(self, name: str, value: Any, profile: str | None) -> Any:
        """Return the row for a changed setting; warn if the environment overrides it."""
        variable = ENVIRONMENT.get(name, "")
        if os.environ.get(variable):
            self.status(f"{variable} is set and takes precedence unless --profile is given.")
        self.result = value
        masked = sections.masked if _is_of_plugin(name) else credentials.masked
        shown = Structure(masked(name, value))
        return self.column_names, (name, shown, profile, str(file.config_path()))


class SetConfig(_Change):
    """Write a setting to a profile."""

    notes = _WHICH_PROFILE
    examples = (
        "tinkex config set format table",
        "tinkex --profile work config set timeout 5m",
        "tinkex config set profile work",
        "tinkex config set plugins.tinkex-hello.greeting 'Good morning'",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "value",
            metavar="<value>",
            help="new value; api_key and headers also accept - (standard input) and @FILE",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        name = parsed_args.name
        if name == "profile":
            settings.resolve({"profile": parsed_args.value})  # it must be usable
            file.write_default_profile(parsed_args.value)
            return self._changed(name, parsed_args.value, None)
        value = checked_value(name, parsed_args.value, self.app.stdin)
        profile = self._profile()
        if profile is None:
            profile = FIRST_PROFILE
            file.write_profile(profile, _nested(name, value), use=True)
            self.status(f"Created the profile {profile!r} and made it the default.")
        else:
            self._write(profile, name, value)
        if name == "base_url" and (warning := settings.Settings(base_url=value).address_warning()):
            self.app.warn(warning)
        return self._changed(name, value, profile)

    def _write(self, profile: str, name: str, value: Any) -> None:
        written = file.profiles_in(file.read(file.config_path()))
        other = next((o for o in CREDENTIAL if name in CREDENTIAL and o != name), None)
        if other and other in (written.get(profile) or {}):
            raise UsageError(
                f"profile {profile} already sets {other}, which conflicts with {name}",
                hint=f"To remove {other}: tinkex --profile {profile} config unset {other}",
            )
        if profile not in written and profile in file.plugin_profile_names():
            # A profile in the file replaces the plugin's profile, so it starts as a copy of it.
            file.write_profile(profile, {**file.plugin_profile(profile), **_nested(name, value)})
        else:
            file.write_setting(profile, _place(name, written.get(profile)), value)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        where = f" in profile {record['profile']}" if record["profile"] else ""
        return [f"Set {record['name']} to {plain_text(record['value'])}{where}"]


class UnsetConfig(_Change):
    """Remove a setting from a profile."""

    notes = _WHICH_PROFILE
    examples = ("tinkex config unset format", "tinkex config unset profile")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        name = parsed_args.name
        config = file.read(file.config_path())
        profile = None if name == "profile" else self._profile()
        written = config if name == "profile" else file.profiles_in(config).get(profile or "")
        place, value = _place(name, written), written
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            where = f"profile {profile}" if profile else "the configuration file"
            raise UsageError(f"{where} does not set {name}", hint="See: tinkex config show")
        if name == "profile":
            file.write_default_profile(None)
        else:
            file.write_setting(str(profile), place, None)
        return self._changed(name, None, profile)

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        where = f" from profile {record['profile']}" if record["profile"] else ""
        return [f"Removed {record['name']}{where}"]


def checked_value(name: str, text: str, stdin: Any) -> Any:
    """Return *text* as the value of the setting *name* in the configuration file.

    :raises SettingsError: it is malformed.
    :raises UsageError: it names a format or an HTTP pool that does not exist.
    """
    if name == "api_key":
        return credentials.checked(credentials.read_argument(text, stdin))
    if name == "headers":
        text = credentials.read_argument(text, stdin, "JSON object of headers")
    if _is_of_plugin(name):
        return sections.from_text(name, text)
    value = values.from_text(name, text)
    known = settings.pool_names() if name == "http_pool" else []
    if name == "http_pool" and value not in known:
        raise UsageError(
            f"no HTTP pool named {value!r}", hint="Known pools: " + ", ".join(known) + "."
        )
    if name == "format" and not Formatters.known(value):
        raise UsageError(
            f"no format named {value!r}", hint="To see the formats: tinkex help options"
        )
    return value
