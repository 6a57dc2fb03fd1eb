"""What may stand at the cursor of an unfinished command line: for Tab, in every shell.

Commands, options and choices come from the parsers, so that plugins are completed as our own
commands are. Values are told by how an argument calls its value: ``<tinker_path>``, ``<run_id>``,
``<path>``, ``<file>`` and ``<dir>``, and a few options have values of their own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinkex import plugins

if TYPE_CHECKING:
    from tinkex.cli.app import TinkexApp
    from tinkex.cli.remembered import Remembered
    from tinkex.settings import Settings

#: Seconds that an answer of the service is waited for when nothing is remembered.
PATIENCE = 0.3
#: Words that no shell takes for anything but a word; others are not offered.
_SAFE = re.compile(r"[\w./:@%+,=~-]+")

_REMEMBERED = {
    "<tinker_path>": "checkpoints",
    "<run_id>": "runs",
    "<session_id>": "sessions",
    "<substring>": "models",
}
#: Names that work everywhere, see :mod:`tinkex.api.resources.names`.
_NEWEST = (
    ("@latest", "the last one"),
    ("@latest:sampler", "the last one for sampling"),
    ("@latest:training", "the last one to train on"),
)
_CONDITIONS = (
    ("checkpoint", "any new checkpoint"),
    ("checkpoint:", "one of this name"),
    ("idle:10m", "no request for ten minutes"),
)
_FILES = {"<path>": "files", "<file>": "files", "<dir>": "directories"}
#: What lists, and so remembers, the names of a kind.
_LISTING = {
    "checkpoints": ("checkpoint", "list", "--limit", "200"),
    "runs": ("run", "list", "--limit", "200"),
    "models": ("model", "list"),
    "sessions": ("session", "list", "--limit", "200"),
}


@dataclass(frozen=True)
class Offer:
    """What may stand at the cursor.

    :ivar values: words, each with a note about it, or ``""``.
    :ivar files: ``files`` or ``directories`` may stand there too; else ``""``.
    """

    values: tuple[tuple[str, str], ...] = ()
    files: str = ""


def offer(app: TinkexApp, words: Sequence[str], current: str) -> Offer:
    """Return what may stand in the place of *current*.

    :param words: the words before it, without the program's name.
    :param current: the word so far.
    """
    try:
        found = _Line(app, list(words)).offer(current)
    except Exception as error:
        # A plugin that does not load, a configuration that cannot be read: Tab is no place to
        # tell; the command itself will.
        app.LOG.debug("no completion: %s", error)
        return Offer()
    values = {value: note for value, note in found.values if _fits(value, current)}
    return Offer(tuple(values.items()), found.files)


def _fits(value: str, current: str) -> bool:
    return value.startswith(current) and value != "" and _SAFE.fullmatch(value) is not None


class _Line:
    """The words before the cursor, taken apart as the program will take them."""

    def __init__(self, app: TinkexApp, words: list[str]) -> None:
        self._app = app
        self._words = words

    def offer(self, current: str) -> Offer:
        program = self._app.parser
        at = 0
        while at < len(self._words) and self._words[at].startswith("-"):
            option = _option(program, self._words[at])
            if option is not None and _wants_next(option, self._words[at]):
                if at + 1 == len(self._words):
                    return self._values(option, current)
                at += 1
            at += 1
        names = self._words[at:]
        if self._app.interactive_mode and names == ["profile", "use"]:
            return Offer(_plain(_profiles()))
        for end in range(len(names), 0, -1):
            name = " ".join(names[:end])
            if name in self._app.command_manager.commands:
                return self._after_command(name, names[end:], current)
        if not names and current.startswith("-"):
            return self._options(program, self._words, current)
        return Offer(_plain(self._next_words(names)))

    def _next_words(self, names: list[str]) -> list[str]:
        """Return the words that may follow *names* in the name of a command."""
        commands = [name.split() for name in self._app.command_manager.commands]
        if self._app.interactive_mode:
            commands += [["profile", "use"], ["exit"]]
        depth = len(names)
        return sorted({c[depth] for c in commands if len(c) > depth and c[:depth] == names})

    def _after_command(self, name: str, rest: list[str], current: str) -> Offer:
        if name == "help":
            return Offer(_plain(self._next_words(rest)))
        app = self._app
        if not hasattr(app, "options"):
            app.options = app.parser.parse_args([])
        command = app.command_manager.commands[name].load()(app, app.options, name)
        parser = command.get_parser(name)
        positionals, option, only_words = 0, None, False
        for word in rest:
            if option is not None:
                option = None
            elif word == "--" and not only_words:
                only_words = True
            elif word.startswith("-") and len(word) > 1 and not only_words:
                found = _option(parser, word)
                option = found if found is not None and _wants_next(found, word) else None
            else:
                positionals += 1
        if option is not None:
            return self._values(option, current, command)
        if current.startswith("-") and not only_words:
            return self._options(parser, rest, current, command)
        below = [] if rest else self._next_words(name.split())
        found = _positional(parser, positionals)
        here = self._values(found, current, command) if found is not None else Offer()
        if found is None and not (below or current or only_words):
            return self._options(parser, rest, current, command)
        return Offer((*_plain(below), *here.values), here.files)

    def _options(
        self, parser: Any, given: Sequence[str], current: str, command: Any = None
    ) -> Offer:
        """Return the options that may still be given, or the values in ``--option=…``."""
        if current.startswith("--") and "=" in current:
            name, _, value = current.partition("=")
            option = parser._option_string_actions.get(name)
            values = self._values(option, value, command).values if option is not None else ()
            return Offer(tuple((f"{name}={value}", note) for value, note in values))
        used = {word.partition("=")[0] for word in given}
        return Offer(
            tuple(
                (spelling, _summary(action))
                for spelling, action in sorted(parser._option_string_actions.items())
                if (spelling.startswith("--") or current == spelling)
                and action.help != argparse.SUPPRESS
                and (_repeats(action) or used.isdisjoint(action.option_strings))
            )
        )

    def _values(self, action: Any, current: str, command: Any = None) -> Offer:
        """Return the values of the option or argument *action*."""
        if action.dest == "profile" or action.metavar == "<profile>":
            return Offer(_plain(_profiles()))
        if action.metavar == "<key_name>":
            return Offer(_plain(_stored_keys()))
        if action.dest == "http_pool":
            return Offer(_plain(_pools()))
        if action.choices:
            return Offer(_plain(map(str, action.choices)))
        if action.dest == "formatter":
            groups = (plugins.LIST_FORMATTERS, plugins.SHOW_FORMATTERS)
            return Offer(_plain(ep.name for group in groups for ep in plugins.entry_points(group)))
        if action.dest in ("columns", "sort_columns"):
            return Offer(_plain(getattr(command, "column_names", ())))
        if action.dest == "base_model":
            return Offer(_plain(self._remembered("models")))
        if action.dest == "until":
            return Offer(_CONDITIONS)
        if action.dest == "model_path":
            if current.startswith("@"):
                return Offer(_NEWEST)
            return Offer(_plain(self._remembered("checkpoints")), "directories")
        kind = _REMEMBERED.get(str(action.metavar))
        if kind:
            if current.startswith("@"):
                return Offer(_NEWEST if kind == "checkpoints" else _NEWEST[:1])
            names = self._remembered(kind)
            return Offer(_plain(name for name in names if name not in self._words))
        return Offer(files=_FILES.get(str(action.metavar), ""))

    # ------------------------------------------------------------------ names of the service

    def _remembered(self, kind: str) -> list[str]:
        from tinkex import settings
        from tinkex.cli.remembered import Remembered

        flags = self._flags()
        effective = settings.resolve(flags)
        known = Remembered.of(effective)
        names = known.names(kind)
        if not known.is_fresh(kind) and "--api-key" not in self._words and _may_ask(effective):
            known.mark_asked(kind)
            _ask(kind, flags)
            if not names:
                names = _wait_for(known, kind)
        return names

    def _flags(self) -> dict[str, str]:
        """Return the settings that are options of this line, or of the shell it is typed in."""
        shell = self._app.shell_options
        flags = {}
        for name in ("profile", "base_url", "http_pool"):
            option = "--" + name.replace("_", "-")
            value = getattr(shell, name, None)
            for word, after in zip(self._words, [*self._words, ""][1:], strict=True):
                if word == option:
                    value = after
                elif word.startswith(option + "="):
                    value = word.partition("=")[2]
            if value:
                flags[name] = value
        return flags


def _profiles() -> list[str]:
    from tinkex.settings import profile_names

    return profile_names()


def _pools() -> list[str]:
    from tinkex.settings import pool_names

    return pool_names()


def _stored_keys() -> list[str]:
    """Return the names of the stored keys; the id of one that has no name of its own."""
    from tinkex.config.credentials import KeyStore

    known = KeyStore().all()
    names = [key.name for key in known]
    return [key.name if key.name and names.count(key.name) == 1 else key.key_id for key in known]


def _may_ask(settings: Settings) -> bool:
    """Tell whether asking needs nothing of the person: no command, which may want a passphrase.

    Where certificates are not checked, nothing is sent that nobody is warned of.
    """
    if settings.pool_options.insecure:
        return False
    return bool(settings.api_key) or not settings.needs_api_key


def _ask(kind: str, flags: dict[str, str]) -> None:
    """Have a process of its own list the names; what it lists is remembered."""
    options = [word for name, v in flags.items() for word in ("--" + name.replace("_", "-"), v)]
    # -P: never from the current directory, which may hold anything.
    command = [sys.executable, "-P", "-m", "tinkex", *options, "--timeout", "10s"]
    nowhere = subprocess.DEVNULL
    try:
        subprocess.Popen(  # noqa: S603 - our own program; the values are those of this line
            [*command, *_LISTING[kind], "-f", "plain"],
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,
            cwd=os.path.expanduser("~"),
        )
    except OSError:
        return


def _wait_for(known: Remembered, kind: str) -> list[str]:
    until = time.monotonic() + PATIENCE
    names: list[str] = []
    while not names and time.monotonic() < until:
        time.sleep(0.02)
        names = known.names(kind)
    return names


# ---------------------------------------------------------------------- what argparse knows


def _option(parser: Any, word: str) -> Any:
    return parser._option_string_actions.get(word.partition("=")[0])


def _wants_next(action: Any, word: str) -> bool:
    return action.nargs != 0 and "=" not in word


def _repeats(action: Any) -> bool:
    return type(action).__name__ in ("_AppendAction", "_CountAction", "_ExtendAction")


def _positional(parser: Any, place: int) -> Any:
    """Return the argument in *place*; the last one may take several words."""
    actions = parser._get_positional_actions()
    if place < len(actions):
        return actions[place]
    return actions[-1] if actions and actions[-1].nargs in ("+", "*") else None


def _summary(action: Any) -> str:
    return " ".join((action.help or "").replace("%%", "%").split())[:70]


def _plain(values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((value, "") for value in values)
