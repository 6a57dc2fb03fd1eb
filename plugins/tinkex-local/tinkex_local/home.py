"""The directory with the state of the service."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path

from tinkex.files import user_path, xdg_directory

#: Environment variable with the path of the directory.
HOME_VARIABLE = "TINKEX_LOCAL_HOME"
#: Directory below it with one directory for each checkpoint.
CHECKPOINTS = "checkpoints"


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the default directory of the state, which need not exist.

    ``$TINKEX_LOCAL_HOME``, else ``$XDG_DATA_HOME/tinkex/local``, else
    ``~/.local/share/tinkex/local``.

    :raises tinkex.exceptions.LocalError: the path contains the home of an unknown user.
    """
    environ = os.environ if environ is None else environ
    if environ.get(HOME_VARIABLE):
        return user_path(environ[HOME_VARIABLE])
    # Expanded again to raise an error for a user without a home directory.
    return user_path(str(xdg_directory("data", environ))) / "tinkex" / "local"


def prepare(home: Path) -> Path:
    """Create *home* (mode 0700) and its subdirectories; return its absolute path.

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
    """Return the total size in bytes of all files below *home*; removed files are ignored."""
    total = 0
    for directory, _, names in os.walk(home):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(directory, name)).st_size
    return total
