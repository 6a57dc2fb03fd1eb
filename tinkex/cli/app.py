"""The application: one command line in, one exit code out, errors told in one place."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import cliff.app
import cliff.command

from tinkex import __version__
from tinkex.cli.commandmanager import CommandManager
from tinkex.cli.errors import as_tinkex_error, print_error, unwrapped_signals, wants_json
from tinkex.cli.logs import LogHandlers
from tinkex.exceptions import RequestShown, TinkexError, Unauthorized, UsageError
from tinkex.options import HelpRequested, print_paged, program_parser

if TYPE_CHECKING:
    import argparse

    from tinkex.api import ServiceClient, Wait
    from tinkex.cli.clients import Clients
    from tinkex.plugins import HttpPool
    from tinkex.settings import Settings

EXIT_OK = 0
#: Any failure, usage errors included.
EXIT_FAILURE = 1
#: 128 + the number of the signal, as shells report it.
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141

#: Options that are settings (see :mod:`tinkex.settings`).
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
            "Save, list, inspect, publish, download, clean up and sample checkpoints "
            "of the Tinker API and of servers that speak its protocol.",
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
        self._settings: Settings | None = None
        self._settings_asked = False
        self._clients: Clients | None = None
        self._logs = LogHandlers(self.LOG)
        self._parsed: argparse.Namespace | None = None
        self._display: Any = None
        #: Global options the interactive shell was started with: they hold for each of its lines.
        self._shell_options: argparse.Namespace | None = None
        #: Settings whose key was said to go astray, perhaps.
        self._warned: set[Settings] = set()
        #: Nothing but this program runs in the process.
        self.owns_process = False
        #: What commands print is remembered for completion, what a server lacks for other commands.
        self.remembers = True
        #: Somebody wants the typed result of the command, not only its output.
        self.keeps_result = False

    # ------------------------------------------------------------------ what commands use

    @property
    def settings(self) -> Settings:
        """The effective settings of the command line being run."""
        if self._settings is None:
            from tinkex import settings

            flags = {name: self.option(name) for name in _SETTING_OPTIONS}
            self._settings_asked = True
            self._settings = settings.resolve(flags, stdin=self.stdin)
            if self._settings.pool_options.insecure:
                self._warn_of_insecurity(self._settings)
        return self._settings

    def _warn_of_insecurity(self, effective: Settings) -> None:
        origin = effective.origins.get("http_pool.insecure")
        self.warn(
            f"certificates are not checked ({origin}): anyone between here and "
            f"{effective.base_url} can read the API key and change what is sent.",
            prefix="WARNING: ",
        )

    @property
    def format_setting(self) -> str | None:
        """Format of environment or profile; ``None`` also where the settings have a fault."""
        # Global options may stand behind the command: not before the line is parsed.
        if self._settings is None and not self._settings_asked:
            try:
                return self.settings.format
            except Exception:
                return None  # it will be told when the settings are needed
        return self._settings.format if self._settings is not None else None

    @property
    def client(self) -> ServiceClient:
        """The service, with the settings of the command line being run."""
        return self.client_for(self.settings)

    def client_for(self, settings: Settings) -> ServiceClient:
        """Return the client, and so the pool of connections, for one set of settings."""
        if self.owns_process:
            from tinkex.cli import startup

            startup.before_requests()
        from tinkex.cli import clients
        from tinkex.settings import stray_key

        if self.option("curl"):
            return clients.showing(settings)
        if self._clients is None:
            self._clients = clients.Clients(self._on_wait, remembers=self.remembers)
        if settings not in self._warned and (warning := stray_key(settings)):
            self._warned.add(settings)
            self.warn(warning)
        client = self._clients.of(settings)
        self.display.expect("the service")
        return client

    @property
    def pool(self) -> HttpPool | None:
        """What carries requests in place of the driver of the settings: with ``--curl``."""
        if not self.option("curl"):
            return None
        from tinkex.api.http.curl import CurlPool

        return CurlPool()

    @property
    def profile(self) -> str | None:
        """Name of the profile in force between the lines of the interactive shell."""
        from tinkex.settings import chosen_profile

        return chosen_profile(getattr(self._shell_options, "profile", None))

    def use_profile(self, name: str) -> None:
        """Let the following lines of the interactive shell use the profile *name*.

        :raises SettingsError: there is no such profile.
        """
        from tinkex import settings

        settings.resolve({"profile": name})
        options = self._shell_options
        assert options is not None, "only inside the interactive shell"
        options.profile = name
        # A key or an address that the shell was started with belongs to another server.
        options.api_key = options.base_url = options.http_pool = options.insecure = None

    def remember(self, kind: str, values: Iterable[str | None], *, whole: bool = False) -> None:
        """Remember *values* for completion: ``checkpoints``, ``runs``, ``models`` or ``sessions``.

        :param whole: these are all there are; others are forgotten.
        """
        if self.remembers:
            from tinkex.cli.remembered import Remembered

            Remembered.of(self.settings).add(kind, values, whole=whole)

    def forget(self, kind: str, values: Iterable[str]) -> None:
        """Let completion offer *values* no longer."""
        if self.remembers:
            from tinkex.cli.remembered import Remembered

            Remembered.of(self.settings).drop(kind, values)

    def status(self, text: str) -> None:
        """Say *text* on standard error, unless ``--quiet``.

        A program that wants JSON reads standard error for one thing only: an error as JSON.
        """
        if self.option("quiet") or (self._wants_json() and not self.stderr.isatty()):
            return
        self.warn(text, prefix="")

    def warn(self, text: str, *, prefix: str = "Warning: ") -> None:
        """Say *text* on standard error, also with ``--quiet``."""
        from tinkex.columns import printable

        self.display.clear()
        # A standard error that takes nothing must not keep a command from its work.
        with contextlib.suppress(OSError):
            self.stderr.write(f"{prefix}{printable(text)}\n")
            self.stderr.flush()

    @property
    def display(self) -> Any:
        """Progress and waits on standard error (nothing where it is no terminal)."""
        if self._display is None:
            from tinkex.cli.progress import Display

            self._display = Display(self.stderr, quiet=bool(self.option("quiet")))
        return self._display

    # ------------------------------------------------------------------ one command line

    def run(self, argv: list[str]) -> int:
        """Run one command line and return its exit code; every error is told here."""
        return self.guarded(lambda: self.execute(argv))

    def guarded(self, work: Callable[[], int]) -> int:
        """Return what *work* returns; tell any error and return its exit code."""
        try:
            with unwrapped_signals():
                return work()
        except BrokenPipeError:
            return EXIT_CLOSED_PIPE
        except KeyboardInterrupt:
            self.display.clear()
            self.stderr.write(f"{self.operation_name()} interrupted.\n")
            return EXIT_INTERRUPTED
        except Exception as error:
            self._report(error)
            return EXIT_FAILURE
        finally:
            self.finish()

    def execute(self, argv: Sequence[str]) -> int:
        """Run one command line; errors are raised.

        :raises TinkexError: whatever went wrong.
        """
        self.words = tuple(argv)
        self.command = self._parsed = self._settings = self._display = None
        self._settings_asked = False
        inherited = copy.copy(self._shell_options) if self.interactive_mode else None
        self.options = self.parser.parse_args(list(argv), inherited)
        words = self.options.words
        if words[:1] == ["--"]:
            words = words[1:]
        self.configure_logging()
        if self.options.keep_going and words:
            raise UsageError(
                "--keep-going is for a script on standard input",
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
        noun = argv[0]
        if noun not in self.command_manager.commands and len(argv) > 1 and argv[1] in _HELP:
            argv = ["help", noun]
        try:
            factory, name, rest = self.command_manager.find_command(argv)
            self.command = factory(self, self.options, name)
            parser = self.command.get_parser(self._prog(name))
            self._parsed = parser.parse_args(rest)
            self.configure_logging()
            self.prepare_to_run_command(self.command)
            try:
                code = self.command.run(self._parsed)
            except RequestShown as shown:
                code = self._show(shown)
            else:
                if self.option("curl"):
                    self.status("No request is sent by this command.")
            self.stdout.flush()
            return code if code in range(256) else EXIT_FAILURE
        except HelpRequested as request:
            print_paged(request.parser, self.stdout, paged=not self.interactive_mode)
            return EXIT_OK
        finally:
            self.display.clear()

    def _show(self, shown: RequestShown) -> int:
        """Print requests that were not sent."""
        self.command.result = list(shown.lines)
        self.display.clear()
        self.stdout.write("".join(f"{line}\n" for line in shown.lines))
        self.status("Not sent. Whatever the command sends next depends on the answer.")
        if not self.settings.needs_api_key:
            self.status(f"curl cannot reach what the HTTP pool {self.settings.http_pool} carries.")
        return EXIT_OK

    def interact(self) -> int:  # type: ignore[override]
        """Read command lines: from a person, or from a script on standard input."""
        from tinkex.cli.repl import Repl

        keep_going = bool(self.options.keep_going)
        if not self.interactive_mode:
            options = self._shell_options = copy.copy(self.options)
            options.keep_going = False
            if options.api_key == "-":  # the first line is the key, once
                from tinkex.config.credentials import read_argument

                options.api_key = read_argument(options.api_key, self.stdin)
        return Repl(self).loop(keep_going=keep_going)

    def forget_line(self) -> None:
        """Forget the last command line, so that no error is told in its name."""
        self.words = ()
        self.command = self._parsed = self._settings = self._display = None
        self._settings_asked = False
        if self._shell_options is not None:
            self.options = copy.copy(self._shell_options)

    def finish(self) -> None:
        """Close connections and log handlers."""
        if not self.interactive_mode:
            self.close()

    def close(self) -> None:
        """Close every client and remove our log handlers."""
        if self._clients is not None:
            self._clients.close(self.LOG)
        self._logs.remove()

    # ------------------------------------------------------------------ inside

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        return program_parser(self.NAME, description)

    def configure_logging(self) -> None:
        """Send log records to standard error and the log file, by ``-v`` and ``--log-file``."""
        self._logs.install(
            self.stderr,
            verbose=bool(self.option("debug") or self.option("verbose")),
            quiet=bool(self.option("quiet")),
            file=self.option("log_file"),
        )

    def option(self, name: str) -> Any:
        """Return a global option's value, wherever on the line it stood."""
        for namespace in (self._parsed, getattr(self, "options", None)):
            if namespace is not None and hasattr(namespace, name):
                return getattr(namespace, name)
        return None

    def _prog(self, name: str) -> str:
        return name if self.interactive_mode else f"{self.NAME} {name}"

    def _on_wait(self, wait: Wait) -> None:
        self.display.wait(wait)

    def operation_name(self) -> str:
        """Return the subject of an error sentence about the command line being run."""
        return self.command.operation_name() if self.command is not None else "Command"

    def _report(self, error: Exception) -> None:
        """Tell *error* on standard error: one sentence, one hint; as JSON where that is wanted."""
        self.display.clear()
        known = as_tinkex_error(error)
        if isinstance(known, Unauthorized):
            known.hint = self.settings.key_warning() or known.hint
        if known.hint is None:
            known.hint = self._general_hint(known)
        if self.option("debug"):
            import traceback

            traceback.print_exception(error, file=self.stderr)
        print_error(known, self.operation_name(), self.stderr, as_json=self._wants_json())

    def _general_hint(self, error: TinkexError) -> str:
        if error.category == "server":
            return "Try again in a while; if it stays, report it with the time and request id."
        name = getattr(self.command, "cmd_name", None)
        return f"See: tinkex help {name or ''}".rstrip()

    def _wants_json(self) -> bool:
        chosen = self.option("formatter") or ("json" if self.option("json") else None)
        if chosen or self._parsed is not None:
            whole = bool(getattr(self._parsed, "whole_json", False))
            return chosen == "json" or whole or (chosen is None and self.format_setting == "json")
        return wants_json(self.words) or self.format_setting == "json"


_HELP = ("-h", "--help")
