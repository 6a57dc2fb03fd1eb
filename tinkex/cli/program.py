"""The program that owns its process: signals, streams, and the application in it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from tinkex.cli.app import EXIT_FAILURE, TinkexApp
from tinkex.exceptions import Terminated


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _terminated)
    sys.unraisablehook = _repeat_signal
    _make_streams_safe()
    app = TinkexApp()
    app.owns_process = True
    if app.stdout is None:
        app.stderr.write("Output failed: standard output is closed.\n")
        return EXIT_FAILURE
    return app.run(list(sys.argv[1:] if argv is None else argv))


def _terminated(number: int, _: object) -> None:
    raise Terminated(128 + number)


def _repeat_signal(dropped: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception fell into a finaliser, where Python drops it."""
    error = dropped.exc_value
    if not isinstance(error, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(dropped)
        return
    import threading

    number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else int(str(error.code)) - 128
    # A moment later and from elsewhere: raised here, it would be dropped once more.
    timer = threading.Timer(0.005, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def _make_streams_safe() -> None:
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets an escape instead of a failure.
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
