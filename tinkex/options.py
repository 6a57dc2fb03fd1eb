"""The argument parser of every command, the global options, and types of option values."""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TextIO

from tinkex.exceptions import SettingsError, UsageError

#: What plugins may use, see the page "Plugin API".
__all__ = ["integer", "non_empty", "number"]

#: Seconds of each unit. A month has no fixed length, and ``m`` is a minute.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_NUMBER = r"\d{1,12}(?:\.\d{1,6})?"
_PART = rf"({_NUMBER})\s*([smhdwy])"
#: A longer duration could lead to dates that Python does not have.
_LONGEST = timedelta(days=100 * 365)
_DURATION_HINT = "Use a number with a unit (90s, 45m, 12h, 7d, 2w, 1y), or several (1h30m)."
_MOMENT_HINT = (
    "Use a date (2026-11-01), a date and time (2026-11-01T15:30, in UTC unless it has an offset), "
)
_PAST_HINT = _MOMENT_HINT + "a time before now (30d, 12h), today, yesterday or now."
_FUTURE_HINT = _MOMENT_HINT + "or a time from now (3d, 12h)."


#: A heading in help.
_HEADING = re.compile(r"^(usage:|[a-z ]+:$)", re.MULTILINE)


class HelpRequested(Exception):
    """``--help`` was given; *parser* formats the help to print."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wrap paragraphs, except those with indented lines, such as examples; break no option."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        paragraphs = [
            paragraph
            if any(line.startswith(" ") for line in paragraph.splitlines())
            else textwrap.fill(" ".join(paragraph.split()), width, break_on_hyphens=False)
            for paragraph in textwrap.dedent(text).strip("\n").split("\n\n")
        ]
        return "".join(indent + line for line in "\n\n".join(paragraphs).splitlines(keepends=True))

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap

        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _StoreOnce(argparse.Action):
    """A ``store`` action that rejects a second, different value."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if option and parser.seen.setdefault(self.dest, values) != values:
            parser.error(f"{option} is given twice, with different values")
        setattr(namespace, self.dest, values)


class _Help(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        kwargs["default"] = argparse.SUPPRESS
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        raise HelpRequested(parser)


class Parser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError` with a hint, instead of exiting.

    :param command: the command's name (``checkpoint list``), or ``''`` for the program itself.
    :param subcommands: full names of the commands below this one.
    :param listing: returns the help lines that describe the subcommands.
    :param help_action: the action of ``--help``; by default it raises :class:`HelpRequested`.
    """

    def __init__(
        self,
        *,
        command: str = "",
        subcommands: Sequence[str] = (),
        listing: Callable[[], str] = str,
        help_action: Any = _Help,
        **kwargs: Any,
    ) -> None:
        kwargs |= {"formatter_class": _HelpFormatter, "add_help": False, "allow_abbrev": False}
        self.command = command
        self.subcommands = tuple(subcommands)
        #: Groups of options that many commands have: the help only says where they are described.
        self.folded: list[argparse._ArgumentGroup] = []
        self._listing = listing
        self.seen: dict[str, Any] = {}
        self._words: list[str] = []
        super().__init__(**kwargs)
        self._positionals.title = "arguments"
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

    def format_help(self) -> str:
        """Return the help; options common to many commands are folded into one line."""
        if not self.folded:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(self.usage or self._short_usage(), (), ())
        formatter.add_text(self.description)
        formatter.add_text(self._listing())
        for group in self._action_groups:
            if group not in self.folded:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(
                    sorted(
                        group._group_actions, key=lambda action: "--help" in action.option_strings
                    )
                )
                formatter.end_section()
        shared = "Output (-f, --json, …) and global" if len(self.folded) > 1 else "Global"
        page = f"{self.prog.removesuffix(self.command).rstrip()} help options".lstrip()
        formatter.add_text(f"{shared} options (--profile, …): {page}")
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _short_usage(self) -> str:
        parts = [self.prog, "[options]"]
        for action in self._get_positional_actions():
            name = str(action.metavar or "|".join(map(str, action.choices or [action.dest])))
            many = {"+": f"{name}...", "*": f"[{name}...]", "?": f"[{name}]"}
            parts.append(many.get(str(action.nargs), name))
        return " ".join(parts)

    def error(self, message: str) -> NoReturn:
        message = message.replace("ignored explicit argument", "takes no value:")
        hint = f"See: {self._help_command()}"
        about = re.fullmatch(r"argument (\S+): expected one argument", message)
        names = about[1].split("/") if about else []
        for word, value in itertools.pairwise(self._words):
            known = value.partition("=")[0] in self._option_string_actions and " " not in value
            if word in names and value[:1] == "-" and not known:
                joined = f"{names[-1]}={'KEY' if _is_secret(names[-1]) else shlex.quote(value)}"
                hint = f"Use '=' before a value that begins with '-': {joined}"
        raise UsageError(message, hint=hint)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            from tinkex.cli.errors import nearest

            near = nearest(str(value), map(str, action.choices or ()))
            if near is None:
                raise
            raise UsageError(str(error), hint=f"Did you mean {near}?") from None

    def option_strings(self) -> list[str]:
        """Return every option that this parser defines."""
        return sorted(self._option_string_actions)

    def _refuse(self, extra: list[str]) -> NoReturn:
        from tinkex.cli.errors import as_argument, text_option, unknown_command

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
                hint=self._hint_at_option(options[0]),
                whole_line=True,
            )
        if f"{self.command} {extra[0]}" in self.subcommands:
            raise UsageError(
                f"options must follow the whole command: tinkex {self.command} {extra[0]} …",
                hint="Global options may also precede it.",
            )
        if verb:
            rest = itertools.takewhile(lambda word: word[:1] != "-", extra[1:])
            raise unknown_command([*self.command.split(), extra[0]], self.subcommands, [*rest])
        hint = self._hint_at_quotes(extra) or f"See: {self._help_command()}"
        if option := text_option(self.command, self._words):
            hint = f"Did you mean {option} {as_argument(extra)}?"
        elif extra[0].isdecimal() and "--limit" in self._option_string_actions:
            hint = f"Did you mean --limit {extra[0]}?"
        raise UsageError(
            f"unexpected argument(s) for {self.command or 'tinkex'}: {' '.join(extra)[:200]}",
            hint=hint,
        )

    def _hint_at_option(self, option: str) -> str:
        from tinkex.cli.errors import nearest_option

        # Before a command it may be an option of that command.
        near = nearest_option(option, self._option_string_actions, 0.6 if self.command else 0.75)
        if near:
            return f"Did you mean {near}?"
        if self.command:
            return f"See: {self._help_command()}"
        return "Put command options after the command, as in: tinkex checkpoint list --limit 5"

    def _hint_at_quotes(self, extra: list[str]) -> str | None:
        """Return a hint if *extra* is the rest of an unquoted value before it."""
        at = self._words.index(extra[0])
        name, joined, text = self._words[at - 1].partition("=")
        if not joined and at > 1:
            name, text = self._words[at - 2 : at]
        option = self._option_string_actions.get(name)
        if option is None or option.nargs == 0 or option.type or option.choices:
            return None
        if _is_secret(name):
            return None
        text = shlex.quote(" ".join([text, *extra]))
        return f"Quote a value that contains spaces: {name} {text}"

    def _help_command(self) -> str:
        return f"tinkex help {self.command}".rstrip()


def print_paged(
    parser: argparse.ArgumentParser, stream: TextIO, more: str = "", *, paged: bool = True
) -> None:
    """Write the help of *parser* and *more* to *stream*.

    :param paged: use a pager on a terminal that is too short for it.
    """
    from tinkex.cli.formatters import can_redraw, wants_colour

    # Python 3.14 colours help by its own rules.
    parser.color = False  # type: ignore[attr-defined]
    text = parser.format_help() + more
    if wants_colour(stream):
        text = _HEADING.sub("\x1b[1m\\g<0>\x1b[0m", text)
    # On a dumb terminal less prints a warning and waits for a key.
    if not paged or not can_redraw(stream):
        stream.write(text)
        return
    import autopage.argparse

    pager = autopage.argparse.help_pager(stream)
    with pager as out:
        out.write(text)


def program_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the global options, which does not parse the arguments after them."""
    usage = f"{prog} [global options] <command> [options]\n       {prog} help <command>"
    # The program's own help lists the commands, so it is a command.
    parser = Parser(prog=prog, description=description, usage=usage, help_action="store_true")
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    add_global_options(parser, after_command=False)
    output = parser.add_argument_group("output options")
    output.add_argument(
        "-f", "--format", dest="formatter", metavar="<format>", help="output format"
    )
    output.add_argument("--json", action="store_true", help="same as -f json")
    parser.folded.append(output)
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="continue a script on standard input after a line fails",
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def add_global_options(parser: Parser, *, after_command: bool) -> None:
    """Add the options of every command, which the help folds into one line.

    :param after_command: *parser* is that of a command: an option that is not given after the
        command must not overwrite one that is given before it.
    """
    group = parser.add_argument_group("global options")
    parser.folded.append(group)
    actions = [*_add_settings(group.add_argument), *_add_diagnostics(group.add_argument)]
    if after_command:
        for action in actions:
            action.default = argparse.SUPPRESS


#: cliff's words for the options of its formats, edited: option → metavar and help.
_OUTPUT_OPTIONS = {
    "--format": ("<format>", ""),
    "--column": ("<column>", "column to print; repeat the option, or separate names with commas"),
    "--json": (None, ""),
    "--sort-column": (
        "<column>",
        "column to sort the rows by; repeat the option to add sort columns",
    ),
    "--sort-ascending": (None, "sort in ascending order (default)"),
    "--sort-descending": (None, "sort in descending order"),
    "--quote": (
        "<values>",
        "csv: values to quote: all, minimal, none or nonnumeric (default: nonnumeric)",
    ),
    "--noindent": (None, "json: print the output on one line"),
    "--prefix": ("<text>", "shell: prefix of each name"),
    "--variable": ("<name>", "shell: name to print; repeat the option to print several names"),
    "--max-width": (None, ""),
    "--fit-width": (None, ""),
    "--print-empty": (None, ""),
}


def edit_output_options(parser: Parser, output: argparse._ArgumentGroup, default: str) -> None:
    """Fold the output options that cliff has added to *parser*, and edit their help.

    :param output: the group that cliff has added first.
    :param default: the default format, for the help.
    """
    groups = parser._action_groups
    added = groups[groups.index(output) :]
    parser.folded += added
    output.title, output.description = "output options", None
    for group in added:
        names = [action.option_strings[-1] for action in group._group_actions]
        if group is not output and _OUTPUT_OPTIONS.keys() >= set(names):
            output._group_actions += group._group_actions
            groups.remove(group)
    for action in output._group_actions:
        metavar, text = _OUTPUT_OPTIONS.get(action.option_strings[-1], (None, ""))
        action.metavar, action.help = metavar or action.metavar, text or action.help
    formats = output._group_actions[0]
    formats.default = None
    formats.help = describe_formats(map(str, formats.choices or ()), default)


def describe_formats(names: Iterable[str], default: str) -> str:
    """Return the help of ``-f``, which chooses one of *names*."""
    return f"output format: {', '.join(names)} (default: {default}) [TINKEX_FORMAT]"


def _add_settings(add: Callable[..., argparse.Action]) -> Iterator[argparse.Action]:
    yield add(
        "--api-key",
        metavar="<key>",
        help="API key, or - to read it from standard input, or @FILE to read it from a file "
        "[TINKER_API_KEY]",
    )
    yield add("--base-url", metavar="<url>", help="base URL of the service [TINKER_BASE_URL]")
    yield add(
        "--timeout",
        metavar="<ms>",
        type=_timeout,
        help="maximum time to wait for the service, in milliseconds or with a unit (30s, 2m) "
        "(default: 120000)",
    )
    yield add(
        "--profile",
        metavar="<name>",
        help="named group of settings, from the configuration file or a plugin [TINKEX_PROFILE]",
    )
    yield add(
        "--http-pool",
        metavar="<name>",
        help="HTTP pool that sends the requests [TINKEX_HTTP_POOL]",
    )
    yield add(
        "--insecure",
        action="store_true",
        default=None,
        help="do not verify TLS certificates (unsafe: the API key can be intercepted)",
    )


def _add_diagnostics(add: Callable[..., argparse.Action]) -> Iterator[argparse.Action]:
    log = "log every request to standard error"
    yield add("-v", "--verbose", action="count", default=0, help=log)
    quiet = "do not print status lines to standard error"
    yield add("-q", "--quiet", action="store_true", help=quiet)
    yield add("--log-file", metavar="<file>", help="write the log to this file")
    curl = "print the first request as a curl command, without the key, instead of sending it"
    yield add("--curl", action="store_true", help=curl)
    yield add("--debug", action="store_true", help="show error tracebacks")


def _timeout(text: str) -> str:
    # The settings convert it; checked here so that the error names the option.
    from tinkex.config.values import parse_timeout

    with _named_by_argparse():
        parse_timeout(text)
    return text


@contextmanager
def _named_by_argparse() -> Iterator[None]:
    """Raise an error that argparse reports with the name of the option."""
    try:
        yield
    except (SettingsError, UsageError) as error:
        raise argparse.ArgumentTypeError(f"{error}. {error.hint}") from error


def integer(minimum: int, maximum: int = 2**63 - 1) -> Callable[[str], int]:
    """Return an argparse type for a whole number from *minimum* to *maximum*."""

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
    """Return an argparse type for a finite number from *minimum* to *maximum*.

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
    """Return an argparse type for a duration such as ``7d``.

    :param bare: unit of a number without one, see :func:`parse_duration`.
    :param least: the shortest duration accepted.
    """

    def convert(text: str) -> timedelta:
        with _named_by_argparse():
            length = parse_duration(text, bare=bare)
        if length < least:
            raise argparse.ArgumentTypeError(f"must be at least {least.total_seconds():g}s")
        return length

    return convert


def interval() -> Callable[[str], timedelta]:
    """Return an argparse type for a polling interval, of one second or more."""
    return duration(bare="s", least=timedelta(seconds=1))


def moment(text: str) -> datetime:
    """Parse a time such as ``2026-11-01`` or ``3d`` (ago) and return it in UTC."""
    with _named_by_argparse():
        return parse_moment(text)


def future(text: str) -> datetime:
    """Parse a time such as ``2026-11-01`` or ``3d`` (from now) and return it in UTC."""
    with _named_by_argparse():
        return parse_moment(text, ahead=True)


def parse_duration(text: str, *, bare: str | None = None) -> timedelta:
    """Parse the duration *text*: ``90s``, ``7d``, ``1h30m``, ``1.5d``.

    :param bare: unit (``s``, ``m``, ``h``, ``d``, ``w``, ``y``) of a number without one; without
        *bare*, such a number is rejected.
    :raises UsageError: not a duration, zero, or longer than a hundred years.
    """
    words = text.strip()
    if bare is not None and re.fullmatch(_NUMBER, words, re.ASCII):
        words += bare
    length = _duration(words)
    if length is None:
        raise UsageError(f"not a duration: {text[:40]!r}", hint=_DURATION_HINT)
    if not timedelta() < length <= _LONGEST:
        raise UsageError(
            f"the duration is zero or over 100 years: {text[:40]!r}", hint=_DURATION_HINT
        )
    return length


def parse_moment(text: str, now: datetime | None = None, *, ahead: bool = False) -> datetime:
    """Parse the time *text* and return it in UTC.

    :param text: an ISO 8601 date (midnight UTC) or time (UTC unless it has an offset), a duration
        (that long before *now*; ``ago`` may follow), ``now``, ``today`` or ``yesterday``.
    :param now: the current time, with a time zone; by default that of the system clock.
    :param ahead: a duration means that long after *now*; ``in`` may precede it.
    :raises UsageError: not a time, or outside the years 1 to 9999.
    """
    now = (now or datetime.now(UTC)).astimezone(UTC)
    words = " ".join(text.split()).lower()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if words in named:
        return named[words]
    length = _duration(words.removeprefix("in ") if ahead else words.removesuffix(" ago"))
    try:
        if length is not None and length <= _LONGEST:
            return now + length if ahead else now - length
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        hint = _FUTURE_HINT if ahead else _PAST_HINT
        raise UsageError(f"not a date or time: {text[:40]!r}", hint=hint) from None


def _duration(words: str) -> timedelta | None:
    """Return the sum of the parts of *words*, or ``None`` if they are not a duration."""
    if not re.fullmatch(rf"(?:{_PART}\s*)+", words, re.ASCII | re.IGNORECASE):
        return None
    parts = re.findall(_PART, words, re.ASCII | re.IGNORECASE)
    seconds = sum(float(count) * _UNITS[unit.lower()] for count, unit in parts)
    # Callers reject what is too long; a timedelta could not hold it.
    return timedelta(seconds=min(seconds, _LONGEST.total_seconds() * 2))


def top_k(text: str) -> int:
    """Parse the value of ``--top-k``: -1 (all) or at least 1."""
    value = integer(-1)(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be -1 (all) or at least 1, not 0")
    return value


def non_empty(text: str) -> str:
    """Return *text*, which must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _is_secret(option: str) -> bool:
    return option.endswith("key")
