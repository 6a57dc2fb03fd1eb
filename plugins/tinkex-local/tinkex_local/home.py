"""Where the state of the service lives."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path

from tinkex.files import user_path, xdg_directory

#: Environment variable that names the directory.
HOME_VARIABLE = "TINKEX_LOCAL_HOME"
#: Directory below it with one directory a checkpoint.
CHECKPOINTS = "checkpoints"


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the directory that holds the state; it need not exist.

    ``$TINKEX_LOCAL_HOME``, else ``$XDG_DATA_HOME/tinkex/local``, else
    ``~/.local/share/tinkex/local``.

    :raises tinkex.exceptions.LocalError: it names the home of a user who does not exist.
    """
    environ = os.environ if environ is None else environ
    if environ.get(HOME_VARIABLE):
        return user_path(environ[HOME_VARIABLE])
    # Expanded again, so that a user without a home directory gets an error.
    return user_path(str(xdg_directory("data", environ))) / "tinkex" / "local"


def prepare(home: Path) -> Path:
    """Create *home* (mode 0700) and what the service expects in it; return it, absolute.

    :raises OSError: it cannot be created or is not a directory.
    """
    home = home.absolute()
    home.parent.mkdir(parents=True, exist_ok=True)
    for directory in (home, home / CHECKPOINTS):
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError as error:
            name = "it" if directory == home else str(directory)
            raise NotADirectoryError(errno.ENOTDIR, f"{name} is not a directory") from error
    return home


def occupied(home: Path) -> int:
    """Return the bytes of all files below *home*; what goes away meanwhile is not counted."""
    total = 0
    for directory, _, names in os.walk(home):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(directory, name)).st_size
    return total
