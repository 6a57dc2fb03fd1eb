"""List plugins, show what a plugin adds to tinkex, and create a plugin skeleton.

The files of the skeleton are package data (``templates/plugin``), with placeholders
such as ``${name}``.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import keyword
import os
import re
import shlex
import shutil
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cliff.columns import FormattableColumn

from tinkex import plugins
from tinkex.cli.commandmanager import Formatters
from tinkex.cli.inventory import Inventory, is_hook, nearest_plugin
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import LocalError, PluginError, UsageError
from tinkex.files import user_path
from tinkex.options import Parser

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint


_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FORMATS = (plugins.LIST_FORMATTERS, plugins.SHOW_FORMATTERS)


class ListPlugin(Lister):
    """List plugins, what they add to tinkex, and any errors."""

    tolerates_bad_settings = True  # a plugin may be the reason
    column_names = ("distribution", "version", "adds", "error")
    droppable = ("version", "adds")
    examples = ("tinkex plugin list", "tinkex plugin list --all -f json")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help="include tinkex itself")

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        inventory = Inventory()
        found: dict[str, list[EntryPoint]] = {}
        for ep, owner in inventory.claims:
            if parsed_args.all or not plugins.is_builtin(ep):
                found.setdefault(owner.name, []).append(ep)
        rows = []
        for name, entry_points in sorted(found.items()):
            owner = cast("Distribution", entry_points[0].dist)
            problems = [(ep, inventory.problem(ep, owner)) for ep in entry_points]
            errors = [f"{ep.group}: {ep.name}: {text}" for ep, text in problems if text]
            if off := plugins.why_off(name):
                errors = [f"not used: {off}"]
            rows.append(
                (
                    name,
                    owner.version,
                    Adds(_names(entry_points)),
                    PluginState("; ".join(errors) or None),
                )
            )
            if errors and not off and parsed_args.formatter == "table":
                self.presentation.notes.append(
                    f"To see the errors in {name}: tinkex plugin show {name}"
                )
        self.result = [dict(zip(self.column_names, row, strict=True)) for row in rows]
        for text in plugins.installed(tuple(sys.path)).unreadable:
            self.status(text)
        if unknown := inventory.not_installed():
            self.status(
                f"{plugins.ONLY} lists plugins that are not installed: {', '.join(unknown)}"
            )
        if not rows:
            self.status("No plugins are installed.")
            self.presentation.empty = ""  # a table does not repeat the message
        return self.column_names, rows

    def plain_row(self, record: Mapping[str, Any]) -> str:
        return str(super().plain_row({**record, "adds": record["adds"].human_readable()}))


class ShowPlugin(ShowOne):
    """Show what a plugin adds to tinkex."""

    column_names = (
        *("distribution", "version", "summary", "commands", "hooks", "formats"),
        *("http_pools", "tokenizers", "profiles", "settings", "errors"),
    )
    examples = ("tinkex plugin show tinkex-local", "tinkex plugin show tinkex-local -f json")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "name",
            metavar="<distribution>",
            help="plugin's distribution name, as shown by 'pip list'",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        distribution = _installed(parsed_args.name)
        inventory = Inventory()
        found = [
            ep for ep, owner in inventory.claims if plugins.same_name(owner.name, distribution.name)
        ]
        if not found:
            raise PluginError(f"{distribution.name} is installed, but adds nothing to tinkex")
        self.result = _contents(distribution, found, inventory)
        values = [Lines(v) if isinstance(v, list) else v for v in self.result.values()]
        return self.column_names, values

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        lines = [f"{record['distribution']} {record['version']}"]
        lines += [record["summary"]] if record["summary"] else []
        for name in self.column_names[3:]:
            if texts := record[name].human_readable().splitlines():
                lines += [f"{_words(name)}:"]
                lines += [f"  {text}" for text in texts]
        return lines


class NewPlugin(ShowOne):
    """Create a plugin skeleton with passing tests."""

    is_action = True
    column_names = ("distribution", "package", "directory", "command", "format")
    examples = (
        "tinkex plugin new tinkex-stats",
        "tinkex plugin new tinkex-stats --noun stat --directory ~/src/stats",
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "name", metavar="<name>", help="distribution name, such as tinkex-stats"
        )
        parser.add_argument(
            "--noun",
            metavar="<word>",
            help="first word of the plugin's commands, in the singular (default: the name without "
            "'tinkex-')",
        )
        parser.add_argument(
            "--directory",
            metavar="<dir>",
            help="new or empty directory to write to (default: the name of the plugin)",
        )

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        names = names_for(parsed_args.name, parsed_args.noun)
        self._check_free(names["noun"])
        directory = user_path(parsed_args.directory or names["name"])
        write_files(skeleton(names), directory)
        noun = names["noun"]
        values = (names["name"], names["package"], str(directory), f"{noun} list", noun)
        self.result = dict(zip(self.column_names, values, strict=True))
        where = shlex.quote(str(directory))
        self.presentation.notes.append(
            f"Next: cd {where} && pip install -e '.[test]' && python -m pytest"
        )
        return self.column_names, values

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        return [f"Plugin {record['distribution']} written to {record['directory']}"]

    def _check_free(self, noun: str) -> None:
        hint = "Choose another word with --noun WORD."
        if self.app.command_manager.below(noun):
            raise UsageError(f"commands that start with '{noun}' already exist", hint=hint)
        if noun in self.app.command_manager.commands:
            raise UsageError(f"the command '{noun}' already exists", hint=hint)
        if Formatters.known(noun):
            raise UsageError(f"the format '{noun}' already exists", hint=hint)


class Lines(FormattableColumn[list[Any]]):
    """A list: displayed as one line per item, and as a list in machine-readable formats."""

    def human_readable(self) -> str:
        return "\n".join(map(self._line, self._value))

    @staticmethod
    def _line(member: str | Mapping[str, Any]) -> str:
        if isinstance(member, str):
            return member
        if "error" in member:
            return f"{member['name']} ({member['group']}): {member['error']}"
        where = f" (on {member['command']})" if "command" in member else ""
        return " ".join([member["name"] + where, *member["options"]])


class Adds(FormattableColumn[dict[str, list[str]]]):
    """What a plugin adds: displayed as counts, and as names in machine-readable formats."""

    def human_readable(self) -> str:
        found = ((len(names), _words(kind)) for kind, names in self._value.items())
        return ", ".join(kind.removesuffix("s") if n == 1 else f"{n} {kind}" for n, kind in found)


class PluginState(FormattableColumn[str | None]):
    """Why a plugin does not fully work: displayed as ``broken`` or ``off``."""

    def human_readable(self) -> str:
        return "" if not self._value else "off" if self._value.startswith("not used") else "broken"


def _words(kind: str) -> str:
    return kind.replace("_", " ").replace("http", "HTTP")


def _names(entry_points: Sequence[EntryPoint]) -> dict[str, list[str]]:
    """Return the names of *entry_points* by kind: commands, formats, …; for a hook, its command."""
    found: dict[str, set[str]] = {}
    for ep in entry_points:
        if not is_hook(ep.group) and ep.group not in plugins.GROUPS:
            continue  # an error
        kind, _, of_hook = ep.group.removeprefix("tinkex.").partition(".")
        kind, name = ("formats", ep.name) if ep.group in _FORMATS else (kind, of_hook or ep.name)
        is_command = kind in ("commands", "hooks")
        found.setdefault(kind, set()).add(name.replace("_", " ") if is_command else name)
    return {kind: sorted(names) for kind, names in sorted(found.items())}


def _installed(name: str) -> Distribution:
    if distribution := plugins.find_distribution(name):
        return distribution
    near = nearest_plugin(name)
    raise PluginError(
        f"the plugin {name!r} is not installed",
        hint=f"Did you mean {near}?" if near else "See: tinkex plugin list",
    )


def _contents(
    distribution: Distribution, entry_points: Sequence[EntryPoint], inventory: Inventory
) -> dict[str, Any]:
    errors = {ep: text for ep in entry_points if (text := inventory.problem(ep, distribution))}
    usable = sorted((ep for ep in entry_points if ep not in errors), key=lambda ep: ep.name)

    def described(describe: Callable[[EntryPoint], Any], wanted: Callable[[str], bool]) -> Any:
        members = []
        for entry_point in usable:
            if wanted(entry_point.group):
                try:
                    members.append(describe(entry_point))
                except (Exception, SystemExit) as error:  # a plugin's own code runs here
                    errors[entry_point] = plugins.reason(error)
        return members

    settings = described(_settings, lambda group: group == plugins.SETTINGS)
    return {
        "distribution": distribution.name,
        "version": distribution.version,
        "summary": distribution.metadata.json.get("summary"),
        "commands": described(_command, lambda group: group == plugins.COMMANDS),
        "hooks": described(_hook, is_hook),
        "formats": sorted({ep.name for ep in usable if ep.group in _FORMATS}),
        "http_pools": [ep.name for ep in usable if ep.group == plugins.HTTP_POOLS],
        "tokenizers": [ep.name for ep in usable if ep.group == plugins.TOKENIZERS],
        "profiles": [ep.name for ep in usable if ep.group == plugins.PROFILES],
        "settings": [line for lines in settings for line in lines],
        "errors": [{"group": e.group, "name": e.name, "error": errors[e]} for e in errors],
    }


def _command(entry_point: EntryPoint) -> dict[str, Any]:
    name = entry_point.name.replace("_", " ")
    loaded = plugins.load(entry_point)
    # Without an application, so that hooks of other plugins add no options.
    parser = loaded(None, None, name).get_parser(name)
    return {
        "name": name,
        "summary": (inspect.getdoc(loaded) or "").partition("\n")[0],
        "options": list(_own_options(parser)),
    }


def _hook(entry_point: EntryPoint) -> dict[str, Any]:
    parser = Parser()
    plugins.load(entry_point)(command=None).get_parser(parser)
    return {
        "name": entry_point.name,
        "command": entry_point.group.removeprefix(plugins.HOOKS + ".").replace("_", " "),
        "options": list(_own_options(parser)),
    }


def _settings(entry_point: EntryPoint) -> list[str]:
    from tinkex.config.sections import described

    return described(plugins.load(entry_point))


def _own_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options and positionals that are specific to a command."""
    folded = getattr(parser, "folded", ())
    elsewhere = {action for group in folded for action in group._group_actions}
    for action in parser._actions:
        if action not in elsewhere and "--help" not in action.option_strings:
            yield max(action.option_strings, key=len, default=str(action.metavar or action.dest))


# The skeleton of a plugin -----------------------------------------------------------------------


def names_for(name: str, noun: str | None = None) -> dict[str, str]:
    """Return the placeholder values, derived from a distribution name.

    ``name`` is the distribution, ``package`` the Python package, ``noun`` the first word of its
    commands and the name of its format, ``Noun`` and ``identifier`` the noun in Python names.

    :raises UsageError: a name is not valid, or the package would hide another package.
    """
    package, noun = name.replace("-", "_"), noun or name.removeprefix("tinkex-")
    rules = "Use up to 60 lowercase letters, digits and single hyphens, starting with a letter"
    if not _NAME.fullmatch(name) or len(name) > 60:
        example = f"{rules}. For example: tinkex-stats."
        raise UsageError(f"invalid plugin name: {name[:80]!r}", hint=example)
    if not _NAME.fullmatch(noun) or len(noun) > 60:
        example = f"{rules}. For example: --noun stat."
        raise UsageError(f"invalid command word: {noun[:80]!r}", hint=example)
    if plugins.find_distribution(name):
        raise UsageError(
            f"{name} is already installed",
            hint=f"Choose another name. To see what {name} adds: tinkex plugin show {name}",
        )
    if keyword.iskeyword(package) or importlib.util.find_spec(package) is not None:
        other = f"tinkex-{name.removeprefix('tinkex-')}"
        raise UsageError(
            f"{package!r} is a Python keyword or the name of an existing package",
            hint=f"Choose another name, such as {other if other != name else f'{name}-2'}.",
        )
    return {
        "name": name,
        "package": package,
        "noun": noun,
        "Noun": "".join(word.capitalize() for word in noun.split("-")),
        "identifier": noun.replace("-", "_"),
    }


def skeleton(names: Mapping[str, str]) -> dict[str, str]:
    """Return the content of each skeleton file, by path."""
    root = Path(__file__).parents[1] / "templates" / "plugin"
    found = {}
    for template in sorted(root.rglob("*.in")):
        folder, file = template.relative_to(root).parent.as_posix(), template.stem
        folder = names["package"] if folder == "package" else folder
        file = ".gitignore" if file == "gitignore" else file  # a template must be visible
        text = string.Template(template.read_text(encoding="utf-8")).substitute(names)
        found[f"{folder}/{file}".removeprefix("./")] = text
    return found


def write_files(texts: Mapping[str, str], directory: Path) -> None:
    """Write *texts* (path → content) into *directory*, which is new or empty.

    :raises LocalError: it is not empty, or a file cannot be written.
    """
    is_new = not directory.exists()
    try:
        if directory.is_dir() and any(directory.iterdir()):
            raise LocalError(
                f"{directory} is not empty", hint="Choose another directory with --directory."
            )
        if os.path.lexists(directory) and not directory.is_dir():
            raise LocalError(
                f"{directory} is not a directory", hint="Choose another directory with --directory."
            )
        for name, text in texts.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        if is_new:  # a partial plugin would block the next attempt
            shutil.rmtree(directory, ignore_errors=True)
        raise LocalError(f"cannot write {directory}: {error.strerror}") from error
