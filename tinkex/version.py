"""The version, and the commit that the package was built from."""

from __future__ import annotations

from tinkex import __version__


def commit() -> str | None:
    """Return the short commit hash stamped in at build time, or ``None``."""
    try:
        from tinkex._commit import COMMIT
    except ImportError:
        return None
    return str(COMMIT)


def line() -> str:
    """Return ``tinkex 0.x.y (abc1234)``, without the bracket when the commit is not known."""
    stamp = commit()
    return f"tinkex {__version__}" + (f" ({stamp})" if stamp else "")
