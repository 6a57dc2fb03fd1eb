"""The interactive shell, and scripts on standard input.

cliff's own shell is built on cmd2, whose current version breaks it: quotes are lost, and the exit
code is always 1. This shell splits lines like a POSIX shell and runs them through the application.
Quotes and backslashes work as in sh. ``|``, ``>`` and ``>>`` are operators only outside quotes, and
``#`` begins a comment. A backslash or an open quote at the end of a line continues it on the next
line. Variables and file name patterns are not expanded.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from tinkex.exceptions import LocalError, TinkexError, UsageError

if TYPE_CHECKING:
    import subprocess

LEAVE = frozenset({"exit", "quit", "logout", ":q"})
#: Exit codes after Ctrl-C and after writing to a closed pipe.
INTERRUPTED, CLOSED_PIPE = 130, 141
#: Number of history lines that are kept between shells.
KEPT_LINES = 1000
#: Looks like an API key or token, or precedes one.
_SECRET = re.compile(r"api[-_]?key|token=|password|\b(tml-|hf_|sk-|eyJ)[\w.-]{6,}", re.IGNORECASE)


# ---------------------------------------------------------------------- reading a line

_TOKEN = re.compile(
    r"""(?: \s | \\\n | \#[^\n]* )+                        # between tokens
      | (?P<operator> >> | [|>] )
      | (?P<word> (?: '[^']*(?:'|$) | "(?:\\.|[^"\\])*(?:"|\\?$) | \\. | \\$ | [^\s|>'"\\] )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(
    r"""'(?P<single>[^']*)(?P<q1>'?) | "(?P<double>(?:\\.|[^"\\])*)\\?(?P<q2>"?)
      | \\(?P<escaped>.?) | (?P<plain>[^'"\\]+)""",
    re.VERBOSE | re.DOTALL,
)
#: Hint about an operator that may be part of a prompt.
_AS_TEXT = "Put text that contains '|' or '>' in quotes."
#: Quote that is left open → hint.
_QUOTES = {
    "'": """Put text that contains an apostrophe in double quotes: "don't".""",
    '"': """Put text that contains a double quote in single quotes: 'say "hi"'.""",
}


class Token(NamedTuple):
    """A word without its quotes, or an operator, with its position in the line.

    :ivar quote: the quote that is open at the end of the line, or ``""``.
    """

    text: str
    start: int
    end: int
    is_operator: bool = False
    quote: str = ""


def tokenize(text: str) -> Iterator[Token]:
    """Yield the words and operators of *text*, without whitespace and comments."""
    at = 0
    while at < len(text) and (found := _TOKEN.match(text, at)):
        at = found.end()
        if found["operator"]:
            yield Token(found[0], found.start(), at, is_operator=True)
        elif found["word"]:
            yield _unquoted(found[0], found.start())


def _unquoted(word: str, start: int) -> Token:
    text, quote = "", ""
    for piece in _PIECE.finditer(word):
        if piece["single"] is not None:
            text, quote = text + piece["single"], "" if piece["q1"] else "'"
        elif piece["double"] is not None:
            # A backslash escapes only these; an escaped line break is removed.
            text += re.sub(r'\\(?:\n|([\\"$`]))', r"\1", piece["double"])
            quote = "" if piece["q2"] else '"'
        else:
            text += piece["plain"] or piece["escaped"].replace("\n", "")
    return Token(text, start, start + len(word), quote=quote)


class Line(NamedTuple):
    """The words of a tinkex command, and where its output goes: to the file *target*, or to the
    system command *pipe*, as it was typed."""

    words: list[str]
    target: str | None = None
    append: bool = False
    pipe: str | None = None


def parse(text: str) -> Line:
    """Return the command line *text*.

    :raises UsageError: a quote is left open, or an operator lacks a command or a file.
    """
    words: list[str] = []
    target: str | None = None
    append = False
    tokens = tokenize(text)
    for token in tokens:
        if token.quote:
            raise _unreadable("missing closing quote", text, _QUOTES[token.quote])
        if not token.is_operator:
            words.append(token.text)
        elif token.text == "|":
            command = text[token.end :].strip()
            if not words or not command or command[0] in "|&":
                why = "'|' must be between a tinkex command and a system command"
                raise _unreadable(why, text, f"For example: run list | head. {_AS_TEXT}")
            if target is not None:
                why = "the output can go to a file or to a pipe, not both"
                raise _unreadable(why, text, f"For both: run list | tee FILE. {_AS_TEXT}")
            return Line(words, pipe=command)
        elif target is not None:
            raise _unreadable("the output can go to one file only", text)
        else:
            target, append = _target(text, token, next(tokens, None)), token.text == ">>"
    if target is not None and not words:
        hint = "For example: run list > runs.txt"
        raise _unreadable("there is no command before '>'", text, hint)
    return Line(words, target, append)


def _target(text: str, operator: Token, name: Token | None) -> str:
    if re.search(r"(^|\s)\d+\Z", text[: operator.start]):
        hint = "To save the log, use --log-file. After a numeric argument, put a space before '>'."
        raise _unreadable("only standard output can be redirected", text, hint)
    if name and name.quote:
        raise _unreadable("missing closing quote", text, _QUOTES[name.quote])
    if not name or name.is_operator or not name.text or text[name.start] == "&":
        hint = f"For example: run list {operator.text} runs.txt. {_AS_TEXT}"
        raise _unreadable(f"'{operator.text}' requires a file name", text, hint)
    return name.text


def _unreadable(why: str, text: str, hint: str = _AS_TEXT) -> UsageError:
    message = f"Cannot parse the line: {why}: {text.strip()[:200]}"
    return UsageError(message, hint=hint, whole_line=True)


def continuation(text: str) -> str:
    """Return what continues *text* on the next line: ``\\``, an open quote, or ``""``."""
    *_, last = [None, *tokenize(text)]
    if last is None or last.end < len(text):
        return ""
    backslashes = len(text) - len(text.rstrip("\\"))
    return "\\" if backslashes % 2 and last.quote != "'" else last.quote


def continuation_prompt(text: str, line: int) -> str:
    """Return the prompt for *line* of *text*, counted from 0: what continues it, and ``> ``."""
    return continuation("\n".join(text.split("\n")[:line])) + "> "


class Unfinished(NamedTuple):
    """A line up to the cursor: its words, the word at the cursor, where that begins in the line,
    and the last operator before it (``""``, ``|``, ``>`` or ``>>``)."""

    words: list[str]
    current: str
    start: int
    after: str = ""


def unfinished(text: str) -> Unfinished:
    """Return the parts of *text*, a line up to the cursor; syntax errors are ignored."""
    words: list[Token] = []
    after = ""
    for token in tokenize(text):
        if token.is_operator:
            after, words = token.text, []
            if after == "|":
                break
        else:
            words.append(token)
    if words and (words[-1].end == len(text) or words[-1].quote):
        current = words.pop()
    else:
        current = Token("", len(text), len(text))
    return Unfinished([word.text for word in words], current.text, current.start, after)


# ---------------------------------------------------------------------- running lines


class Repl:
    """Reads command lines and runs each through *app*, a :class:`~tinkex.cli.app.TinkexApp`."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def loop(self, *, keep_going: bool = False) -> int:
        """Run until the end of input; return the exit code.

        On a terminal, the exit code is 0. A script ends at its first failing line with that code.

        :param keep_going: a script continues after a failing line, and ends with 1 if one failed.
        """
        app = self._app
        if app.interactive_mode:
            raise UsageError(
                "this is already the tinkex shell",
                hint="To leave it, type 'exit'. To change the profile, type 'profile use NAME'.",
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
        return int(self._app.guarded(lambda: self._run(parse(text))))

    def _run(self, line: Line) -> int:
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
        if words[:2] == ["profile", "use"] and not {"-h", "--help"}.intersection(words):
            return self._use_profile(words[2:])
        return int(self._app.run(words))

    def _use_profile(self, names: list[str]) -> int:
        from tinkex import settings

        app, options = self._app, self._app.shell_options
        factory, name, _ = app.command_manager.find_command(["profile", "use"])
        app.command = factory(app, None, name)  # for the subject of its errors
        if len(names) != 1:
            raise UsageError(
                "'profile use' requires one profile name", hint="For example: profile use local"
            )
        settings.resolve({"profile": names[0]})
        options.profile = names[0]
        # A key or a URL that the shell was started with belongs to another server.
        options.api_key = options.base_url = options.http_pool = options.insecure = None
        app.status(
            f"This shell now uses the profile {names[0]}. "
            f"To make it the default: config set profile {shlex.quote(names[0])}"
        )
        return 0

    def _run_into_file(self, words: list[str], name: str, *, append: bool) -> int:
        """Run *words*; the previous content of the file *name* is lost only if they succeed."""
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
        """Run *words*; the system command *command* reads their output as it is written."""
        import subprocess

        self._app.stdout.flush()
        child = subprocess.Popen(  # noqa: S603 - what the user typed, as their shell runs it
            ["/bin/sh", "-c", command], stdin=subprocess.PIPE
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

    def _run_script(self, script: Iterable[str], *, keep_going: bool) -> int:
        # Standard input is the script, so its commands get an empty one.
        self._app.stdin = io.StringIO()
        failed = False
        for number, text in _joined(script):
            if text.strip() in LEAVE:
                break
            code = self.run_line(text)
            if code not in (0, INTERRUPTED, CLOSED_PIPE) and not self._app.wants_json():
                self._app.warn(f"Line {number} of the script failed.", prefix="")
            if code and (not keep_going or code == INTERRUPTED):
                return code
            failed = failed or bool(code)
        return int(failed)

    # ------------------------------------------------------------------ on a terminal

    def _converse(self) -> int:
        history = history_path()
        session = _prompt_session(self._app, load_history(history))
        self._app.status("Type 'help' for a list of commands, or 'exit' to leave.")
        while True:
            try:
                text = session.prompt(self._prompt())
                save_line(history, text)
                for _, command in _joined(text.splitlines()):  # several, if they were pasted
                    if command.strip() in LEAVE:
                        return 0
                    self.run_line(command)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return 0

    def _prompt(self) -> str:
        from tinkex.settings import chosen_profile

        try:
            profile = chosen_profile(self._app.shell_options.profile)
        except TinkexError:  # commands will report it
            return "tinkex(?)> "
        return f"tinkex({profile})> " if profile else "tinkex> "


def _joined(script: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines of *script*, each with its number and the lines that continue it."""
    whole, first = "", 1
    for number, text in enumerate(script, 1):
        # Some editors begin a file with a byte order mark.
        whole += (text if number > 1 else text.removeprefix("\ufeff")).rstrip("\r\n")
        if continuation(whole):
            whole += "\n"
        else:
            yield first, whole
            whole, first = "", number + 1
    if whole:
        yield first, whole


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Return the exit code of *child*; Ctrl-C reaches it directly, as in a shell."""
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code


def _prompt_session(app: Any, lines: list[str]) -> Any:
    """Return a prompt with line editing, Tab, and *lines* as its history."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.history import InMemoryHistory

    from tinkex.cli import completion

    class LineCompleter(Completer):
        def get_completions(self, document: Document, _: Any) -> Iterator[Completion]:
            text = document.text_before_cursor
            line = unfinished(text)
            words = line.words[1:] if line.words[:1] == ["tinkex"] else line.words
            if line.after:
                files = "files" if line.after != "|" and not words else ""
                offer = completion.Offer(files=files)
            else:
                offer = completion.offer(app, words, line.current)
            for value, note in offer.values:
                # A space after a whole word, so that the next Tab completes the next word.
                whole = value if value[-1] in "/:=" else f"{value} "
                start = line.start - len(text)
                yield Completion(whole, start, display=value, display_meta=note)
            if offer.files:
                only, word = offer.files == "directories", line.current
                word = word.partition("=")[2] if word.startswith("--") else word  # --output=FILE
                paths: Any = PathCompleter(only_directories=only, expanduser=True)
                yield from paths.get_completions(Document(word), _)

    session: PromptSession[str] = PromptSession(
        completer=LineCompleter(),
        complete_while_typing=False,
        history=InMemoryHistory(lines),
        multiline=Condition(lambda: bool(continuation(session.default_buffer.text))),
        prompt_continuation=lambda _, line, wrapped: (
            "" if wrapped else continuation_prompt(session.default_buffer.text, line)
        ),
    )
    return session


# ---------------------------------------------------------------------- history


def history_path() -> Path:
    """Return the path of the history of the interactive shell; it need not exist."""
    from tinkex.files import xdg_directory

    return xdg_directory("state") / "tinkex" / "history"


def load_history(path: Path) -> list[str]:
    """Return the lines of the history, the oldest first, and cut a long one."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    if len(lines) > 2 * KEPT_LINES:
        _write_history(path, "\n".join(lines[-KEPT_LINES:]) + "\n", os.O_TRUNC)
    return lines[-KEPT_LINES:]


def save_line(path: Path, text: str) -> None:
    """Append *text* to the history, unless it may hold a secret or begins with a space."""
    line = " ".join(text.replace("\\\n", "").splitlines())
    if line.strip() and not holds_secret(line):
        _write_history(path, f"{line}\n", os.O_APPEND)


def holds_secret(text: str) -> bool:
    """Return whether the line *text* may hold a secret."""
    # Quotes and backslashes may hide what a shell sees.
    return any(map(_SECRET.search, (text, re.sub(r"[\\'\"]", "", text)))) or text[:1] == " "


def _write_history(path: Path, text: str, flag: int) -> None:
    """Write to the file, which only its owner can read; failures are ignored."""
    from tinkex.files import private_directory

    with contextlib.suppress(OSError, LocalError):
        private_directory(path.parent)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as stream:
            os.fchmod(handle, 0o600)
            stream.write(text)
