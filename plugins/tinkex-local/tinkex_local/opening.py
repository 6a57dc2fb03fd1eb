"""Opens the service in the default home directory, telling failures as tinkex tells them."""

from __future__ import annotations

import sqlite3

from tinkex.exceptions import LocalError
from tinkex_local.app import App, create_app
from tinkex_local.home import HOME_VARIABLE, default_home
from tinkex_local.store import StateError


def open_default(api_key: str | None = None) -> App:
    """Return the service over the state in the default home directory.

    :param api_key: as for :func:`tinkex_local.app.create_app`.
    :raises LocalError: the directory or the state file cannot be used.
    """
    home = default_home()
    elsewhere = f"{HOME_VARIABLE} names another directory."
    try:
        return create_app(home, api_key)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LocalError(f"cannot use {home}: {reason}", hint=elsewhere) from error
    except (StateError, sqlite3.Error) as error:
        hint = f"'tinkex local reset' begins anew; {elsewhere}"
        raise LocalError(str(error), hint=hint) from error
