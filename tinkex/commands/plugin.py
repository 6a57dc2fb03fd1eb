"""What is installed, and what each plugin adds."""

from __future__ import annotations

import argparse
import difflib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cliff.columns import FormattableColumn

from tinkex import plugins
from tinkex.cli import commandmanager
from tinkex.commands.base import Lister, ShowOne
from tinkex.exceptions import PluginError
from tinkex.options import Parser

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint


class ListPlugin(Lister):
    """List every entry point that tinkex uses, and why one does not load."""

    tolerates_bad_settings = True  # the fault may be a plugin's
    column_names = ("group", "name", "distribution", "version", "error")
    droppable = ("version",)
    examples = ("tinkex plugin list", "tinkex plugin list --all -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--all", action="store_true", help="also what tinkex itself brings, not only plugins"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        trouble = _Trouble()
        rows = []
        for entry_point, distribution in trouble.claims:
            if plugins.is_builtin(entry_point) and not parsed_args.all:
                continue
            error = trouble.of(entry_point, distribution)
            key = (entry_point.group, entry_point.name)
            rows.append((*key, distribution.name, distribution.version, error))
        rows.sort(key=str)
        self.result = [dict(zip(self.column_names, row, strict=True)) for row in rows]
        if not rows:
            self.status("No plugins are installed.")
            self.presentation.empty = ""  # a table need not repeat it
        unknown = plugins.unknown_in_only()
        if unknown:
            self.app.warn(f"{plugins.ONLY} names what is not installed: {', '.join(unknown)}")
        return self.column_names, rows


class ShowPlugin(ShowOne):
    """Show what one plugin adds to tinkex: commands, options, hooks, formats and drivers."""

    column_names = (
        "distribution",
        "version",
        "summary",
        "commands",
        "hooks",
        "formats",
        "http_pools",
        "tokenizers",
        "profiles",
        "errors",
    )
    examples = ("tinkex plugin show tinkex-local", "tinkex plugin show tinkex-local -f json")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "name", metavar="<distribution>", help="name that pip installed the plugin by"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        distribution = _installed(parsed_args.name)
        trouble = _Trouble()
        found = [
            ep for ep, owner in trouble.claims if plugins.same_name(owner.name, distribution.name)
        ]
        if not found:
            raise PluginError(f"{distribution.name} is installed, but adds nothing to tinkex")
        self.result = _contents(distribution, found, trouble)
        values = [Lines(v) if isinstance(v, list) else v for v in self.result.values()]
        return self.column_names, values

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        lines = [f"{record['distribution']} {record['version']}"]
        lines += [record["summary"]] if record["summary"] else []
        for name in self.column_names[3:]:
            texts = record[name].lines()
            if texts:
                lines += [f"{name.replace('_', ' ').replace('http', 'HTTP')}:"]
                lines += [f"  {text}" for text in texts]
        return lines


class Lines(FormattableColumn[list[Any]]):
    """A list: a line for each member for people, itself for programs."""

    def human_readable(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return a line for each member."""
        return [member if isinstance(member, str) else _line(member) for member in self._value]


def _line(member: Mapping[str, Any]) -> str:
    if "error" in member:
        return f"{member['name']} ({member['group']}): {member['error']}"
    if "kinds" in member:
        return f"{member['name']} (of {' and '.join(member['kinds'])})"
    name = f"{member['name']} (on {member['command']})" if "command" in member else member["name"]
    return " ".join([name, *member["options"]])


class _Trouble:
    """What keeps each entry point from being used."""

    def __init__(self) -> None:
        #: Every entry point of ours with its distribution.
        self.claims: Sequence[tuple[EntryPoint, Distribution]] = list(plugins.claims())
        used = [
            ep
            for ep, owner in self.claims
            if plugins.is_builtin(ep) or not plugins.is_left_out(owner.name)
        ]
        self._count = Counter((ep.group, ep.name) for ep in used)
        self._builtin = {(ep.group, ep.name) for ep in used if plugins.is_builtin(ep)}

    def of(self, entry_point: EntryPoint, distribution: Distribution) -> str | None:
        """Return why *entry_point* is not used, or ``None``; imports it to know."""
        key = (entry_point.group, entry_point.name)
        if not plugins.is_builtin(entry_point):
            if plugins.is_left_out(distribution.name):
                return f"not used: {plugins.ONLY} does not name {distribution.name}"
            if key in self._builtin:
                return "not used: tinkex has one of this name"
            # Any number of hooks may listen to one command.
            if self._count[key] > 1 and not _is_hook(entry_point.group):
                others = {owner.name for ep, owner in self.claims if (ep.group, ep.name) == key} - {
                    distribution.name
                }
                return f"claimed by more than one plugin: also by {', '.join(sorted(others))}"
        try:
            if entry_point.group == plugins.COMMANDS:
                commandmanager.load(entry_point)
            else:
                plugins.load(entry_point)
        except PluginError as error:
            cause = error.__cause__
            return f"{type(cause).__name__}: {cause}" if cause else str(error)
        return None


def _installed(name: str) -> Distribution:
    distribution = plugins.find_distribution(name)
    if distribution is None:
        known = sorted({owner.name for _, owner in plugins.claims()})
        near = difflib.get_close_matches(name, known, n=1)
        raise PluginError(
            f"no distribution is called {name!r}",
            hint=f"Did you mean {near[0]}?" if near else "See: tinkex plugin list",
        )
    return distribution


def _contents(
    distribution: Distribution, entry_points: Sequence[EntryPoint], trouble: _Trouble
) -> dict[str, Any]:
    errors = {ep: text for ep in entry_points if (text := trouble.of(ep, distribution))}
    usable = sorted((ep for ep in entry_points if ep not in errors), key=lambda ep: ep.name)

    def described(describe: Callable[[EntryPoint], Any], wanted: Callable[[str], bool]) -> Any:
        members = []
        for entry_point in usable:
            if wanted(entry_point.group):
                try:
                    members.append(describe(entry_point))
                except (Exception, SystemExit) as error:  # a plugin's own code runs here
                    errors[entry_point] = f"{type(error).__name__}: {error}"
        return members

    return {
        "distribution": distribution.name,
        "version": distribution.version,
        "summary": distribution.metadata.json.get("summary"),
        "commands": described(_command, lambda group: group == plugins.COMMANDS),
        "hooks": described(_hook, _is_hook),
        "formats": _formats(usable),
        "http_pools": [ep.name for ep in usable if ep.group == plugins.HTTP_POOLS],
        "tokenizers": [ep.name for ep in usable if ep.group == plugins.TOKENIZERS],
        "profiles": [ep.name for ep in usable if ep.group == plugins.PROFILES],
        "errors": [{"group": e.group, "name": e.name, "error": errors[e]} for e in errors],
    }


def _command(entry_point: EntryPoint) -> dict[str, Any]:
    name = entry_point.name.replace("_", " ")
    loaded = plugins.load(entry_point)
    # Without an application, so that hooks of others do not add their options here.
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


def _formats(entry_points: Sequence[EntryPoint]) -> list[dict[str, Any]]:
    kinds: dict[str, list[str]] = {}
    for group, kind in ((plugins.LIST_FORMATTERS, "lists"), (plugins.SHOW_FORMATTERS, "objects")):
        for entry_point in entry_points:
            if entry_point.group == group:
                kinds.setdefault(entry_point.name, []).append(kind)
    return [{"name": name, "kinds": found} for name, found in kinds.items()]


def _own_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the arguments that are not in every command: options and names of positionals."""
    shared = {"global options", "output formatters"}
    elsewhere = {
        action
        for group in parser._action_groups
        if group.title in shared or "formatter" in (group.title or "").lower()
        for action in group._group_actions
    }
    for action in parser._actions:
        if action not in elsewhere and "--help" not in action.option_strings:
            yield max(action.option_strings, key=len, default=str(action.metavar or action.dest))


def _is_hook(group: str) -> bool:
    return group.startswith(plugins.HOOKS + ".")
