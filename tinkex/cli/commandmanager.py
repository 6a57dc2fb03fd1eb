"""Loads commands, formats and hooks from entry points; imports only those that are used.

cliff's and stevedore's managers import all entry points of a group at every start and hide import
errors. cliff's manager also accepts unique prefixes: ``checkpoint de`` would delete.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

import cliff.command
import cliff.commandmanager

from tinkex import plugins
from tinkex.exceptions import PluginError, TinkexError

if TYPE_CHECKING:
    import argparse
    import logging
    from importlib.metadata import EntryPoint

    from tinkex.api import ServiceClient
    from tinkex.plugins import HttpPool
    from tinkex.settings import Settings


class CommandManager(cliff.commandmanager.CommandManager):
    """Finds commands by their exact names; built-in commands take precedence over plugins."""

    commands: dict[str, Any]

    def __init__(self) -> None:
        # cliff looks hooks up in "<namespace>.<command>"; commands have another group.
        super().__init__(plugins.HOOKS)

    def _load_commands(self) -> None:
        self.load_commands(plugins.COMMANDS)

    def load_commands(self, namespace: str) -> None:
        self.group_list.append(namespace)
        for entry_point in plugins.entry_points(namespace):
            self.commands[entry_point.name.replace("_", " ")] = entry_point

    def add_command(self, name: str, command_class: type[cliff.command.Command]) -> None:
        # cliff adds its own `help` and `complete` to every application; ours are entry points.
        if name not in self.commands:
            super().add_command(name, command_class)

    def find_command(self, argv: list[str]) -> tuple[type[cliff.command.Command], str, list[str]]:
        """Return the class, the name and the remaining arguments of the longest match.

        :raises UsageError: no command has this name.
        :raises PluginError: the command does not load.
        """
        last = self._get_last_possible_command_index(argv)
        for end in range(last, 0, -1):
            name = " ".join(argv[:end])
            if name in self.commands:
                return self.load(name), name, argv[end:]
        from tinkex.cli.errors import unknown_command

        raise unknown_command(argv[:last][:3] or argv[:1], self.commands)

    def load(self, name: str) -> type[cliff.command.Command]:
        """Return the class of the command *name*.

        :raises PluginError: two plugins claim the name, the import fails, or it is not a command.
        """
        return load_command(plugins.pick(plugins.COMMANDS, self.commands[name].name))

    def below(self, noun: str) -> list[str]:
        """Return the names of the subcommands of *noun*, which need not be a command itself."""
        return sorted(name for name in self.commands if name.startswith(noun + " "))

    def summary(self, name: str) -> str:
        """Return the first line of the docstring of the command *name*."""
        try:
            command = self.load(name)
        except PluginError as error:
            return f"({error})"
        # As inspect.getdoc(), without importing inspect.
        documented = (cls.__doc__ for cls in command.__mro__ if cls.__doc__)
        return next(documented, "").strip().partition("\n")[0].rstrip(".")

    def listing(self, names: Sequence[str], stdout: TextIO) -> str:
        """Return a line for each command: its name and its summary.

        On a terminal, a long line is wrapped.
        """
        import shutil
        import textwrap

        width = max(map(len, names)) + 2
        lines = [f"  {name:{width}}{self.summary(name)}" for name in names]
        if stdout.isatty():
            columns = max(shutil.get_terminal_size().columns, width + 30)
            indent = " " * (width + 2)
            lines = [textwrap.fill(line, columns, subsequent_indent=indent) for line in lines]
        return "\n".join([*lines, ""])


class Application(Protocol):
    """The application's interface for commands and completion; plugins use only its streams."""

    NAME: str
    LOG: logging.Logger
    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    parser: argparse.ArgumentParser
    command_manager: CommandManager
    interactive_mode: bool
    words: tuple[str, ...]
    options: argparse.Namespace
    shell_options: argparse.Namespace | None
    keeps_result: bool

    @property
    def settings(self) -> Settings: ...
    @property
    def format_setting(self) -> str | None: ...
    @property
    def client(self) -> ServiceClient: ...
    @property
    def pool(self) -> HttpPool | None: ...
    @property
    def display(self) -> Any: ...
    def client_for(self, settings: Settings) -> ServiceClient: ...
    def option(self, name: str) -> Any: ...
    def prog(self, name: str) -> str: ...
    def status(self, text: str) -> None: ...
    def warn(self, text: str, *, prefix: str = "Warning: ") -> None: ...
    def remember(self, kind: str, values: Iterable[str | None], *, whole: bool = False) -> None: ...
    def forget(self, kind: str, values: Iterable[str]) -> None: ...


def load_command(entry_point: EntryPoint) -> type[cliff.command.Command]:
    """Return the command class that *entry_point* names.

    :raises PluginError: the import fails, it is not a command of tinkex, or it lacks a method.
    """
    command: type[cliff.command.Command] = plugins.load(entry_point)
    is_command = isinstance(command, type) and issubclass(command, cliff.command.Command)
    if not is_command or not hasattr(command, "operation_name"):  # cliff's own have none
        raise PluginError(
            f"{entry_point.value} of plugin {plugins.owner_of(entry_point)} is not a subclass of "
            "Command, Lister or ShowOne in tinkex.commands.base",
            category="bug",
        )
    if missing := getattr(command, "__abstractmethods__", None):
        raise PluginError(
            f"{entry_point.value} of plugin {plugins.owner_of(entry_point)} does not implement "
            + " or ".join(sorted(missing)),
            hint="Report this bug to the plugin's maintainers.",
            category="bug",
        )
    return command


class Formatters:
    """The formats of one kind of command; replaces stevedore's manager.

    Built-in formats are imported at once. A plugin's format is imported only if a setting selects
    it or a word of the command line names it, because its options may then be on the line too.
    """

    def __init__(self, group: str, words: Iterable[str] = ()) -> None:
        self._group = group
        self._entry_points = {ep.name: ep for ep in plugins.entry_points(group)}
        # Possible values of -f: -f X, -fX, --format=X.
        self._named = {text for w in words for text in (w, w[2:], w.removeprefix("--format="))}
        self._loaded: dict[str, Any] = {}

    @staticmethod
    def known(name: str) -> bool:
        """Return whether any kind of command has a format of this name."""
        groups = (plugins.LIST_FORMATTERS, plugins.SHOW_FORMATTERS)
        return any(ep.name == name for group in groups for ep in plugins.entry_points(group))

    def names(self) -> list[str]:
        return list(self._entry_points)

    def __getitem__(self, name: str) -> Any:
        """Return an object with ``obj`` and ``entry_point``.

        :raises PluginError: the format does not load.
        """
        if name not in self._loaded:
            formatter = plugins.load_driver(self._group, name)
            self._loaded[name] = SimpleNamespace(
                obj=formatter, entry_point=self._entry_points[name]
            )
        return self._loaded[name]

    def __iter__(self) -> Iterator[Any]:
        for name, entry_point in self._entry_points.items():
            if plugins.is_builtin(entry_point) or name in self._named:
                try:
                    yield self[name]
                except PluginError:
                    continue  # reported when the format is used


class Hook(NamedTuple):
    """A hook for one command; cliff calls :attr:`obj`, whose errors name the plugin.

    :ivar options: the options that it has added to the parser.
    """

    obj: Any
    entry_point: EntryPoint
    options: list[argparse.Action]


def parser_with_hooks(
    command: cliff.command.Command, prog: str
) -> tuple[argparse.ArgumentParser, list[Hook], dict[EntryPoint, Exception]]:
    """Return the parser of *command* with hooks applied, these hooks, and errors of other hooks.

    A whole hook is omitted if it fails, or if one of its options already exists or is required.
    The command's own options are added first, so a conflict never affects them.
    """
    hooks: list[Hook] = []
    faults: dict[EntryPoint, Exception] = {}
    group = f"{plugins.HOOKS}.{(command.cmd_name or '').replace(' ', '_')}"
    for entry_point in plugins.entry_points(group):
        try:
            hooks.append(_load_hook(entry_point, command))
        except PluginError as error:
            faults[entry_point] = error
    while True:  # start over after an error: the hook may have added some of its options
        parser = command.get_parser(prog)
        for hook in hooks:
            before = len(parser._actions)
            try:
                hook.obj.get_parser(parser)
                hook.options[:] = [a for a in parser._actions[before:] if a.option_strings]
                if epilog := hook.obj.get_epilog():
                    parser.epilog = f"{parser.epilog or ''}\n\n{epilog}".lstrip()
            except PluginError as error:
                faults[hook.entry_point] = error
                hooks.remove(hook)
                break
        else:
            return parser, hooks, faults


def _load_hook(entry_point: EntryPoint, command: cliff.command.Command) -> Hook:
    name = f"the hook {entry_point.name!r} of plugin {{}}"

    def hint(distribution: str) -> str:
        return f"To run without this plugin: {plugins.turn_off(distribution)}"

    def guarded(method: Callable[..., Any], *meant: type[TinkexError]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with plugins.blaming(entry_point, f"{name} failed", hint=hint, meant=meant):
                return method(*args)

        return call

    loaded = plugins.load(entry_point)
    with plugins.blaming(entry_point, f"{name} does not start", hint=hint):
        hook = loaded(command=command)
        guards = SimpleNamespace(
            get_parser=guarded(functools.partial(_add_options, hook)),
            get_epilog=guarded(hook.get_epilog),
            # A TinkexError from these methods ends the command on purpose.
            before=guarded(hook.before, TinkexError),
            after=guarded(hook.after, TinkexError),
        )
    return Hook(guards, entry_point, [])


def _add_options(hook: Any, parser: argparse.ArgumentParser) -> None:
    """Add the options of *hook* to *parser*.

    :raises ValueError: one of them would be required, so that the command fails without it.
    """
    before = len(parser._actions)
    hook.get_parser(parser)
    for action in parser._actions[before:]:
        if action.required or not action.option_strings:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            raise ValueError(f"a hook cannot add required options or positional arguments: {name}")
