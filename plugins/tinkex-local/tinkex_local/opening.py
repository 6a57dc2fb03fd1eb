"""Opens the service in the default home directory, telling failures as tinkex tells them."""

from __future__ import annotations

import sqlite3

from tinkex.exceptions import LocalError
from tinkex_local.app import App, create_app
from tinkex_local.home import HOME_VARIABLE, default_home
from tinkex_local.store import StateError, is_damaged, reason

_ELSEWHERE = f"{HOME_VARIABLE} names another directory."


def open_default(api_key: str | None = None) -> App:
    """Return the service over the state in the default home directory.

    :param api_key: as for :func:`tinkex_local.app.create_app`.
    :raises LocalError: the directory or the state file cannot be used.
    """
    home = default_home()
    try:
        return create_app(home, api_key)
    except OSError as error:
        why = error.strerror or str(error)
        raise LocalError(f"cannot use {home}: {why}", hint=_ELSEWHERE) from error
    except (StateError, sqlite3.Error) as error:
        raise unusable(error) from error


def unusable(error: StateError | sqlite3.Error) -> LocalError:
    """Return the error that says why the state cannot be used; damage alone asks for a reset."""
    if isinstance(error, StateError):
        words = str(error)
    else:
        words = f"cannot use the state: {reason(error, default_home())}"
    again = "'tinkex local reset' begins anew; " if is_damaged(error) else ""
    return LocalError(words, hint=again + _ELSEWHERE)
