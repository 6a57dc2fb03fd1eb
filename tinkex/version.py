"""The version number, and the commit that the package was built from.

Imports nothing: the build reads ``__version__`` from the source, and every other module may
import this one.
"""

__version__ = "0.1.0"


def commit() -> str | None:
    """Return the short commit hash that :mod:`tinkex._build` added, or ``None``."""
    try:
        from tinkex._commit import COMMIT
    except ImportError:
        return None
    return str(COMMIT)


def line() -> str:
    """Return ``tinkex 0.x.y (abc1234)``; without the commit if it is unknown."""
    built_from = commit()
    return f"tinkex {__version__}" + (f" ({built_from})" if built_from else "")
