"""The interactive shell, and scripts on standard input.

cliff's own shell rests on cmd2, whose present version breaks it (quotes are lost, the exit status
is always 1); this one splits lines as a POSIX shell does and runs them through the same
application. The lines of a person come from :mod:`tinkex.cli.console`.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from tinkex.cli import lines
from tinkex.exceptions import TinkexError, UsageError

if TYPE_CHECKING:
    from tinkex.cli.app import TinkexApp

_HELP = frozenset({"-h", "--help"})
LEAVE = frozenset({"exit", "quit", "logout", ":q"})
#: Exit codes after Ctrl-C, at a closed pipe, and at SIGTERM.
INTERRUPTED, CLOSED_PIPE, TERMINATED = 130, 141, 143


class Repl:
    """Reads command lines and runs each through *app*."""

    def __init__(self, app: TinkexApp) -> None:
        self._app = app

    def loop(self, *, keep_going: bool = False) -> int:
        """Run until the end of input; return the exit code.

        A person's mistakes do not count: their shell ends with 0. A script ends at its first
        failing line, with that line's code.

        :param keep_going: a script goes on after a failing line, and ends with 1 if there was one.
        """
        app = self._app
        if app.interactive_mode:
            raise UsageError(
                "this already is the tinkex shell",
                hint="Leave it with 'exit'; choose a profile with 'profile use NAME'.",
            )
        app.interactive_mode = True
        try:
            if app.stdin and app.stdin.isatty() and app.stdout.isatty():
                return self._converse()
            return self._run_script(app.stdin or (), keep_going=keep_going)
        finally:
            app.interactive_mode = False

    def run_line(self, text: str) -> int:
        """Run one line; return its exit code."""
        self._app.reset()
        try:
            return self._app.guarded(lambda: self._run(lines.parse(text)))
        except SystemExit as error:  # of a plugin: it ends its command, not the shell
            if error.code == TERMINATED:
                raise
            return error.code if isinstance(error.code, int) else int(error.code is not None)

    def _run(self, line: lines.Line) -> int:
        words = line.words
        if words[:1] == ["tinkex"]:  # pasted from a shell
            words = words[1:]
        if not words:
            return 0
        if line.pipe is not None:
            return self._run_into_pipe(words, line.pipe)
        if line.target is not None:
            return self._run_into_file(words, line.target, append=line.append)
        return self._run_words(words)

    def _run_words(self, words: list[str]) -> int:
        if words[:2] == ["profile", "use"] and not _HELP.intersection(words):
            return self._use_profile(words[2:])
        return self._app.run(words)

    def _use_profile(self, names: list[str]) -> int:
        factory, name, _ = self._app.command_manager.find_command(["profile", "use"])
        self._app.command = factory(self._app, None, name)  # whose name stands before its errors
        if len(names) != 1:
            raise UsageError(
                "'profile use' takes the name of one profile", hint="For example: profile use local"
            )
        self._app.use_profile(names[0])
        self._app.status(
            f"For this shell only; for new ones too: config set profile {shlex.quote(names[0])}"
        )
        return 0

    # ------------------------------------------------------------------ where output goes

    def _run_into_file(self, words: list[str], name: str, *, append: bool) -> int:
        """Run *words*; what the file *name* held is lost only if they succeed."""
        from tinkex.files import check_writable, user_path, write_atomically

        target = user_path(name)
        if target.is_dir() or target.is_file() or not target.exists():
            check_writable(name)
        out = io.StringIO()
        with self._output_to(out):
            code = self._run_words(words)
        if append:
            with target.open("a", encoding="utf-8", newline="") as stream:
                stream.write(out.getvalue())
        elif code == 0:
            write_atomically(name, out.getvalue())
        return code

    def _run_into_pipe(self, words: list[str], command: str) -> int:
        """Run *words* with the system's *command* reading what they print, as it comes."""
        with self._output_of_children() as stdout:
            child = subprocess.Popen(  # noqa: S603 - what the person typed, as their shell runs it
                ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=stdout
            )
            assert child.stdin is not None
            sink = io.TextIOWrapper(child.stdin, encoding="utf-8", errors="backslashreplace")
            try:
                with self._output_to(sink):
                    code = self._run_words(words)
            finally:
                with contextlib.suppress(BrokenPipeError):
                    sink.close()
                status = _wait(child)
        return status if code in (0, CLOSED_PIPE) else code

    @contextlib.contextmanager
    def _output_to(self, stream: TextIO) -> Iterator[None]:
        before, self._app.stdout = self._app.stdout, stream
        try:
            yield
        finally:
            self._app.stdout = before

    @contextlib.contextmanager
    def _output_of_children(self) -> Iterator[Any]:
        """Give what a child process can have as its standard output."""
        stdout = self._app.stdout
        stdout.flush()
        try:
            stdout.fileno()
        except (OSError, AttributeError):
            # Python's own stream, in tests and under tinkex.testing.
            with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
                yield file
                file.seek(0)
                stdout.write(file.read())
        else:
            yield stdout

    # ------------------------------------------------------------------ where lines come from

    def _run_script(self, script: Iterable[str], *, keep_going: bool) -> int:
        # The script itself is on standard input: its commands find nothing there.
        self._app.stdin = io.StringIO()
        failed = False
        for text in _joined(script):
            if text.strip() in LEAVE:
                break
            code = self.run_line(text)
            if code and (not keep_going or code == INTERRUPTED):
                return code
            failed = failed or bool(code)
        return int(failed)

    def _converse(self) -> int:
        from tinkex.cli.console import Console

        console = Console(self._app)
        self._app.status("Type 'help' for the commands, 'exit' to leave.")
        while True:
            try:
                text = console.read(self._prompt())
            except KeyboardInterrupt:
                continue
            except EOFError:
                return 0
            try:
                for command in lines.commands(text):  # several, if they were pasted
                    if command.strip() in LEAVE:
                        return 0
                    self.run_line(command)
            except KeyboardInterrupt:  # between two steps of a line
                continue

    def _prompt(self) -> str:
        try:
            profile = self._app.profile
        except TinkexError:  # the commands will tell
            return "tinkex(?)> "
        return f"tinkex({profile})> " if profile else "tinkex> "


def _joined(script: Iterable[str]) -> Iterator[str]:
    """Yield the lines of *script*, those whole that a backslash continues on the next."""
    whole = ""
    for number, text in enumerate(script):
        # Some editors mark UTF-8 by an invisible character at the beginning.
        whole += (text if number else text.removeprefix("\ufeff")).rstrip("\r\n")
        if lines.is_continued(whole):
            whole += "\n"
        else:
            yield whole
            whole = ""
    if whole:
        yield whole


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Return the exit code of *child*; Ctrl-C is for it, as a shell has it."""
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code
