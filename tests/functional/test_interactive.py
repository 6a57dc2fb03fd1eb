"""The interactive shell on a terminal, as a person has it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent / "tinkex"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07]*\x07")
CTRL_C, CTRL_D, TAB, UP = "\x03", "\x04", "\t", "\x1b[A"


class Terminal:
    """``tinkex`` on a pseudo-terminal of its own."""

    def __init__(self, *argv: str, program: Path | str = PROGRAM, **environment: str) -> None:
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
        self.process = subprocess.Popen(
            [program, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
        )
        os.close(slave)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, timeout: float = 60) -> str:
        """Wait until *pattern* is shown; return what was shown up to there, and drop it."""
        until = time.monotonic() + timeout
        while not (match := re.search(pattern, self._seen)):
            ready, _, _ = select.select([self._master], [], [], max(0, until - time.monotonic()))
            assert ready, f"{pattern!r} did not come; there is {self._seen!r}"
            try:
                chunk = os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                chunk = ""
            assert chunk, f"ended without {pattern!r}; there is {self._seen!r}"
            self._seen = _ESCAPES.sub("", self._seen + chunk)
        before, self._seen = self._seen[: match.end()], self._seen[match.end() :]
        return before

    def run(self, line: str, pattern: str) -> str:
        """Type *line* and wait for *pattern*, then for the next prompt."""
        self.type(line)
        self.expect(re.escape(line[-20:]))
        self.type("\r")
        shown = self.expect(pattern)
        return shown + self.expect(r"tinkex(\([^)]*\))?>")

    def ended(self) -> int:
        """Return the exit code."""
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._master)


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def start(*argv: str, **environment: str) -> Terminal:
        environment = {"TINKEX_LOCAL_HOME": str(tmp_path / "local")} | environment
        terminals.append(Terminal(*argv, **environment))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def test_errors_do_not_end_it_and_ctrl_d_does(open_terminal):
    terminal = open_terminal()
    terminal.expect("tinkex>")
    terminal.run("nope", "'nope' is not a tinkex command")
    terminal.run("version", r"tinkex 0\.")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0


def test_help_opens_no_pager(open_terminal, tmp_path):
    """What is typed next is a command: a pager would take it for its keys."""
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho a pager; cat\n")
    pager.chmod(0o755)
    terminal = open_terminal(PAGER=str(pager))
    terminal.expect("tinkex>")
    for line in ("help", "help run batch", "run batch --help"):
        assert "a pager" not in terminal.run(line, "(in this shell|examples):")
    assert "a pager" in terminal.run(f"help | {pager}", "in this shell:")


def test_what_is_pasted_may_have_several_lines(open_terminal):
    text = "tinkex version \\\n  --json\ntinkex version"
    shell = open_terminal()
    shell.expect("tinkex>")
    shell.type(f"\x1b[200~{text}\x1b[201~\r")  # as terminals mark it
    shell.expect(r'"version": "0[^}]*}\s+tinkex 0\.')
    shell.expect("tinkex>")
    shell.type("version \\\r  --json\r")
    shell.expect(r'"version": "0')


def test_an_open_quote_continues_on_the_next_line(open_terminal):
    terminal = open_terminal()
    terminal.expect("tinkex>")
    terminal.type("run --prompt 'once\r")
    terminal.expect("'>")
    terminal.type("upon' --nope\r")
    terminal.expect(r"Invalid option\(s\) for run: --nope")
    terminal.expect("tinkex>")
    terminal.type("run --prompt don't\r")  # a mistake
    terminal.expect("'>")
    terminal.type(CTRL_C)
    terminal.expect("tinkex>")
    terminal.run("version", r"tinkex 0\.")


def test_tab_after_tab_leads_from_a_few_letters_to_the_subcommands(open_terminal):
    terminal = open_terminal()
    terminal.expect("tinkex>")
    terminal.type("che" + TAB)
    terminal.expect("checkpoint")
    terminal.type(TAB)
    terminal.expect("delete")  # of the list of subcommands


def test_ctrl_c_at_the_prompt_drops_the_line(open_terminal):
    terminal = open_terminal()
    terminal.expect("tinkex>")
    terminal.type("run li")
    terminal.expect("run li")
    terminal.type(CTRL_C)
    terminal.expect("tinkex>")
    terminal.run("version", r"tinkex 0\.")


def test_ctrl_c_ends_a_command_that_waits_for_the_network(open_terminal, silent):
    terminal = open_terminal("--base-url", silent.url, TINKER_API_KEY="tml-a")
    terminal.expect("tinkex>")
    terminal.type("run list\r")
    assert silent.asked.wait(60)
    terminal.type(CTRL_C)
    terminal.expect("Run list interrupted")
    terminal.expect("tinkex>")
    terminal.run("version", r"tinkex 0\.")


def test_ctrl_c_ends_a_command_of_a_pipe(open_terminal):
    terminal = open_terminal()
    terminal.expect("tinkex>")
    terminal.type("version | (cat; sleep 60)\r")
    terminal.expect(r"tinkex 0\.[^\n]*\n")
    terminal.type(CTRL_C)
    terminal.expect("tinkex>")
    terminal.run("version", r"tinkex 0\.")


def test_tab_completes_commands_options_and_paths(open_terminal):
    terminal = open_terminal("--profile", "local")
    terminal.expect("> ?")
    model = "--base-model tinkex/baker-street-2M --rank 1"
    terminal.run(f"checkpoint {model} --name first --output /dev/null", "Checkpoint saved")
    terminal.type("checkpoint inf" + TAB)
    terminal.expect("checkpoint info")
    terminal.type(" tin" + TAB)
    terminal.expect("sampler_weights/first")
    terminal.type("\r")
    terminal.expect("baker-street-2M")
    terminal.expect("> ?")
    terminal.type("run list --lim" + TAB)
    terminal.expect("--limit")
    terminal.type(" 1\r")
    terminal.expect("baker-street-2M")


def test_history_is_kept_without_keys(open_terminal, home):
    terminal = open_terminal()
    terminal.expect("tinkex>")
    terminal.run("run list --base-url http://127.0.0.1:1 --api-key tml-secret", "Run list failed")
    terminal.run("version", r"tinkex 0\.")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0
    history = home / ".local" / "state" / "tinkex" / "history"
    assert history.read_text() == "version\n"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    again = open_terminal()
    again.expect("tinkex>")
    again.type(UP)
    again.expect("version")
    again.type("\r")
    again.expect(r"tinkex 0\.")
