"""Work that Ctrl-C does not cut in two."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Uncut:
    """A few milliseconds of work that are done as a whole, or not begun.

    Python hands exceptions of signals to the main thread alone, and waits for threads that are no
    daemons before a process ends. So a thread of its own does the work; no handler of
    anybody's signal is touched. Only ``kill -9`` and the like are not held off.
    """

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        #: Whoever takes it decides: the thread that it begins, or the caller that it never will.
        self._chance = [True]
        self._over = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it; what a signal raises meanwhile comes afterwards.

        :raises BaseException: whatever the work raised, or a signal.
        """
        threading.Thread(target=self._work).start()
        self._wait()
        if self._error is not None:
            raise self._error

    def settle(self) -> None:
        """Return when it is over, or can no longer begin; it may be asked again.

        For a caller of :meth:`run` that a signal tore away before it waited.
        """
        try:
            self._chance.pop()
        except IndexError:
            self._wait()
        else:
            self._over.set()

    def _work(self) -> None:
        try:
            self._chance.pop()
        except IndexError:
            return
        try:
            self._do()
        except BaseException as error:  # it is raised again where somebody waits
            self._error = error
        finally:
            self._over.set()

    def _wait(self) -> None:
        raised: BaseException | None = None
        while not self._over.is_set():
            try:
                self._over.wait()
            except BaseException as error:
                raised = error
        if raised is not None:
            raise raised
