"""What every command is made of: cliff's three kinds of command, bound to tinkex.

A command — ours or a plugin's — subclasses :class:`Command`, :class:`Lister` or :class:`ShowOne`,
has a one-line docstring (its help), and implements ``get_parser`` and ``take_action`` as in any
cliff application. ``self.client`` is the service, ``self.settings`` the effective settings,
``self.status`` says something on standard error. Failures are raised as
:class:`~tinkex.exceptions.TinkexError`.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import cliff.command
import cliff.display
import cliff.lister
import cliff.show

from tinkex import plugins
from tinkex.cli.extensions import Extension, Formatters, NamedHook
from tinkex.columns import Presentation, heading, plain_text
from tinkex.exceptions import SettingsError, UsageError
from tinkex.options import Parser, add_global_options

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from tinkex.api import Progress, ServiceClient
    from tinkex.cli.app import TinkexApp
    from tinkex.settings import Settings

__all__ = ["Command", "Lister", "ShowOne"]


class _Bound(cliff.command.Command):
    """Stands between cliff's display classes and cliff's own command in ``Lister.__mro__``."""

    app: TinkexApp
    # An option spelt twice is a mistake of the author, to be seen at once, not to be dropped.
    conflict_handler = "error"
    #: The noun in "<operation> failed"; by default the command's name.
    operation: ClassVar[str] = ""
    #: Shown at the end of the help.
    examples: ClassVar[Sequence[str]] = ()
    #: What else there is to know, shown in the help before the examples.
    notes: ClassVar[str] = ""

    #: What :func:`tinkex.run` returns as the command's typed result.
    result: Any = None

    @property
    def client(self) -> ServiceClient:
        """The service, with the settings of this invocation; connects on first use."""
        return self.app.client

    @property
    def settings(self) -> Settings:
        """The effective settings of this invocation."""
        return self.app.settings

    def status(self, text: str) -> None:
        """Say *text* on standard error, unless ``--quiet``."""
        self.app.status(text)

    def show_transfer(self, progress: Progress) -> None:
        """Show on a terminal how far a download is; to be given as ``on_progress``."""
        self.app.display.transfer(progress)

    def confirm(self, question: str, *, assume_yes: bool = False) -> None:
        """Ask *question*; return if the answer is yes.

        :raises UsageError: the answer is no, or there is no terminal to ask on.
        """
        # Not so with --curl: whether the command sends anything is not known here.
        if assume_yes:
            return
        if not self.app.stdin or not self.app.stdin.isatty():
            raise UsageError(
                "this needs a confirmation, and standard input is not a terminal",
                hint="Add --yes to go on without a question.",
            )
        self.app.display.clear()
        self.app.stderr.write(f"{question} [y/N] ")
        self.app.stderr.flush()
        if self.app.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UsageError("Cancelled: nothing was changed.", hint="", whole_line=True)

    def operation_name(self) -> str:
        """Return the subject of an error sentence about this command."""
        words = self.operation or self.cmd_name or type(self).__name__
        return words[:1].upper() + words[1:]

    def get_description(self) -> str:
        text = self._description or type(self).__doc__ or ""
        if "\n" not in text and text:
            return text
        import inspect  # with what it imports 5 ms, and most commands have one line

        return inspect.cleandoc(text) or inspect.getdoc(type(self)) or ""

    def get_epilog(self) -> str:
        # cliff's own looks the plugin's name up in all installed distributions (11–90 ms).
        parts = [self._epilog or "", self.notes]
        if self.examples:
            parts.append("examples:\n" + "\n".join(f"  {line}" for line in self.examples))
        below = self._subcommands()
        if below:
            parts.append("commands:\n" + "\n".join(f"  tinkex {name}" for name in below))
        for hook in self._hooks:
            try:
                if hook.obj:
                    parts.append(str(hook.obj.get_epilog() or ""))
            except Exception as error:
                self._hook_failed(hook.entry_point, error)
        return "\n\n".join(filter(None, parts))

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = Parser(
            description=self.get_description(),
            epilog=self.get_epilog(),
            prog=prog_name,
            conflict_handler=self.conflict_handler,
            command=self.cmd_name or "",
            subcommands=self._subcommands(),
        )
        add_global_options(parser, after_command=True)
        for hook in self._hooks:
            try:
                if hook.obj:
                    hook.obj.get_parser(parser)
            except Exception as error:
                self._hook_failed(hook.entry_point, error)
        return parser

    def _subcommands(self) -> list[str]:
        if not self.cmd_name or self.app is None:  # Sphinx builds parsers without an application
            return []
        names = self.app.command_manager.get_command_names()
        return sorted(name for name in names if name.startswith(f"{self.cmd_name} "))

    def _load_hooks(self) -> None:
        hooks: list[Any] = []
        self._hooks = hooks
        if not self.cmd_name or self.app is None:
            return
        group = f"{plugins.HOOKS}.{self.cmd_name.replace(' ', '_')}"
        for entry_point in plugins.entry_points(group):
            try:
                hook = NamedHook(plugins.load(entry_point)(command=self), entry_point)
                hooks.append(Extension(hook, entry_point))
            except (Exception, SystemExit) as error:
                self._hook_failed(entry_point, error.__cause__ or error)

    def _hook_failed(self, entry_point: EntryPoint, error: BaseException) -> None:
        owner = plugins.distribution_of(entry_point)
        self.app.warn(
            f"the hook {entry_point.name!r} of plugin {owner} does not load "
            f"({type(error).__name__}: {error}); going on without it"
        )


class Command(_Bound):
    """A command whose result is not rows: it writes to ``self.app.stdout`` itself."""


class _Display(cliff.display.DisplayCommandBase[Any], _Bound):
    """The formats of a command, its default format, and ``--json``."""

    @functools.cached_property
    def presentation(self) -> Presentation:
        """How the formats for people show the result; ``take_action`` may change it."""
        return Presentation()

    #: It does something (saves, deletes, …): its default format is plain everywhere.
    is_action: ClassVar[bool] = False
    #: It mends settings, and so runs also where they have a fault.
    tolerates_bad_settings: ClassVar[bool] = False

    @property
    def formatter_default(self) -> str:
        """Format when neither option, environment nor profile names one."""
        stdout = getattr(self.app, "stdout", None)
        return "table" if not self.is_action and stdout and stdout.isatty() else "plain"

    def _load_formatter_plugins(self) -> Any:
        return Formatters(self.formatter_namespace, self.app)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        group = next(g for g in parser._action_groups if g.title == "output formatters")
        self._add_json_option(group)
        formats = next(a for a in group._group_actions if a.dest == "formatter")
        formats.default = None
        formats.help = (
            "output format; by default "
            + ("plain" if self.is_action else "table on a terminal, plain elsewhere")
            + " [TINKEX_FORMAT]"
        )
        columns = next(a for a in group._group_actions if a.dest == "columns")
        columns.metavar = "<column>"
        columns.help = "only this column; may be repeated, or several with commas between them"
        return parser

    def _add_json_option(self, group: Any) -> None:
        group.add_argument(
            "--json", action="store_const", const="json", dest="formatter", help="same as -f json"
        )

    def run(self, parsed_args: argparse.Namespace) -> int:
        if getattr(self.app_args, "json", False) and "whole_json" in parsed_args:
            parsed_args.whole_json = True
        if parsed_args.formatter is None:
            parsed_args.formatter = self._default_format()
        self._add_defaults(parsed_args)
        self._check_columns_option(parsed_args)
        return super().run(parsed_args)

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        """Write the result, then what the format has to say about it.

        The format finds :attr:`presentation` in *parsed_args*.
        """
        self.app.display.clear()
        parsed_args.presentation = self.presentation
        code = super().produce_output(parsed_args, column_names, data)  # type: ignore[safe-super]
        for note in self.presentation.notes:
            self.status(note)
        return code

    def _add_defaults(self, parsed_args: argparse.Namespace) -> None:
        """Add the defaults of a plugin's format that no word of the command line names."""
        if plugins.is_builtin(self._formatter_plugins[parsed_args.formatter].entry_point):
            return  # those of our formats are always there
        parser = argparse.ArgumentParser(add_help=False)
        formatter = self._formatter_plugins[parsed_args.formatter].obj
        assert formatter is not None
        formatter.add_argument_group(parser)
        for name, value in vars(parser.parse_args([])).items():
            if name not in parsed_args:
                setattr(parsed_args, name, value)

    def _default_format(self) -> str:
        offered = self._formatter_plugins.names()
        before_command = getattr(self.app_args, "formatter", None)
        if getattr(self.app_args, "json", False):
            before_command = "json"
        if before_command:
            if before_command not in offered:
                raise UsageError(
                    f"{self.cmd_name} has no format {before_command!r}",
                    hint="It has: " + ", ".join(sorted(offered)) + ".",
                )
            return str(before_command)
        try:
            wanted = self.settings.format
        except SettingsError:
            if not self.tolerates_bad_settings:
                raise
            return self.formatter_default
        if wanted in offered:
            return str(wanted)
        if wanted and not Formatters.known(wanted):
            origin = self.settings.origins.get("format")
            raise SettingsError(
                f"no format is called {wanted!r} (from {origin})",
                hint="Known: " + ", ".join(sorted(offered)) + ".",
            )
        return self.formatter_default

    def _generate_columns_and_selector(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str]
    ) -> Any:
        known = {_normal(name): name for name in column_names}
        for name in parsed_args.columns:
            if _normal(name) not in known:
                raise UsageError(
                    f"no column is called {name!r}",
                    hint="Columns: " + ", ".join(column_names) + ".",
                )
        return super()._generate_columns_and_selector(parsed_args, column_names)

    def _check_columns_option(self, parsed_args: argparse.Namespace) -> None:
        """Let headings as well as field names choose columns (``-c Path``, ``-c Path,Size``)."""
        parsed_args.columns = self._field_names(parsed_args.columns)

    def _field_names(self, given: Sequence[str]) -> list[str]:
        """Return the columns that are *given* by name or heading, some with commas between them."""
        by_heading = {_normal(heading(name)): name for name in self.column_names}
        return [
            name if _normal(name) in self.column_names else by_heading.get(_normal(name), name)
            for text in given
            for name in (part.strip() for part in text.split(","))
        ]

    #: Field names of the output, in order; commands with a fixed set declare them.
    column_names: ClassVar[Sequence[str]] = ()


class Lister(_Display, cliff.lister.Lister):
    """A command whose result is any number of rows."""

    #: Columns of a plain line, separated by tabs; all when empty.
    plain_columns: ClassVar[Sequence[str]] = ()
    #: Columns that a table may leave out on a narrow terminal, the least important first.
    droppable: ClassVar[Sequence[str]] = ()

    @property
    def formatter_namespace(self) -> str:
        return plugins.LIST_FORMATTERS

    @functools.cached_property
    def presentation(self) -> Presentation:
        """How the formats for people show the rows; ``take_action`` may change it."""
        noun, _, verb = (self.cmd_name or "").rpartition(" ")
        empty = f"No {noun}s." if verb == "list" else "" if self.is_action else "There are none."
        return Presentation(plain_row=self.plain_row, droppable=self.droppable, empty=empty)

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        action = next(a for a in parser._actions if a.dest == "sort_columns")
        # cliff's text says that columns that there are not are ignored.
        action.help = (
            "sort the rows that are shown by this column; as for -c, the first counts most"
        )
        action.metavar = "<column>"
        return parser

    def produce_output(
        self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any
    ) -> int:
        """Write rows as *data* yields them; where one fails, a list writes none of them."""
        if getattr(parsed_args, "offset", 0):
            self.presentation.empty = ""  # there may be some before it
        parsed_args.sort_columns = self._field_names(parsed_args.sort_columns)
        known = {_normal(name) for name in column_names}
        for name in parsed_args.sort_columns:
            if _normal(name) not in known:
                raise UsageError(
                    f"no column is called {name!r}",
                    hint="Columns: " + ", ".join(column_names) + ".",
                )
        if parsed_args.formatter == "table":  # needs all rows before it writes any
            data = list(data)
        if self.is_action or not isinstance(data, Iterator):
            return super().produce_output(parsed_args, column_names, data)
        from tinkex.cli.formatters import spooled

        stdout = self.app.stdout
        try:
            with spooled(stdout) as self.app.stdout:
                return super().produce_output(parsed_args, column_names, data)
        finally:
            self.app.stdout = stdout

    def plain_row(self, record: Mapping[str, Any]) -> str | None:
        """Return the line of one row in the plain format; ``None`` leaves the row out."""
        names = self.plain_columns or tuple(record)
        return "\t".join(plain_text(record.get(name)) for name in names)


class ShowOne(_Display, cliff.show.ShowOne):
    """A command whose result is one object."""

    @property
    def formatter_namespace(self) -> str:
        return plugins.SHOW_FORMATTERS

    @functools.cached_property
    def presentation(self) -> Presentation:
        """How the formats for people show the object; ``take_action`` may change it."""
        return Presentation(plain_lines=self.plain_lines)

    def add_link(self, word: str, *page: str) -> None:
        """Make *word* in a table a link to a page of the service's web console, if it has one."""
        from tinkex.api.http.addresses import console_page

        if address := console_page(self.settings.base_url, *page):
            self.presentation.links[word] = address

    def plain_lines(self, record: Mapping[str, Any]) -> list[str]:
        """Return the lines of the object in the plain format: ``Heading: value``."""
        return [f"{heading(name)}: {plain_text(value)}" for name, value in record.items()]


def _normal(name: str) -> str:
    return name.lower().strip().replace(" ", "_")
