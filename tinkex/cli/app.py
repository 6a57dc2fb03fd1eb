"""The application: runs one command line and returns its exit code; prints errors in one place."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import cliff.app
import cliff.command

from tinkex import plugins
from tinkex.cli.commandmanager import CommandManager
from tinkex.cli.errors import as_tinkex_error, print_error, unwrapped_signals, wants_json
from tinkex.exceptions import (
    InvalidResponse,
    LocalError,
    NotOffered,
    RequestShown,
    Terminated,
    TinkexError,
    Unauthorized,
    UsageError,
    without_keys,
)
from tinkex.options import HelpRequested, print_paged, program_parser
from tinkex.version import __version__

if TYPE_CHECKING:
    import argparse

    from tinkex.api import ServiceClient
    from tinkex.plugins import HttpPool
    from tinkex.settings import Settings

EXIT_OK = 0
#: Any failure, including a usage error.
EXIT_FAILURE = 1
#: 128 plus the signal number, as in shells.
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141

#: Global options that are settings (see :mod:`tinkex.settings`).
_SETTING_OPTIONS = ("api_key", "base_url", "timeout", "profile", "http_pool", "insecure")


class TinkexApp(cliff.app.App):
    """The cliff application behind ``tinkex``."""

    NAME = "tinkex"
    LOG = logging.getLogger("tinkex")

    command_manager: CommandManager

    def __init__(
        self,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        super().__init__(
            "Save, list, inspect, publish, download, clean up and sample from checkpoints "
            "on the Tinker API and compatible servers.",
            __version__,
            CommandManager(),
            stdin,
            stdout,
            stderr,
            deferred_help=True,
        )
        #: The words of the command line being run.
        self.words: tuple[str, ...] = ()
        self.command: Any = None
        #: Global options of the interactive shell, which each of its command lines inherits.
        self.shell_options: argparse.Namespace | None = None
        #: Keep printed names for completion, and remember the features that a server lacks.
        self.uses_cache = True
        #: The caller needs the command's typed result, not only its output.
        self.keeps_result = False
        self._parsed: argparse.Namespace | None = None
        self._settings: Settings | None = None
        self._settings_failed = False
        self._display: Any = None
        #: Warnings held back for JSON output.
        self._held: list[str] = []
        #: One client for each set of settings; later lines of the shell reuse them.
        self._clients: dict[Settings, ServiceClient] = {}
        self._log_handlers: list[logging.Handler] = []

    # ------------------------------------------------------------------ what commands use

    @property
    def settings(self) -> Settings:
        """The effective settings of the command line being run."""
        if self._settings is None:
            from tinkex import settings

            flags = {name: self.option(name) for name in _SETTING_OPTIONS}
            self._settings_failed = True
            self._settings = settings.resolve(flags, stdin=self.stdin)
            self._settings_failed = False
            if self._settings.pool_options.insecure:
                origin = self._settings.origins.get("http_pool.insecure")
                self.warn(
                    f"TLS certificates are not verified ({origin}). Anyone on the network path to "
                    f"{self._settings.base_url} can read the API key and alter the data.",
                    prefix="WARNING: ",
                )
        return self._settings

    @property
    def format_setting(self) -> str | None:
        """The format set by environment or profile; ``None`` also if the settings are invalid."""
        if not self._settings_failed:
            with contextlib.suppress(Exception):  # reported when the settings are needed
                return self.settings.format
        return None

    @property
    def client(self) -> ServiceClient:
        """The API client, with the settings of the command line being run."""
        return self.client_for(self.settings)

    def client_for(self, settings: Settings) -> ServiceClient:
        """Return the client for *settings*; clients keep a connection pool and are reused."""
        from tinkex.api import ServiceClient

        if self.option("curl"):  # needs no key: nothing is sent
            from dataclasses import replace

            from tinkex.api.http.curl import KEY_VARIABLE

            keyless = replace(settings, api_key=KEY_VARIABLE, api_key_command=None)
            return ServiceClient(keyless, pool=self.pool)
        if settings not in self._clients:
            from tinkex.settings import stray_key

            if warning := stray_key(settings):
                self.warn(warning)
            self._clients[settings] = ServiceClient(
                settings, on_wait=lambda wait: self.display.wait(wait)
            )
        self.display.expect("the service")
        return self._clients[settings]

    @property
    def pool(self) -> HttpPool | None:
        """The HTTP pool that replaces the configured one, for ``--curl``."""
        if not self.option("curl"):
            return None
        from tinkex.api.http.curl import CurlPool

        return CurlPool()

    def remember(self, kind: str, values: Iterable[str | None], *, whole: bool = False) -> None:
        """Keep *values* for completion: ``checkpoints``, ``runs``, ``models`` or ``sessions``.

        :param whole: *values* is complete; other names are dropped.
        """
        if self.uses_cache:
            from tinkex.cli.completion import Cache

            Cache.of(self.settings).add(kind, values, whole=whole)

    def forget(self, kind: str, values: Iterable[str]) -> None:
        """Drop *values* from completion."""
        if self.uses_cache:
            from tinkex.cli.completion import Cache

            Cache.of(self.settings).drop(kind, values)

    def status(self, text: str) -> None:
        """Print *text* on standard error, unless ``--quiet``.

        With JSON output, standard error contains only a JSON error.
        """
        if self.option("quiet") or (self.wants_json() and not self.stderr.isatty()):
            return
        self.warn(text, prefix="")

    def warn(self, text: str, *, prefix: str = "Warning: ") -> None:
        """Print *text* on standard error, even with ``--quiet``; mask keys in it.

        With JSON output, the warning is held until the end and is part of any JSON error.
        """
        from tinkex.columns import printable

        if self.holds_warnings():
            self._held.append(f"{prefix}{printable(without_keys(text))}")
            return
        self.display.clear()
        # A standard error that cannot be written must not stop a command.
        with contextlib.suppress(OSError):
            self.stderr.write(f"{prefix}{printable(without_keys(text))}\n")
            self.stderr.flush()

    def holds_warnings(self) -> bool:
        """Return whether standard error must be JSON; also before options are parsed."""
        return not self.stderr.isatty() and (self._parsed is None or self.wants_json())

    def _watched_stderr(self) -> contextlib.AbstractContextManager[Any]:
        if self.stderr.isatty():  # progress bars need the terminal itself
            return contextlib.nullcontext()
        return contextlib.redirect_stderr(_Stderr(self))

    def _release(self) -> None:
        """Print the warnings that were held."""
        held, self._held = self._held, []
        with contextlib.suppress(OSError):
            self.stderr.write("".join(f"{line}\n" for line in held))

    @property
    def display(self) -> Any:
        """Progress and waits on standard error; draws nothing if that is not a terminal."""
        if self._display is None:
            from tinkex.cli.progress import Display

            self._display = Display(self.stderr, quiet=bool(self.option("quiet")))
        return self._display

    def option(self, name: str) -> Any:
        """Return the value of a global option, given before or after the command."""
        for namespace in (self._parsed, getattr(self, "options", None)):
            if namespace is not None and hasattr(namespace, name):
                return getattr(namespace, name)
        return None

    def prog(self, name: str) -> str:
        """Return what to type for the command *name*, as its usage line shows it."""
        return name if self.interactive_mode else f"{self.NAME} {name}"

    # ------------------------------------------------------------------ one command line

    def run(self, argv: list[str]) -> int:
        """Run one command line and return its exit code; print any error."""
        return self.guarded(lambda: self.execute(argv))

    def guarded(self, work: Callable[[], int]) -> int:
        """Return the result of *work*, or print its error and return the exit code."""
        try:
            with unwrapped_signals(), self._watched_stderr():
                return work()
        except BrokenPipeError:
            return EXIT_CLOSED_PIPE
        except KeyboardInterrupt:
            self.display.clear()
            self.stderr.write(f"{self.operation_name()} interrupted.\n")
            return EXIT_INTERRUPTED
        except Terminated:
            raise
        except BaseException as error:  # a plugin may raise anything, even SystemExit
            self._report(error)
            return EXIT_FAILURE
        finally:
            self._release()
            if not self.interactive_mode:
                self.close()

    def execute(self, argv: Sequence[str]) -> int:
        """Run one command line and return its exit code.

        :raises TinkexError: the command failed.
        """
        self.reset()
        self.words = tuple(argv)
        for text in plugins.installed(tuple(sys.path)).unreadable:
            self.warn(text)
        inherited = copy.copy(self.shell_options) if self.interactive_mode else None
        self.options = self.parser.parse_args(list(argv), inherited)
        words = self.options.words
        if words[:1] == ["--"]:
            words = words[1:]
        self.configure_logging()
        if self.options.keep_going and words:
            raise UsageError(
                "--keep-going requires a script on standard input",
                hint="For example: tinkex --keep-going < script",
            )
        if self.options.version:
            words = ["version"]
        elif self.options.help:
            words = ["help", *words]
        if not words:
            return self.interact() or EXIT_OK
        return self.run_subcommand(words)

    def run_subcommand(self, argv: list[str]) -> int:
        if argv[0] not in self.command_manager.commands and argv[1:2] in (["-h"], ["--help"]):
            argv = ["help", argv[0]]
        try:
            factory, name, rest = self.command_manager.find_command(argv)
            self.command = factory(self, self.options, name)
            parser = self.command.with_hooks(self.prog(name))
            self._parsed = parser.parse_args(rest)
            if self._held and not self.wants_json():
                self._release()
            self.configure_logging()
            try:
                code = self.command.run(self._parsed)
                if self.option("curl"):
                    self.status("This command does not send any requests.")
            except RequestShown as shown:
                code = self._show(shown)
            self.stdout.flush()
            return code if code in range(256) else EXIT_FAILURE
        except HelpRequested as request:
            print_paged(request.parser, self.stdout, paged=not self.interactive_mode)
            return EXIT_OK
        finally:
            if self._display is not None:
                self._display.clear()

    def _show(self, shown: RequestShown) -> int:
        """Print requests that were not sent."""
        self.command.result = list(shown.lines)
        self.display.clear()
        self.stdout.write("".join(f"{line}\n" for line in shown.lines))
        self.status(
            "The request was not sent. Any later requests depend on its response and are not shown."
        )
        if not self.settings.needs_api_key:
            self.status(
                "The curl command does not work, because only tinkex can use the HTTP pool "
                f"{self.settings.http_pool}."
            )
        return EXIT_OK

    def interact(self) -> int:  # type: ignore[override]
        """Read command lines from a terminal, or from a script on standard input."""
        from tinkex.cli.repl import Repl

        keep_going = bool(self.options.keep_going)
        if not self.interactive_mode:
            options = self.shell_options = copy.copy(self.options)
            options.keep_going = False
            if options.api_key == "-":  # the first line is the key, once
                from tinkex.config.credentials import read_argument

                options.api_key = read_argument(options.api_key, self.stdin)
        return Repl(self).loop(keep_going=keep_going)

    def reset(self) -> None:
        """Forget the previous command line, so that no error names its command."""
        self.words = ()
        self.command = self._parsed = self._settings = self._display = None
        self._settings_failed = False
        if self.shell_options is not None:
            self.options = copy.copy(self.shell_options)

    def close(self) -> None:
        """Close all clients and remove the log handlers."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            with contextlib.suppress(Exception):
                client.close()
        self._remove_log_handlers()

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        return program_parser(self.NAME, description)

    # ------------------------------------------------------------------ logging

    def configure_logging(self) -> None:
        """Write log records to standard error and a file, as ``-v`` and ``--log-file`` specify."""
        self._remove_log_handlers()
        verbose = self.option("debug") or self.option("verbose")
        level = logging.DEBUG if verbose else logging.WARNING
        # Warnings are held like those of commands; a requested log is written immediately.
        stream: Any = self.stderr if verbose or self.stderr.isatty() else _Stderr(self)
        console = logging.StreamHandler(stream)
        console.setLevel(logging.ERROR if self.option("quiet") else level)
        console.setFormatter(logging.Formatter("%(message)s"))
        self._log_handlers = [console]
        if (path := self.option("log_file")) is not None:
            self._log_handlers.append(_log_file(path))
            level = logging.DEBUG
        for handler in self._log_handlers:
            self.LOG.addHandler(handler)
        self.LOG.setLevel(level)

    def _remove_log_handlers(self) -> None:
        handlers, self._log_handlers = self._log_handlers, []
        for handler in handlers:
            self.LOG.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                with contextlib.suppress(OSError):
                    handler.close()
        self.LOG.setLevel(logging.NOTSET)

    # ------------------------------------------------------------------ errors

    def operation_name(self) -> str:
        """Return the subject of an error sentence about the command line being run."""
        return self.command.operation_name() if self.command is not None else "Command"

    def _report(self, error: BaseException) -> None:
        """Print *error* on standard error: one sentence and one hint, or JSON."""
        self.display.clear()
        known = as_tinkex_error(error, self.involved())
        if isinstance(known, Unauthorized):
            known.hint = self.settings.key_warning() or known.hint
        if isinstance(known, (NotOffered, InvalidResponse)) and self._settings is not None:
            known.hint = self._settings.address_warning() or known.hint
        if known.hint is None and known.category == "server":
            known.hint = (
                "Try again later. If the error persists, report it to the service operator with "
                "the time and the request id."
            )
        elif known.hint is None:
            name = getattr(self.command, "cmd_name", None)
            known.hint = f"See: tinkex help {name or ''}".rstrip()
        if self.option("debug"):
            import traceback

            # The query of a signed URL is also a secret.
            lines = without_keys("".join(traceback.format_exception(error)))
            self.stderr.write(_QUERY.sub("?…", lines))
        if as_json := self.wants_json():
            held, self._held = self._held, []
        else:
            held = []
            self._release()
        print_error(known, self.operation_name(), self.stderr, as_json=as_json, warnings=held)

    def involved(self) -> list[str]:
        """Return the modules whose code is involved in the command line being run."""
        formatter = getattr(self.command, "formatter", None)
        found = [type(self.command).__module__, type(formatter).__module__]
        found += [hook.entry_point.module for hook in getattr(self.command, "_hooks", ())]
        if self._clients and self._settings is not None:
            name = self._settings.pool_driver
            found += [e.module for e in plugins.entry_points(plugins.HTTP_POOLS) if e.name == name]
        return found

    def wants_json(self) -> bool:
        """Return whether an error of the command line being run is printed as JSON."""
        chosen = self.option("formatter") or ("json" if self.option("json") else None)
        if self._parsed is None and not chosen:
            return wants_json(self.words) or self.format_setting == "json"
        if chosen == "json" or getattr(self._parsed, "whole_json", False):
            return True
        return chosen is None and self.format_setting == "json"


class _Stderr(io.TextIOBase):
    """``sys.stderr`` while a command runs; also holds output of plugins and libraries."""

    def __init__(self, app: TinkexApp) -> None:
        self._app = app

    def write(self, text: str) -> int:
        if not self._app.holds_warnings():
            return self._app.stderr.write(text)
        for line in filter(str.strip, text.splitlines()):
            self._app.warn(line, prefix="")
        return len(text)

    def flush(self) -> None:
        self._app.stderr.flush()

    def fileno(self) -> int:
        return self._app.stderr.fileno()


_QUERY = re.compile(r"(?<=\S)\?[^\s'\"()<>=]+=[^\s'\"()<>]+")


def _log_file(path: str) -> logging.Handler:
    from tinkex.files import user_path

    try:
        handler = logging.FileHandler(user_path(path), encoding="utf-8")
    except OSError as error:
        raise LocalError(f"cannot write the log file {path}: {error.strerror}") from error
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    return handler


# ---------------------------------------------------------------------- command lines from Python


class Result(NamedTuple):
    """The result of a command run from Python.

    :ivar command: the command's name, such as ``checkpoint list``.
    :ivar value: its typed result: a page of checkpoints, a sample response, a metadata dict, …
    :ivar stdout: what the command line would have printed.
    """

    command: str
    value: Any
    stdout: str


def run(argv: Sequence[str]) -> Result:
    """Run one command line from Python; see :func:`tinkex.run`.

    :raises TinkexError: the command failed.
    """
    if isinstance(argv, (str, bytes)):
        raise UsageError(
            "the command line must be a list of strings",
            hint="For example: ['run', 'list', '--limit', '5']. Split a string with shlex.split().",
        )
    stdout = io.StringIO()
    app = TinkexApp(stdin=io.StringIO(), stdout=stdout, stderr=io.StringIO())
    app.uses_cache, app.keeps_result = False, True
    try:
        code = app.execute([os.fsdecode(word) for word in argv])
        if code:
            raise TinkexError(f"{app.operation_name()} exited with code {code}")
    except Terminated:
        raise
    except (Exception, SystemExit) as error:
        known = as_tinkex_error(error, app.involved())
        if known is error:
            raise
        raise known from error
    finally:
        app.close()
    command = app.command
    name = command.cmd_name if command is not None else "help"
    return Result(name, getattr(command, "result", None), stdout.getvalue())
