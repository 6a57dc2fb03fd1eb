"""Errors of the engine as errors of tinkex, with the sentences of the default HTTP pool.

The engine tells most of them apart by their text only.
"""

from __future__ import annotations

import pyqwest

from tinkex.api.http import errors
from tinkex.exceptions import (
    ConnectionFailed,
    InvalidResponse,
    SettingsError,
    TinkexError,
    TLSError,
    Unreachable,
)

#: What the engine raises.
FOREIGN = (
    *(OSError, RuntimeError, ValueError),
    *(pyqwest.ReadError, pyqwest.WriteError, pyqwest.RemoteProtocolError),
)
