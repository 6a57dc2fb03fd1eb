"""The terminal side of the interactive shell: line editing, history and Tab, by prompt_toolkit."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History

from tinkex.cli import completion, lines

if TYPE_CHECKING:
    from tinkex.cli.app import TinkexApp

#: Lines that are kept from one shell to the next.
KEPT_LINES = 1000
#: What looks like an API key or token, or says that one comes.
_SECRET = re.compile(r"api[-_]?key|token=|password|\b(tml-|hf_|sk-|eyJ)[\w.-]{6,}", re.IGNORECASE)


class Console:
    """Reads the lines of a person."""

    def __init__(self, app: TinkexApp) -> None:
        self._session: PromptSession[str] = PromptSession(
            completer=LineCompleter(app),
            complete_while_typing=False,
            history=FileHistory(history_path()),
            # Enter after a backslash goes on with the line, as in a shell.
            multiline=Condition(lambda: lines.is_continued(self._session.default_buffer.text)),
        )

    def read(self, prompt: str) -> str:
        """Return the next line.

        :raises EOFError: Ctrl-D.
        :raises KeyboardInterrupt: Ctrl-C.
        """
        return self._session.prompt(prompt)


def history_path() -> Path | None:
    """Return the path of the history, which need not exist; ``None`` without a home directory."""
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "tinkex" / "history"
    except RuntimeError:
        return None


def holds_secret(text: str) -> bool:
    """Tell whether the line *text* holds, or may hold, a secret."""
    # Quotes may hide what the shell will see.
    return any(map(_SECRET.search, (text, re.sub(r"[\\'\"]", "", text)))) or text[:1] == " "


class FileHistory(History):
    """A line each in a file that only its owner can read; lines with secrets are left out.

    A history that cannot be read or written is no reason to refuse a line: it is kept in memory.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        if self._path is None:
            return []
        try:
            kept = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        if len(kept) > 2 * KEPT_LINES:
            self._write("\n".join(kept[-KEPT_LINES:]) + "\n", os.O_TRUNC)
        return reversed(kept[-KEPT_LINES:])

    def store_string(self, string: str) -> None:
        # One line, which means the same: a backslash would take the meaning of the space.
        whole = " ".join(string.replace("\\\n", "").splitlines())
        if not holds_secret(whole) and whole.strip():
            self._write(f"{whole}\n", os.O_APPEND)

    def _write(self, text: str, how: int) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | how, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as stream:
                os.fchmod(handle, 0o600)
                stream.write(text)


class LineCompleter(Completer):
    """What may stand at the cursor: the same that the completion of other shells offers."""

    def __init__(self, app: TinkexApp) -> None:
        self._app = app

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        line = lines.unfinished(text)
        if line.after == "|":
            return
        words = line.words[1:] if line.words[:1] == ["tinkex"] else line.words
        if line.after:
            offer = completion.Offer(files="" if words else "files")
        else:
            offer = completion.offer(self._app, words, line.current)
        for value, note in offer.values:
            yield Completion(value, line.start - len(text), display_meta=note)
        if offer.files:
            only = offer.files == "directories"
            paths: Any = PathCompleter(only_directories=only, expanduser=True)
            yield from paths.get_completions(Document(line.current), event)
