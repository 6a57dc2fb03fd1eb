"""What a person sees on standard error while something takes time.

Nothing at all where standard error is no terminal, or a dumb one, or ``--quiet`` was given.
rich draws; it is imported only when there is something to draw.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from tinkex.cli.formatters import can_redraw, wants_colour
from tinkex.columns import printable

if TYPE_CHECKING:
    from tinkex.api import Progress, Wait

#: Seconds of waiting before anything is said: most answers are there sooner.
PATIENCE = 1.0
#: Seconds between two looks at the clock.
TICK = 0.5


class Display:
    """One changing line on standard error: a wait with its reason, or a transfer.

    :param stream: standard error.
    :param quiet: show nothing.

    Threads may share it: several requests wait at the same time, and a heartbeat speaks up.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._enabled = not quiet and can_redraw(stream)
        self._lock = threading.RLock()
        self._waiting: _Waiting | None = None
        self._bar: Any = None
        self._task: Any = None

    def wait(self, wait: Wait) -> None:
        """Show that the service is being waited for, since when, and why."""
        with self._lock:
            if wait.note:
                self.clear()
                if not self._quiet:
                    self._stream.write(printable(wait.note) + "\n")
            else:
                self._begin(wait.operation, wait.elapsed).tell(wait)

    def expect(self, what: str) -> None:
        """Begin to count the seconds: a server that says nothing at all is waited for as well."""
        with self._lock:
            if self._waiting is None:
                self._begin(what, 0.0)

    def transfer(self, progress: Progress) -> None:
        """Show how much of a download is there."""
        if not self._enabled:
            return
        with self._lock:
            self._show_bar(self._new_bar, None)
            self._bar.update(
                self._task,
                completed=progress.done_bytes,
                total=progress.total_bytes,
                description=printable(progress.file or ""),
            )

    @property
    def draws(self) -> bool:
        """Whether anything is shown at all."""
        return self._enabled

    def count(self, what: str, done: int, total: int) -> None:
        """Show that *done* of *total* things are done; *what*: what is being done, or a rate."""
        if not self._enabled:
            return
        with self._lock:
            self._show_bar(self._new_counter, total)
            self._bar.update(self._task, completed=done, description=printable(what))

    def clear(self) -> None:
        """Take the line away, so that something else can be written."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.stop()
            if self._bar is not None:
                self._bar.stop()
            self._waiting = self._bar = self._task = None

    def _show_bar(self, new: Callable[[], Any], total: int | None) -> None:
        if self._bar is None:
            self.clear()
            self._bar = new()
            self._bar.start()
            self._task = self._bar.add_task("", total=total)

    def _begin(self, what: str, elapsed: float) -> _Waiting | _Nothing:
        if not self._enabled or self._bar is not None:
            return _Nothing()
        if self._waiting is None:
            self._waiting = _Waiting(self._console, what, elapsed)
        return self._waiting

    def _console(self) -> Any:
        from rich.console import Console

        return Console(file=self._stream, no_color=not wants_colour(self._stream))

    def _new_bar(self) -> Any:
        from rich import progress

        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=self._console(),
            transient=True,
        )

    def _new_counter(self) -> Any:
        from rich import progress

        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=self._console(),
            transient=True,
        )


class _Nothing:
    """Shows no wait: there is no terminal, or it shows something else."""

    def tell(self, wait: Wait) -> None:
        """Leave *wait* unmentioned."""


class _Waiting:
    """A thread that says how long the wait has been: the waiting thread hangs in a read.

    :param console: makes the rich console to draw on.
    :param what: what is waited for, until :meth:`tell` knows better.
    :param elapsed: seconds it has taken already.
    """

    def __init__(self, console: Callable[[], Any], what: str, elapsed: float) -> None:
        self._new_console = console
        self._what, self._why = what, ""
        self._pressing = False
        self._began = time.monotonic() - elapsed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True, name="tinkex-display")
        self._thread.start()

    def tell(self, wait: Wait) -> None:
        """Say from now on what *wait* says."""
        self._began = time.monotonic() - wait.elapsed
        self._what, self._why = wait.operation, reason_of(wait)
        self._pressing = bool(wait.retry_in)

    def stop(self) -> None:
        """Take the line away."""
        self._stopped.set()
        self._thread.join(1)

    def _tick(self) -> None:
        status: Any = None
        while not self._stopped.wait(TICK):
            elapsed = time.monotonic() - self._began
            if elapsed < PATIENCE and not self._pressing:
                continue
            if status is None:
                from rich.status import Status

                status = Status("", console=self._new_console())
                status.start()
            from rich.text import Text

            line = f"Waiting for {self._what}: {elapsed:.0f} s{self._why}"
            status.update(Text(printable(line)))
        if status is not None:
            status.stop()


def reason_of(wait: Wait) -> str:
    """Return why there is a wait: `` (paused_capacity: busy, again in 2 s)``, or nothing."""
    state = wait.queue_state if wait.queue_state != "active" else None
    reason = ": ".join(filter(None, (state, wait.reason)))
    if wait.retry_in:
        reason = ", ".join(filter(None, (reason, f"again in {wait.retry_in:.0f} s")))
    return f" ({reason})" if reason else ""
