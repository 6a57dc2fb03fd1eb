"""The argument parser of every command, the global options, and the types of option values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn, TextIO

from tinkex.exceptions import SettingsError, UsageError

#: What plugins may use, see the page "Plugin API".
__all__ = ["integer", "non_empty", "number"]


class HelpRequested(Exception):
    """``--help`` was given; the help of the parser that saw it is wanted."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fill sentences, and keep the line breaks of paragraphs that have indented lines: examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        paragraphs = [
            paragraph
            if any(line.startswith(" ") for line in paragraph.splitlines())
            else textwrap.fill(" ".join(paragraph.split()), width)
            for paragraph in textwrap.dedent(text).strip("\n").split("\n\n")
        ]
        return "".join(indent + line for line in "\n\n".join(paragraphs).splitlines(keepends=True))


class _StoreOnce(argparse.Action):
    """The ``store`` action, refusing a second, different value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        seen: dict[str, Any] = getattr(parser, "seen", {})
        if option_string and seen.setdefault(self.dest, values) != values:
            parser.error(f"{option_string} is given twice, with different values")
        setattr(namespace, self.dest, values)


class _Help(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        kwargs["default"] = argparse.SUPPRESS
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        raise HelpRequested(parser)


class Parser(argparse.ArgumentParser):
    """Raise :class:`UsageError` instead of exiting, and say which option was meant.

    :param command: the command's name (``checkpoint list``), or ``''`` for the program itself.
    :param subcommands: full names of the commands below this one.
    :param help_action: what ``--help`` does; by default it raises :class:`HelpRequested`.
    """

    def __init__(
        self,
        *,
        command: str = "",
        subcommands: Sequence[str] = (),
        help_action: Any = _Help,
        **kwargs: Any,
    ) -> None:
        kwargs |= {"formatter_class": _HelpFormatter, "add_help": False, "allow_abbrev": False}
        self.command = command
        self.subcommands = tuple(subcommands)
        self.seen: dict[str, Any] = {}
        self._words: list[str] = []
        super().__init__(**kwargs)
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)
        self.add_argument("-h", "--help", action=help_action, help="show this help and exit")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.seen, self._words = {}, list(args or ())
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, extra = self.parse_known_args(args, namespace)
        extra = [word for word in extra if word != "--"]
        if extra:
            self._refuse(extra)
        return parsed

    def error(self, message: str) -> NoReturn:
        from tinkex.cli.errors import explain_refusal

        message, hint = explain_refusal(message, self._words, self._option_string_actions)
        raise UsageError(message, hint=hint or f"See: {self._help_command()}")

    def option_strings(self) -> list[str]:
        """Return every option this parser knows."""
        return sorted(self._option_string_actions)

    def _refuse(self, extra: list[str]) -> NoReturn:
        front = self._words[: [*self._words, "--"].index("--")]  # what may be an option
        options = [
            arg.partition("=")[0]
            for arg in extra
            if len(arg) > 1 and arg[0] == "-" and arg in front
        ]
        verb = bool(self.subcommands) and self._words[0] == extra[0] and extra[0][:1] != "-"
        if options and not verb:  # but: checkpoint lst --limit
            raise UsageError(
                f"Invalid option(s) for {self.command or 'tinkex'}: {', '.join(options)}",
                hint=self._nearest_option(options[0]),
                whole_line=True,
            )
        if f"{self.command} {extra[0]}" in self.subcommands:
            raise UsageError(
                f"options stand after the whole command: tinkex {self.command} {extra[0]} …",
                hint="Options that all commands take may also stand before it.",
            )
        from tinkex.cli import errors

        if verb:
            raise errors.unknown_command([*self.command.split(), extra[0]], self.subcommands)
        flags, texts = self._flags_and_texts()
        message, hint = errors.explain_extra_words(extra, self._words, flags, texts)
        what = f"unexpected argument(s) for {self.command or 'tinkex'}: {' '.join(extra)[:200]}"
        raise UsageError(message or what, hint=hint or f"See: {self._help_command()}")

    def _flags_and_texts(self) -> tuple[set[str], set[str]]:
        """Return the options that take no value, and those that take any text."""
        flags, texts = set(), set()
        for name, action in self._option_string_actions.items():
            if action.nargs == 0:
                flags.add(name)
            elif not (action.nargs or action.type or action.choices):
                texts.add(name)
        return flags, texts

    def _nearest_option(self, option: str) -> str:
        from tinkex.cli import errors

        if not self.command:  # it may be an option of the command that follows
            near = errors.nearest_option(option, self.option_strings(), 0.75)
            behind = "Options of a command follow it: tinkex checkpoint list --limit 5"
            return f"Did you mean {near}?" if near else behind
        near = errors.nearest_option(option, self.option_strings())
        return f"Did you mean {near}?" if near else f"See: {self._help_command()}"

    def _help_command(self) -> str:
        return f"tinkex help {self.command}".rstrip()

    def print_help(self, file: Any = None) -> None:
        """Print the help, through a pager when *file* is a terminal too short for it."""
        print_paged(self, file)


def print_paged(
    parser: argparse.ArgumentParser, stream: TextIO, more: str = "", *, paged: bool = True
) -> None:
    """Write the help of *parser* and *more* to *stream*.

    :param paged: on a terminal that is too short for it, through a pager.
    """
    from tinkex.cli.terminal import can_move, wants_colour

    # Where the standard library draws help in colour (Python 3.14), it does as we say.
    parser.color = wants_colour(stream)  # type: ignore[attr-defined]
    # A pager draws; on a dumb terminal less warns of it, and waits for a key.
    if not paged or not can_move(stream):
        stream.write(parser.format_help() + more)
        return
    import autopage.argparse

    pager = autopage.argparse.help_pager(stream)
    with pager as out:
        out.write(parser.format_help() + more)


def program_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a whole command line, which leaves what follows the command alone."""
    usage = f"{prog} [global options] <command> [options]\n       {prog} help <command>"
    # The program's own help lists the commands, so it is a command.
    parser = Parser(prog=prog, description=description, usage=usage, help_action="store_true")
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument(
        "-f", "--format", dest="formatter", metavar="<format>", help="as after the command"
    )
    parser.add_argument("--json", action="store_true", help="as after the command")
    add_global_options(parser, after_command=False)
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="with a script on standard input: go on after a line that fails",
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def add_global_options(parser: argparse.ArgumentParser, *, after_command: bool) -> None:
    """Add the options that every command takes.

    :param after_command: this is a command's parser: an option not given there must not
        overwrite the one given before the command.
    """
    default: Any = argparse.SUPPRESS if after_command else None
    group = parser.add_argument_group("global options")
    group.add_argument(
        "--api-key",
        metavar="<key>",
        default=default,
        help="API key; - reads it from standard input, @FILE from a file [TINKER_API_KEY]",
    )
    group.add_argument(
        "--base-url",
        metavar="<url>",
        default=default,
        help="address of the service [TINKER_BASE_URL]",
    )
    group.add_argument(
        "--timeout",
        metavar="<ms>",
        default=default,
        type=_timeout,
        help="longest wait for the service: milliseconds, or with a unit: 30s, 2m "
        "(default: 120000)",
    )
    group.add_argument(
        "--profile",
        metavar="<name>",
        default=default,
        help="named group of settings from the configuration file [TINKEX_PROFILE]",
    )
    group.add_argument(
        "--http-pool",
        metavar="<name>",
        default=default,
        help="HTTP pool that carries the requests [TINKEX_HTTP_POOL]",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        default=argparse.SUPPRESS if after_command else None,
        help="do not check certificates: anyone on the way can read the key; warns each time",
    )
    _add_diagnostic_options(group, after_command=after_command)


def _add_diagnostic_options(group: Any, *, after_command: bool) -> None:
    def default(value: Any) -> Any:
        return argparse.SUPPRESS if after_command else value

    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=default(0),
        help="log every request on standard error",
    )
    group.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=default(False),
        help="no status lines on standard error",
    )
    group.add_argument(
        "--log-file", metavar="<file>", default=default(None), help="write a log to this file"
    )
    group.add_argument(
        "--curl",
        action="store_true",
        default=default(False),
        help="print the first request as a curl command, without the key, and send nothing",
    )
    group.add_argument(
        "--debug", action="store_true", default=default(False), help="show tracebacks of errors"
    )


def _timeout(text: str) -> str:
    # Checked here so that the error names the option; converted by the settings.
    from tinkex.config.values import parse_timeout

    try:
        parse_timeout(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(f"{error}. {error.hint}") from error
    return text


def integer(minimum: int, maximum: int = 2**63 - 1) -> Callable[[str], int]:
    """Return an argparse type: a whole number from *minimum* to *maximum*."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also thousands of digits
            raise argparse.ArgumentTypeError(f"not a whole number: {text[:40]!r}") from None
        if value > maximum:
            raise argparse.ArgumentTypeError(f"must be at most {maximum}")
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, not {value}")
        return value

    return convert


def number(
    minimum: float, maximum: float = float("inf"), *, above: bool = False
) -> Callable[[str], float]:
    """Return an argparse type: a finite number from *minimum* to *maximum*.

    :param above: *minimum* itself is not allowed.
    """

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"not a number: {text[:40]!r}") from None
        if value == float("inf"):
            raise argparse.ArgumentTypeError("must be a finite number")
        inside = (minimum < value if above else minimum <= value) and value <= maximum
        if not inside:
            limits = f"{'above' if above else 'at least'} {minimum:g}"
            limits += f" and at most {maximum:g}" if maximum < float("inf") else ""
            raise argparse.ArgumentTypeError(f"must be {limits}, not {text}")
        return value

    return convert


def duration(
    *, bare: str | None = None, least: timedelta = timedelta()
) -> Callable[[str], timedelta]:
    """Return an argparse type: a span of time such as ``7d``.

    :param bare: unit of a number without one, see :func:`tinkex.durations.parse_duration`.
    :param least: a shorter one is refused.
    """

    def convert(text: str) -> timedelta:
        from tinkex.durations import parse_duration

        try:
            span = parse_duration(text, bare=bare)
        except UsageError as error:
            raise argparse.ArgumentTypeError(f"{error}. {error.hint}") from error
        if span < least:
            raise argparse.ArgumentTypeError(f"must be at least {least.total_seconds():g}s")
        return span

    return convert


def interval() -> Callable[[str], timedelta]:
    """Return an argparse type: the time between two requests of a command that asks on and on.

    More than one a second is of no use to anybody, and a burden to the service.
    """
    return duration(bare="s", least=timedelta(seconds=1))


def moment(text: str) -> datetime:
    """Return the argparse value of a moment such as ``2026-11-01`` or ``3d`` (ago), in UTC."""
    from tinkex.durations import parse_moment

    try:
        return parse_moment(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(f"{error}. {error.hint}") from error


def top_k(text: str) -> int:
    """Return the argparse value of ``--top-k``: −1 (off) or a count of at least 1."""
    value = integer(-1)(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be -1 (off) or at least 1, not 0")
    return value


def non_empty(text: str) -> str:
    """Return the argparse value of a text that must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text
