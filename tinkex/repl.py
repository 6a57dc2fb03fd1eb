"""The interactive shell, and scripts on standard input.

cliff's own shell rests on cmd2, whose present version breaks it (quotes are lost, the exit status
is always 1); this one splits lines as a POSIX shell does and runs them through the same
application. prompt_toolkit reads the lines of a person.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tinkex.exceptions import UsageError

if TYPE_CHECKING:
    from tinkex.shell import TinkexApp

LEAVE = frozenset({"exit", "quit", "logout", ":q"})


class Repl:
    """Reads command lines and runs each through *app*."""

    def __init__(self, app: TinkexApp) -> None:
        self._app = app

    def loop(self) -> int:
        """Run until the end of input; return the exit code.

        A person's mistakes do not count: their shell ends with 0. A script ends at its first
        failing line, with that line's code.
        """
        app = self._app
        if app.interactive_mode:
            raise UsageError("this already is the tinkex shell", hint="Leave it with 'exit'.")
        app.interactive_mode = True
        try:
            if app.stdin and app.stdin.isatty() and app.stdout.isatty():
                return self._converse()
            return self._run_script(app.stdin or ())
        finally:
            app.interactive_mode = False

    def run_line(self, line: str) -> int:
        """Run one line; return its exit code."""
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            self._app.warn(f"{error}: {line.strip()}", prefix="Cannot read the line: ")
            return 1
        if words[:1] == ["tinkex"]:  # pasted from a shell
            words = words[1:]
        return self._app.run(words) if words else 0

    def _run_script(self, lines: Iterable[str]) -> int:
        for line in lines:
            if line.strip() in LEAVE:
                break
            code = self.run_line(line)
            if code:
                return code
        return 0

    def _converse(self) -> int:
        session = self._session()
        self._app.status("Type 'help' for the commands, 'exit' to leave.")
        while True:
            try:
                line = session.prompt(self._prompt())
            except KeyboardInterrupt:
                continue
            except EOFError:
                return 0
            if line.strip() in LEAVE:
                return 0
            self.run_line(line)

    def _session(self) -> Any:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import NestedCompleter
        from prompt_toolkit.history import InMemoryHistory

        # In memory only: a line may hold --api-key.
        return PromptSession(
            completer=NestedCompleter.from_nested_dict(self._words()),
            complete_while_typing=False,
            history=InMemoryHistory(),
        )

    def _prompt(self) -> str:
        options = getattr(self._app, "options", None)
        profile = getattr(options, "profile", None)
        return f"tinkex({profile})> " if profile else "tinkex> "

    def _words(self) -> dict[str, Any]:
        """Return the command words as a tree, for completion."""
        tree: dict[str, Any] = {"exit": {}, "quit": {}}
        for name in self._app.command_manager.get_command_names():
            level = tree
            for word in name.split():
                level = level.setdefault(word, {})
        return tree
