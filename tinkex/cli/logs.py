"""Log records on standard error and in a file, by ``--verbose``, ``--quiet`` and ``--log-file``."""

from __future__ import annotations

import contextlib
import logging
from typing import TextIO

from tinkex.exceptions import LocalError


class LogHandlers:
    """The handlers of one command line; none is left behind when it ends."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._handlers: list[logging.Handler] = []

    def install(self, stream: TextIO, *, verbose: bool, quiet: bool, file: str | None) -> None:
        """Replace the handlers that are there.

        :param file: also write every record, debugging ones too, to this file.
        :raises LocalError: the file cannot be opened.
        """
        self.remove()
        level = logging.DEBUG if verbose else logging.WARNING
        console = logging.StreamHandler(stream)
        console.setLevel(logging.ERROR if quiet else level)
        console.setFormatter(logging.Formatter("%(message)s"))
        self._handlers = [console]
        if file is not None:
            self._handlers.append(_file_handler(file))
            level = logging.DEBUG
        for handler in self._handlers:
            self._logger.addHandler(handler)
        self._logger.setLevel(level)

    def remove(self) -> None:
        """Take our handlers away and close their files."""
        for handler in self._handlers:
            self._logger.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                with contextlib.suppress(OSError):
                    handler.close()
        self._handlers = []
        self._logger.setLevel(logging.NOTSET)


class _LogFile(logging.FileHandler):
    """Gives up at the first record that cannot be written, instead of tracing back each."""

    def handleError(self, record: logging.LogRecord) -> None:
        self.setLevel(logging.CRITICAL + 1)


def _file_handler(path: str) -> logging.Handler:
    from tinkex.files import user_path

    try:
        handler = _LogFile(user_path(path), encoding="utf-8")
    except OSError as error:
        raise LocalError(f"cannot write the log file {path}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    return handler
