"""Completion of a command line at the cursor, in every shell.

Commands, options and choices come from the parsers, so plugins are completed like built-in
commands. Values depend on the argument's metavar (``<tinker_path>``, ``<run_id>``, ``<file>``, …).
Names on the service come from :class:`Cache`, or within a second from the service itself.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from tinkex import plugins
from tinkex.cli.commandmanager import parser_with_hooks
from tinkex.exceptions import LocalError, TinkexError
from tinkex.files import private_directory, replacing, why_not_private, xdg_directory

if TYPE_CHECKING:
    from tinkex.cli.commandmanager import Application
    from tinkex.settings import Settings

#: Seconds to wait for the service.
PATIENCE = 1.0
#: Seconds after which names are fetched from the service again.
FRESH = 120.0
#: Seconds after which names are no longer offered.
EXPIRY = 3600.0
#: Maximum number of names of each kind to keep, and to request from the service.
KEPT, ASKED = 1000, 200

#: Words that no shell interprets; others are not offered.
_SAFE = re.compile(r"[\w./:@%+,=~-]+")
#: Metavar of an argument → kind of names.
_KINDS = {
    "<tinker_path>": "checkpoints",
    "<source>": "checkpoints",
    "<run_id>": "runs",
    "<session_id>": "sessions",
    "<substring>": "models",
}
_FILES = {"<path>": "files", "<file>": "files", "<prompts>": "files", "<dir>": "directories"}
#: Names that work everywhere, see :mod:`tinkex.api.resources.names`.
_NEWEST = (
    ("@latest", "the latest checkpoint or run"),
    ("@latest:sampler", "the latest sampler checkpoint"),
    ("@latest:training", "the latest training checkpoint"),
)
_CONDITIONS = (
    ("checkpoint", "any new checkpoint"),
    ("checkpoint:", "a checkpoint with this name"),
    ("idle:10m", "no requests for ten minutes"),
)


class Offer(NamedTuple):
    """The completions at the cursor.

    :ivar values: words, each with a note or ``""``.
    :ivar files: ``files`` or ``directories`` if such a path is possible too; else ``""``.
    """

    values: tuple[tuple[str, str], ...] = ()
    files: str = ""


def offer(app: Application, words: Sequence[str], current: str) -> Offer:
    """Return the completions that can replace *current*.

    :param words: the words before it, without the program's name.
    :param current: the incomplete word.
    """
    try:
        found = _CommandLine(app, list(words)).offer(current)
    except Exception as error:
        # For example, a plugin does not load; the command itself will report it.
        app.LOG.debug("no completion: %s", error)
        return Offer()
    values = {
        value: note
        for value, note in found.values
        if value and value.startswith(current) and _SAFE.fullmatch(value)
    }
    return Offer(tuple(values.items()), found.files)


class _CommandLine:
    """The words before the cursor, parsed as the program parses them."""

    def __init__(self, app: Application, words: list[str]) -> None:
        self._app = app
        self._words = words

    def offer(self, current: str) -> Offer:
        program = self._app.parser
        at = 0
        while at < len(self._words) and self._words[at].startswith("-"):
            if option := _waiting_option(program, self._words[at]):
                if at + 1 == len(self._words):
                    return self._values(option, current)
                at += 1
            at += 1
        names = self._words[at:]
        if self._app.interactive_mode and names == ["profile", "use"]:
            from tinkex.settings import profile_names

            return _plain(profile_names())
        for end in range(len(names), 0, -1):
            name = " ".join(names[:end])
            if name in self._app.command_manager.commands:
                return self._after_command(name, names[end:], current)
        if not names and current.startswith("-"):
            return self._options(program, self._words, current)
        return _plain(self._next_words(names))

    def _next_words(self, names: list[str]) -> list[str]:
        """Return the words that may follow *names* in the name of a command."""
        commands = [name.split() for name in self._app.command_manager.commands]
        if self._app.interactive_mode:
            commands += [["profile", "use"], ["exit"]]
        depth = len(names)
        return sorted({c[depth] for c in commands if len(c) > depth and c[:depth] == names})

    def _after_command(self, name: str, rest: list[str], current: str) -> Offer:
        if name == "help":
            return _plain(self._next_words(rest) + ([] if rest else ["options"]))
        app = self._app
        if not hasattr(app, "options"):
            app.options = app.parser.parse_args([])
        # A format or a setting of a plugin adds options and choices if it is named.
        app.words = (*self._words, current)
        factory: Any = app.command_manager.load(name)
        command = factory(app, app.options, name)
        parser = parser_with_hooks(command, name)[0]  # the command itself reports bad hooks
        positionals, option, only_words = 0, None, False
        for word in rest:
            if option is not None:
                option = None
            elif word == "--" and not only_words:
                only_words = True
            elif word.startswith("-") and len(word) > 1 and not only_words:
                option = _waiting_option(parser, word)
            else:
                positionals += 1
        if option is not None:
            return self._values(option, current, command)
        if current.startswith("-") and not only_words:
            return self._options(parser, rest, current, command)
        below = [] if rest else self._next_words(name.split())
        found = _positional(parser, positionals)
        if found is None and not (below or current or only_words):
            return self._options(parser, rest, current, command)
        here = self._values(found, current, command) if found is not None else Offer()
        return Offer((*_plain(below).values, *here.values), here.files)

    def _options(
        self, parser: Any, given: Sequence[str], current: str, command: Any = None
    ) -> Offer:
        """Return the options that may still be given, or the values in ``--option=…``."""
        if current.startswith("--") and "=" in current:
            name, _, value = current.partition("=")
            option = parser._option_string_actions.get(name)
            found = self._values(option, value, command) if option is not None else Offer()
            values = tuple((f"{name}={value}", note) for value, note in found.values)
            return Offer(values, found.files)
        used = {word.partition("=")[0] for word in given}
        return Offer(
            tuple(
                (spelling, " ".join((action.help or "").replace("%%", "%").split())[:70])
                for spelling, action in sorted(parser._option_string_actions.items())
                if (spelling.startswith("--") or current == spelling)
                and action.help != argparse.SUPPRESS
                and ("Append" in type(action).__name__ or used.isdisjoint(action.option_strings))
            )
        )

    def _values(self, action: Any, current: str, command: Any = None) -> Offer:
        """Return the values of the option or argument *action*."""
        from tinkex import settings

        metavar = str(action.metavar)
        if action.dest == "profile" or metavar == "<profile>":
            return _plain(settings.profile_names())
        if metavar == "<alias>":
            return _plain(name.removeprefix("@") for name, _ in _aliases())
        if metavar == "<key_name>":
            return _plain(_stored_keys())
        if action.dest == "http_pool":
            return _plain(settings.pool_names())
        if action.choices:
            return _plain(map(str, action.choices))
        if action.dest == "formatter":
            groups = (plugins.LIST_FORMATTERS, plugins.SHOW_FORMATTERS)
            return _plain(ep.name for group in groups for ep in plugins.entry_points(group))
        if action.dest in ("columns", "sort_columns"):
            return _plain(getattr(command, "column_names", ()))
        if action.dest == "until":
            return Offer(_CONDITIONS)
        kind = {"base_model": "models", "model_path": "checkpoints"}.get(action.dest)
        kind = kind or _KINDS.get(metavar)
        if kind is None:
            return Offer(files=_FILES.get(metavar, ""))
        run, at, _ = current.partition("@")
        own = _aliases() if not run and kind in ("checkpoints", "runs") else ()
        if at and kind == "checkpoints":
            return Offer((*((run + name, note) for name, note in _NEWEST), *own))
        if at:
            return Offer((*_NEWEST[:1], *own))
        if kind != "checkpoints":
            return _plain(name for name in self._names(kind) if name not in self._words)
        files = "directories" if action.dest in ("model_path", "source") else ""
        return Offer((*self._checkpoints(current).values, *own), files)

    # ------------------------------------------------------------------ names on the service

    def _names(self, kind: str) -> list[str]:
        from tinkex import settings

        effective = settings.resolve(self._flags())
        cache = Cache.of(effective)
        has_key = bool(effective.api_key) or not effective.needs_api_key
        # A command that prints the key may ask for a passphrase, and nothing is sent without
        # checking certificates unless the user is warned.
        may_ask = has_key and not effective.pool_options.insecure
        if may_ask and "--api-key" not in self._words and not cache.is_fresh(kind):
            cache.add(kind, ())  # send no request at the next key press
            _ask(kind, effective, cache)
        return cache.names(kind)

    def _checkpoints(self, current: str) -> Offer:
        """Return the short names of checkpoints, and their paths if a word has been started."""
        from tinkex.api.resources.names import short_checkpoints

        paths = self._names("checkpoints")
        # If a name turns out to be ambiguous, the command reports it.
        short = short_checkpoints(paths, complete="/" not in current)
        pairs = zip(paths, short, strict=True)
        free = {path: name for path, name in pairs if not {path, name} & set(self._words)}
        return _plain([*free.values(), *(free if current else ())])

    def _flags(self) -> dict[str, Any]:
        """Return the settings that are options of this line or of the interactive shell."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        for name in ("profile", "base_url", "http_pool"):
            value = getattr(self._app.shell_options, name, None)
            parser.add_argument("--" + name.replace("_", "-"), default=value)
        return vars(parser.parse_known_args(self._words)[0])


def _aliases() -> tuple[tuple[str, str], ...]:
    """Return the aliases, with the paths of their checkpoints as notes."""
    from tinkex.config import aliases

    with suppress(TinkexError):  # the command reports it
        return tuple((f"@{name}", path) for name, path in aliases.read().items())
    return ()


def _stored_keys() -> list[str]:
    """Return the names of the stored keys; for names that are not unique, the ids."""
    from tinkex.config.credentials import KeyStore

    known = KeyStore().all()
    names = [key.name for key in known]
    return [key.name if key.name and names.count(key.name) == 1 else key.key_id for key in known]


def _ask(kind: str, settings: Settings, cache: Cache) -> None:
    """Fetch the names of *kind* into *cache*; give up after :data:`PATIENCE`."""
    from tinkex.api import ServiceClient
    from tinkex.api.http.concurrency import run_in_thread

    def work() -> None:
        with ServiceClient(settings) as client:
            cache.add(kind, _listed(client, kind), whole=True)

    with suppress(TinkexError, TimeoutError):  # the thread may still fill the cache
        run_in_thread(work, PATIENCE)


def _listed(client: Any, kind: str) -> list[str]:
    if kind == "checkpoints":
        return [checkpoint.tinker_path for checkpoint in client.checkpoints.list(ASKED)]
    if kind == "runs":
        return [run.training_run_id for run in client.runs.list(ASKED)]
    if kind == "models":
        return [model.model_name for model in client.models.list()]
    return list(client.sessions.list(ASKED))


# ---------------------------------------------------------------------- cached names


class Cache:
    """Names that commands have printed with one profile and base URL in the last hour.

    They are stored in a small JSON file that only its owner can access. The file name is a hash
    that does not reveal the server. The file never contains a key. Failures to read or write it
    are ignored.
    """

    def __init__(self, base_url: str, profile: str | None) -> None:
        import hashlib

        about = f"{profile or ''}\n{base_url}".encode("utf-8", "surrogatepass")
        name = hashlib.sha256(about).hexdigest()[:24]
        self.path = xdg_directory("cache") / "tinkex" / "completion" / f"{name}.json"

    @classmethod
    def of(cls, settings: Settings) -> Cache:
        """Return the cache for *settings*."""
        return cls(settings.base_url, settings.profile)

    def names(self, kind: str) -> list[str]:
        """Return the names of *kind*, the latest first."""
        return self._read().get(kind, (0, []))[1]

    def is_fresh(self, kind: str) -> bool:
        """Return whether names of *kind* were printed or fetched in the last two minutes."""
        return self._read().get(kind, (0, []))[0] > time.time() - FRESH

    def add(self, kind: str, names: Iterable[str | None], *, whole: bool = False) -> None:
        """Add *names*, the latest first.

        :param whole: *names* is complete; other names are dropped.
        """
        content = self._read()
        before = content.get(kind, (0, []))[1]
        merged = dict.fromkeys(filter(None, names)) | ({} if whole else dict.fromkeys(before))
        latest = list(merged)[:KEPT]
        if latest != before or not self.is_fresh(kind):
            self._write(content | {kind: (time.time(), latest)})

    def drop(self, kind: str, names: Iterable[str]) -> None:
        """Remove *names*."""
        content = self._read()
        asked, known = content.get(kind, (0, []))
        gone = set(names)
        if not gone.isdisjoint(known):
            self._write(content | {kind: (asked, [name for name in known if name not in gone])})

    def _read(self) -> dict[str, tuple[float, list[str]]]:
        """Return kind → time and names, without entries that are too old or in the future."""
        now = time.time()
        try:
            if why_not_private(self.path.parent.lstat()):
                return {}
            content = json.loads(self.path.read_bytes())
            return {
                str(kind): (float(at), [str(name) for name in names])
                for kind, (at, names) in content.items()
                if now - EXPIRY < at <= now
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _write(self, content: dict[str, tuple[float, list[str]]]) -> None:
        with suppress(OSError, LocalError):
            directory = private_directory(self.path.parent)
            for file in directory.iterdir():
                if file.stat().st_mtime < time.time() - EXPIRY:
                    file.unlink(missing_ok=True)
            # Not durable: syncing takes longer than the file saves.
            with replacing(self.path, mode=0o600, durable=False) as stream:
                stream.write(json.dumps(content).encode())


# ---------------------------------------------------------------------- argparse helpers


def _waiting_option(parser: Any, word: str) -> Any:
    """Return the option *word* if its value is the next word, else ``None``."""
    option = parser._option_string_actions.get(word)
    return option if option is not None and option.nargs != 0 else None


def _positional(parser: Any, place: int) -> Any:
    """Return the argument at position *place*; the last one may accept several words."""
    actions = parser._get_positional_actions()
    if place < len(actions):
        return actions[place]
    return actions[-1] if actions and actions[-1].nargs in ("+", "*") else None


def _plain(values: Iterable[str]) -> Offer:
    return Offer(tuple((value, "") for value in values))
