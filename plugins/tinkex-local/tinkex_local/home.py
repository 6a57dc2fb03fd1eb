"""Where the state of the service lives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

#: Environment variable that names the directory.
HOME_VARIABLE = "TINKEX_LOCAL_HOME"


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the directory that holds the state; it need not exist.

    ``$TINKEX_LOCAL_HOME``, else ``$XDG_DATA_HOME/tinkex/local``, else
    ``~/.local/share/tinkex/local``.
    """
    environ = os.environ if environ is None else environ
    if environ.get(HOME_VARIABLE):
        return Path(environ[HOME_VARIABLE]).expanduser()
    base = environ.get("XDG_DATA_HOME")
    data = Path(base) if base else Path.home() / ".local" / "share"
    return data / "tinkex" / "local"


def prepare(home: Path) -> Path:
    """Create *home* (mode 0700) and what the service expects in it; return it, absolute.

    :raises OSError: it cannot be created or is not a directory.
    """
    home = home.absolute()
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
    checkpoints_directory(home).mkdir(mode=0o700, exist_ok=True)
    return home


def checkpoints_directory(home: Path) -> Path:
    """Return the directory below *home* with one directory a checkpoint."""
    return home / "checkpoints"
