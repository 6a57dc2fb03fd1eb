"""Progress and waits on standard error.

Nothing is drawn with ``--quiet``, or if standard error is not a terminal or is a dumb terminal. The
drawing library, rich, is imported only when needed.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from tinkex.cli.formatters import can_redraw, wants_colour
from tinkex.columns import printable

if TYPE_CHECKING:
    from tinkex.api import Progress, Wait

#: Seconds before a wait is shown: most responses arrive sooner.
PATIENCE = 1.0
#: Seconds between two updates of a wait.
TICK = 0.5


class Display:
    """One line on standard error that is redrawn: a wait with its reason, or a progress bar.

    Threads may share it: several requests may wait at the same time.

    :param stream: standard error.
    :param quiet: show nothing.
    :ivar draws: whether anything is drawn.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self.draws = not quiet and can_redraw(stream)
        self._lock = threading.RLock()
        self._waiting: _Waiting | None = None
        self._bar: Any = None
        self._task: Any = None

    def wait(self, wait: Wait) -> None:
        """Show what the command is waiting for, how long, and why."""
        with self._lock:
            if wait.note:
                self.clear()
                if not self._quiet:
                    self._stream.write(printable(wait.note) + "\n")
            else:
                self.expect(wait.operation)
                if self._waiting is not None:
                    self._waiting.update(wait)

    def expect(self, what: str) -> None:
        """Show the elapsed time of *what* from now on, even if the server sends nothing."""
        with self._lock:
            if self.draws and self._bar is None and self._waiting is None:
                self._waiting = _Waiting(self._stream, what)

    def transfer(self, progress: Progress) -> None:
        """Show the progress of a download."""
        with self._lock:
            if self._show_bar("DownloadColumn", "TransferSpeedColumn"):
                self._bar.update(
                    self._task,
                    completed=progress.done_bytes,
                    total=progress.total_bytes,
                    description=printable(progress.file or ""),
                )

    def count(self, what: str, done: int, total: int) -> None:
        """Show that *done* of *total* items are done; *what* is the activity, or a rate."""
        with self._lock:
            if self._show_bar("MofNCompleteColumn"):
                description = printable(what)
                self._bar.update(self._task, completed=done, total=total, description=description)

    def clear(self) -> None:
        """Remove the line, so that something else can be written."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.stop()
            if self._bar is not None:
                self._bar.stop()
            self._waiting = self._bar = self._task = None

    def _show_bar(self, *columns: str) -> bool:
        """Start a bar with rich's *columns* if there is none; return whether anything is drawn."""
        if self.draws and self._bar is None:
            from rich import progress

            self.clear()
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(),
                *(getattr(progress, name)() for name in columns),
                progress.TimeRemainingColumn(),
                console=console(self._stream),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self.draws


def console(stream: TextIO) -> Any:
    """Return the rich console that draws on *stream*."""
    from rich.console import Console

    return Console(file=stream, no_color=not wants_colour(stream))


class _Waiting:
    """A thread that shows the duration of a wait while another thread is blocked in a read."""

    def __init__(self, stream: TextIO, what: str) -> None:
        self._stream = stream
        self._what, self._why = what, ""
        self._is_urgent = False
        self._began = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True, name="tinkex-display")
        with suppress(RuntimeError):  # the system allows no more threads
            self._thread.start()

    def update(self, wait: Wait) -> None:
        """Show *wait* from now on."""
        self._began = time.monotonic() - wait.elapsed
        self._what, self._why = wait.operation, reason_of(wait)
        self._is_urgent = bool(wait.retry_in)

    def stop(self) -> None:
        """Remove the line."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(1)

    def _tick(self) -> None:
        status: Any = None
        while not self._stopped.wait(TICK):
            elapsed = time.monotonic() - self._began
            if elapsed < PATIENCE and not self._is_urgent:
                continue
            from rich.status import Status
            from rich.text import Text

            if status is None:
                status = Status("", console=console(self._stream))
                status.start()
            line = f"Waiting for {self._what}: {elapsed:.0f} s{self._why}"
            status.update(Text(printable(line)))
        if status is not None:
            status.stop()


def reason_of(wait: Wait) -> str:
    """Return the reason for a wait: `` (paused_capacity: busy, retrying in 2 s)``, or ``""``."""
    state = wait.queue_state if wait.queue_state != "active" else None
    reason = ": ".join(filter(None, (state, wait.reason)))
    if wait.retry_in:
        reason = ", ".join(filter(None, (reason, f"retrying in {wait.retry_in:.0f} s")))
    return f" ({reason})" if reason else ""
