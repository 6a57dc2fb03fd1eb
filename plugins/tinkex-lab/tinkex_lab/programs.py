"""Checks with a program of the user, run concurrently."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from tinkex.exceptions import LocalError, UsageError
from tinkex_lab.results import ResultRow

T = TypeVar("T")
R = TypeVar("R")

#: Number of items per worker that are read ahead.
_AHEAD = 8


class Program:
    """A program that exits with 0 if a sample passes.

    Its standard input is a JSON object with ``id``, ``index``, ``text`` and ``extra``. It is run
    without a shell, and its output is discarded.

    :param command: the program and its arguments, quoted as for a shell.
    :param timeout: seconds after which it is killed, and the sample fails.
    :ivar timeouts: number of samples that failed in this way.
    :raises UsageError: *command* is empty, or a quote is not closed.
    """

    def __init__(self, command: str, timeout: float) -> None:
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise UsageError(
                f"cannot parse the command {command!r}: {error}",
                hint="Close all quotes, and put an argument that contains an apostrophe in double "
                "quotes.",
            ) from error
        if not self._argv:
            raise UsageError("exec: requires a command", hint="For example: 'exec:python test.py'")
        self._timeout = timeout
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_stopped = False
        self.timeouts = 0

    def __call__(self, row: ResultRow, text: str) -> bool:
        """Return whether the sample *text* of *row* passes.

        :raises LocalError: the program cannot be started.
        """
        data = {"id": row.id, "index": row.index, "text": text, "extra": dict(row.extra)}
        process = self._start()
        try:
            process.communicate(json.dumps(data).encode(), timeout=self._timeout)
        except subprocess.TimeoutExpired:
            with self._lock:
                self.timeouts += 1
        finally:
            _kill(process)  # also processes that it started and left behind
            process.communicate()
            with self._lock:
                self._running.discard(process)
        return process.returncode == 0

    def stop(self) -> None:
        """Kill all running processes, and prevent further ones."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                _kill(process)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_stopped:
                raise LocalError("the checks were stopped")
            try:
                process = subprocess.Popen(  # noqa: S603 - the user's own command
                    self._argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # so that all of its processes can be killed
                )
            except OSError as error:
                raise LocalError(
                    f"cannot run {self._argv[0]}: {error.strerror}",
                    hint="Check that the program exists and is executable.",
                ) from error
            self._running.add(process)
            return process


def map_concurrently(
    do: Callable[[T], R], items: Iterable[T], programs: Sequence[Program]
) -> Iterator[R]:
    """Yield ``do(item)`` for each of *items* in order; several run concurrently.

    If the iterator is closed or fails, for example by Ctrl-C, all *programs* are stopped.
    """
    workers = os.cpu_count() or 1
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while chunk := list(islice(remaining, workers * _AHEAD)):
                yield from pool.map(do, chunk)
        except BaseException:
            for program in programs:
                program.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
