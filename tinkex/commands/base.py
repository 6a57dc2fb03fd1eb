"""Base classes of all commands: cliff's three kinds of command, adapted to tinkex.

A command of tinkex or of a plugin subclasses :class:`Command`, :class:`Lister` or :class:`ShowOne`,
has a docstring of one line (its help), and implements ``add_arguments`` (or cliff's ``get_parser``)
and ``take_action``. Failures are raised as :class:`~tinkex.exceptions.TinkexError`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import cliff.command
import cliff.display
import cliff.lister
import cliff.show

from tinkex import plugins
from tinkex.cli.commandmanager import Application, Formatters, parser_with_hooks
from tinkex.columns import Presentation, counted, heading, plain_text
from tinkex.exceptions import PluginError, SettingsError, UsageError
from tinkex.files import plugin_directory
from tinkex.options import Parser, add_global_options, edit_output_options

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from pathlib import Path

    from tinkex.api import Progress, ServiceClient
    from tinkex.settings import Settings

__all__ = ["Command", "Lister", "ShowOne"]

#: Options that the suggested command to resume omits → number of their values.
_LEFT_OUT = {"--api-key": 1, "--force": 0, "--resume": 0}


class _Bound(cliff.command.Command):
    """Adapts cliff's command class and precedes it in ``Lister.__mro__``."""

    app: Application  # type: ignore[assignment]
    # Fail where an option is defined twice, instead of replacing the first.
    conflict_handler = "error"
    #: The subject of "… failed"; by default the command's name.
    operation: ClassVar[str] = ""
    #: Command lines, shown at the end of the help.
    examples: ClassVar[Sequence[str]] = ()
    #: Text before the examples in the help.
    notes: ClassVar[str] = ""

    #: What :func:`tinkex.run` returns as the command's typed result.
    result: Any = None

    @property
    def client(self) -> ServiceClient:
        """The API client with the settings of this invocation; connects on first use."""
        return self.app.client

    @property
    def settings(self) -> Settings:
        """The effective settings of this invocation."""
        return self.app.settings

    @property
    def data_dir(self) -> Path:
        """The plugin's data directory, created with mode 0700.

        :raises LocalError: it cannot be created, is a symbolic link, or others can access it.
        """
        return self._directory("data")

    @property
    def cache_dir(self) -> Path:
        """The plugin's cache directory, for files that can be fetched or computed again."""
        return self._directory("cache")

    def _directory(self, kind: str) -> Path:
        name = (self.cmd_name or "").replace(" ", "_")
        owner = plugins.distribution_of(plugins.pick(plugins.COMMANDS, name))
        return plugin_directory(kind, owner)

    def status(self, text: str) -> None:
        """Print *text* on standard error, unless ``--quiet``."""
        self.app.status(text)

    def show_transfer(self, progress: Progress) -> None:
        """Show the progress of a download on a terminal; pass this as ``on_progress``."""
        self.app.display.transfer(progress)

    def show_count(self, what: str, done: int, total: int) -> bool:
        """Show the progress on a terminal, *done* of *total* items; return whether it is shown.

        :param what: the label, such as an activity or a rate.
        """
        self.app.display.count(what, done, total)
        return bool(self.app.display.draws)

    def resume_command(self) -> str:
        """Return the command line that resumes this command: the same one, with ``--resume``."""
        words = _without(self.app.words, _LEFT_OUT)
        return shlex.join([self.app.NAME, *words, "--resume"])

    def clear_progress(self) -> None:
        """Remove the progress display, before the command writes to standard output."""
        self.app.display.clear()

    def confirm(self, question: str, *, assume_yes: bool = False) -> None:
        """Ask *question*; return if the answer is yes.

        :raises UsageError: the answer is no, or standard input is not a terminal.
        """
        # Also with --curl, because the command may act without sending a request.
        if assume_yes:
            return
        if not self.app.stdin or not self.app.stdin.isatty():
            raise UsageError(
                "confirmation is required, but standard input is not a terminal",
                hint="Add --yes to confirm.",
            )
        self.app.display.clear()
        self.app.stderr.write(f"{question} [y/N] ")
        self.app.stderr.flush()
        if self.app.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("Cancelled: nothing was changed.", hint="", whole_line=True)

    def format_before_command(self, offered: Sequence[str]) -> str | None:
        """Return the format selected by ``-f`` or ``--json`` before the command.

        :raises UsageError: it is not one of *offered*.
        """
        chosen = getattr(self.app_args, "formatter", None)
        if getattr(self.app_args, "json", False):
            chosen = "json"
        if chosen and chosen not in offered:
            raise UsageError(
                f"{self.cmd_name} does not support the format {chosen!r}",
                hint="Formats: " + ", ".join(offered) + ".",
            )
        return chosen

    def operation_name(self) -> str:
        """Return the subject of an error sentence about this command."""
        words = self.operation or self.cmd_name or type(self).__name__
        return words[:1].upper() + words[1:]

    def get_description(self) -> str:
        text = self._description or type(self).__doc__ or ""
        return "\n".join(line.strip() for line in text.strip().splitlines())

    def get_epilog(self) -> str:
        # cliff's own searches all installed distributions for the plugin's name (11–90 ms).
        parts = [self._epilog or "", self.notes]
        if self.examples:
            parts.append("examples:\n" + "\n".join(f"  {line}" for line in self.examples))
        return "\n\n".join(filter(None, parts))

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = Parser(
            description=self.get_description(),
            epilog=self.get_epilog(),
            prog=prog_name,
            conflict_handler=self.conflict_handler,
            command=self.cmd_name or "",
            subcommands=self._subcommands(),
            listing=self._listing,
        )
        add_global_options(parser, after_command=True)
        return parser

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments and options of this command to *parser*."""

    def _subcommands(self) -> list[str]:
        if not self.cmd_name or self.app is None:  # Sphinx builds parsers without an application
            return []
        return self.app.command_manager.below(self.cmd_name)

    def _listing(self) -> str:
        below = self._subcommands()
        return (
            "commands:\n" + self.app.command_manager.listing(below, self.app.stdout)
            if below
            else ""
        )

    def _load_hooks(self) -> None:
        self._hooks: list[Any] = []  # cliff would load them now; with_hooks() does it

    def with_hooks(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser with hooks applied; print one line for each bad hook."""
        parser, self._hooks, faults = parser_with_hooks(self, prog_name)
        for error in faults.values():
            self.app.warn(f"{error}; running without this hook")
        return parser


class Command(_Bound):
    """A command that writes to ``self.app.stdout`` itself."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        self.add_arguments(parser)
        return parser


class _Display(cliff.display.DisplayCommandBase[Any], _Bound):
    """A command with output formats; handles the default format, ``--json`` and ``-c``."""

    #: The command changes something (saves, deletes, …), so its default format is always plain.
    is_action: ClassVar[bool] = False
    #: The command repairs or shows settings, so it also runs with invalid ones.
    tolerates_bad_settings: ClassVar[bool] = False
    #: Field names of the output, in order, if they are always the same.
    column_names: ClassVar[Sequence[str]] = ()

    @functools.cached_property
    def presentation(self) -> Presentation:
        """How text formats display the result; ``take_action`` may change it."""
        return Presentation()

    @property
    def formatter_default(self) -> str:
        """Format if no option, environment variable or profile specifies one."""
        stdout = getattr(self.app, "stdout", None)
        return "table" if not self.is_action and stdout and stdout.isatty() else "plain"

    def _load_formatter_plugins(self) -> Any:
        return Formatters(self.formatter_namespace, getattr(self.app, "words", ()))

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = cast(Parser, super().get_parser(prog_name))
        group = self._formatter_group
        self.add_json_option(group)
        default = "plain" if self.is_action else "table on a terminal, plain elsewhere"
        edit_output_options(parser, group, default)
        self.add_arguments(parser)
        return parser

    def add_json_option(self, group: Any) -> None:
        group.add_argument(
            "--json", action="store_const", const="json", dest="formatter", help="same as -f json"
        )

    def run(self, parsed_args: argparse.Namespace) -> int:
        if getattr(self.app_args, "json", False) and "whole_json" in parsed_args:
            parsed_args.whole_json = True
        if parsed_args.formatter is None:
            parsed_args.formatter = self.default_format()
        self._add_defaults(parsed_args)
        parsed_args.columns = self._field_names(parsed_args.columns)
        return super().run(parsed_args)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        """Write the result, then any notes from the format; if a value fails, write nothing.

        The format reads :attr:`presentation` from *parsed_args*.
        """
        known = {_normal(name) for name in column_names}
        short = {_normal(head): name for name, (head, _) in self.presentation.short.items()}
        for given in (parsed_args.columns, getattr(parsed_args, "sort_columns", [])):
            given[:] = [
                name if _normal(name) in known else short.get(_normal(name), name) for name in given
            ]
        for name in (*parsed_args.columns, *getattr(parsed_args, "sort_columns", ())):
            if _normal(name) not in known:
                others = self._unused_options(parsed_args)
                more = others and f" Plugin options that may add columns: {', '.join(others)}."
                raise UsageError(
                    f"no column named {name!r}",
                    hint=f"Columns: {', '.join(column_names)}.{more or ''}",
                )
        self.app.display.clear()
        parsed_args.presentation = self.presentation
        # The row for each change is written as soon as the change is done.
        with contextlib.nullcontext() if self.is_action else self._at_once(data):
            code = super().produce_output(parsed_args, column_names, data)  # type: ignore[safe-super]
        for note in self.presentation.notes:
            self.status(note)
        return code

    @contextlib.contextmanager
    def _at_once(self, data: Any) -> Iterator[None]:
        """Hold what the block writes to standard output until it ends without an error."""
        from tinkex.cli.formatters import buffered, spooled

        stdout = self.app.stdout
        try:
            with (spooled if isinstance(data, Iterator) else buffered)(stdout) as self.app.stdout:
                yield
        finally:
            self.app.stdout = stdout

    def _unused_options(self, parsed_args: argparse.Namespace) -> list[str]:
        """Return the options of hooks that the user did not give, with their plugins."""
        return [
            f"{action.option_strings[-1]} ({plugins.distribution_of(hook.entry_point)})"
            for hook in self._hooks
            for action in hook.options
            if getattr(parsed_args, action.dest, None) == action.default
        ]

    def _run_after_hooks(self, parsed_args: argparse.Namespace, data: Any) -> Any:
        own, rows = data
        name = (self.cmd_name or "").replace(" ", "_")
        claims = [ep for ep in plugins.entry_points(plugins.COMMANDS) if ep.name == name]
        data = own, self._checked_lengths(own, rows, next(iter(claims), None))
        for hook in self._hooks:
            changed = hook.obj.after(parsed_args, data)
            if changed is not None:
                data = self._changed_by(hook.entry_point, own, changed)
        self.presentation.added = [name for name in data[0] if name not in own]
        return data

    def _changed_by(
        self, hook: EntryPoint, own: Sequence[str], changed: Any
    ) -> tuple[Sequence[str], Any]:
        """Return *changed*, the column names and the data that a hook returned.

        :param own: the names of the command.
        :raises PluginError: the hook is faulty.
        """
        try:
            names, rows = changed
            names = names if isinstance(names, (tuple, list)) else tuple(names)
        except (TypeError, ValueError):
            text = f"after() of the hook {hook.name!r} must return column names and rows"
            raise _bug(hook, text) from None
        for name in names:
            if names.count(name) > 1:  # as JSON, one value would replace the other
                whose = "the command already has" if name in own else "another hook also adds"
                where = f"the hook {hook.name!r} of plugin {plugins.owner_of(hook)}"
                raise PluginError(
                    f"{where} adds the column {name!r}, which {whose}",
                    hint="To run without this plugin: "
                    f"{plugins.turn_off(plugins.distribution_of(hook))}",
                )
        return names, self._checked_lengths(names, rows, hook)

    def _checked_lengths(self, names: Sequence[str], data: Any, origin: EntryPoint | None) -> Any:
        """Return *data* after checking that each row has a value for each of *names*.

        :param origin: the entry point of the command or the hook that returned it.
        :raises PluginError: a row has more values, or fewer.
        """
        raise NotImplementedError

    def _add_defaults(self, parsed_args: argparse.Namespace) -> None:
        """Add the option defaults of a plugin's format that a setting selected."""
        format = self._formatter_plugins[parsed_args.formatter]
        if plugins.is_builtin(format.entry_point):
            return  # the parser has them
        parser = argparse.ArgumentParser(add_help=False)
        format.obj.add_argument_group(parser)  # type: ignore[union-attr]
        for name, value in vars(parser.parse_args([])).items():
            if name not in parsed_args:
                setattr(parsed_args, name, value)

    def default_format(self) -> str:
        offered = sorted(self._formatter_plugins.names())
        if before_command := self.format_before_command(offered):
            return before_command
        try:
            chosen = self.settings.format
        except SettingsError:
            if not self.tolerates_bad_settings:
                raise
            return self.formatter_default
        if chosen and chosen not in offered and not Formatters.known(chosen):
            origin = self.settings.origins.get("format")
            raise SettingsError(
                f"unknown format {chosen!r} (from {origin})",
                hint="Formats: " + ", ".join(offered) + ".",
            )
        return str(chosen) if chosen in offered else self.formatter_default

    def _field_names(self, given: Sequence[str]) -> list[str]:
        """Return the field names for names or headings, which may be comma-separated."""
        by_heading = {_normal(heading(name)): name for name in self.column_names}
        names = [part.strip() for text in given for part in text.split(",")]
        return [
            name if _normal(name) in self.column_names else by_heading.get(_normal(name), name)
            for name in names
        ]


class Lister(_Display, cliff.lister.Lister):
    """A command whose result is a list of rows."""

    #: Columns of a plain line, separated by tabs; all when empty.
    plain_columns: ClassVar[Sequence[str]] = ()
    #: Columns that a table may hide on a narrow terminal, the least important first.
    droppable: ClassVar[Sequence[str]] = ()

    @property
    def formatter_namespace(self) -> str:
        return plugins.LIST_FORMATTERS

    @functools.cached_property
    def presentation(self) -> Presentation:
        """How text formats display the rows; ``take_action`` may change it."""
        noun, _, verb = (self.cmd_name or "").rpartition(" ")
        # The singular works for any noun that a plugin uses.
        empty = (
            f"No {noun} found." if verb == "list" else "" if self.is_action else "Nothing found."
        )
        return Presentation(plain_row=self.plain_row, droppable=self.droppable, empty=empty)

    def run(self, parsed_args: argparse.Namespace) -> int:
        parsed_args.sort_columns = self._field_names(parsed_args.sort_columns)
        return super().run(parsed_args)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        """Write rows as *data* yields them; a list writes nothing if any row fails."""
        if getattr(parsed_args, "offset", 0):
            self.presentation.empty = ""  # there may be rows before the offset
        if parsed_args.formatter == "table":  # needs all rows first
            data = list(data)
        return super().produce_output(parsed_args, column_names, data)

    def _checked_lengths(self, names: Sequence[str], data: Any, origin: EntryPoint | None) -> Any:
        rows = _checked_rows(data, names, origin)
        return rows if isinstance(data, Iterator) else list(rows)

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        """Return the line of one row in the plain format; ``None`` omits the row."""
        names = self.plain_columns or tuple(record)
        return "\t".join(plain_text(record.get(name)) for name in names)


class ShowOne(_Display, cliff.show.ShowOne):
    """A command whose result is one object."""

    @property
    def formatter_namespace(self) -> str:
        return plugins.SHOW_FORMATTERS

    @functools.cached_property
    def presentation(self) -> Presentation:
        """How text formats display the object; ``take_action`` may change it."""
        return Presentation(plain_lines=self.plain_lines)

    def _checked_lengths(self, names: Sequence[str], data: Any, origin: EntryPoint | None) -> Any:
        return next(_checked_rows([data], names, origin))

    def add_link(self, word: str, *page: str) -> None:
        """Link *word* in a table to a page of the service's web console, if it has one."""
        from tinkex.api.paths import console_page

        if address := console_page(self.settings.base_url, *page):
            self.presentation.links[word] = address

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        """Return the lines of the object in the plain format: ``Heading: value``, if any."""
        texts = {name: plain_text(value) for name, value in record.items()}
        return [f"{heading(name)}: {text}" for name, text in texts.items() if text]


def _checked_rows(
    rows: Iterable[Any], names: Sequence[str], origin: EntryPoint | None
) -> Iterator[Sequence[Any]]:
    for row in rows:
        values = row if isinstance(row, (tuple, list)) else tuple(row)
        if len(values) != len(names):
            count = f"{counted(len(values), 'value')} for {counted(len(names), 'column')}"
            raise _bug(origin, f"a row has {count}: {', '.join(names)}")
        yield values


def _without(words: Sequence[str], options: Mapping[str, int]) -> list[str]:
    """Return *words* without *options* and their values."""
    kept: list[str] = []
    skip = 0
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in options:
            skip = 0 if equals else options[name]
        else:
            kept.append(word)
    return kept


def _bug(origin: EntryPoint | None, text: str) -> PluginError:
    """Return the error for a fault in the command or hook that *origin* names."""
    where, hint = "tinkex", "Report this bug to the maintainers."
    if origin is not None and not plugins.is_builtin(origin):
        where = f"the plugin {plugins.owner_of(origin)}"
        if origin.group != plugins.COMMANDS:
            hint = (
                f"To run without this plugin: {plugins.turn_off(plugins.distribution_of(origin))}"
            )
    return PluginError(f"this is a bug in {where} ({text})", hint=hint, category="bug")


def _normal(name: str) -> str:
    return name.lower().strip().replace(" ", "_")
