"""Checkpoints as the service lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tinkex.api.http import schema
from tinkex.api.paths import TinkerPath
from tinkex.exceptions import InvalidResponse, UsageError


@dataclass(frozen=True)
class Checkpoint:
    """A saved checkpoint.

    :ivar checkpoint_id: the service's id within the run; its form differs between servers.
    :ivar checkpoint_type: ``training``, ``sampler`` or ``external``.
    :ivar tinker_path: the full path, which names it everywhere.
    :ivar time: when it was saved, UTC.
    :ivar size_bytes: its size, if the service tells.
    :ivar public: whether everybody may use it.
    :ivar expires_at: when it will be deleted, UTC; ``None`` means never.
    :ivar user_metadata: what its maker attached.
    :ivar run_id: the training run that it belongs to.
    """

    checkpoint_id: str
    checkpoint_type: str
    tinker_path: str
    time: datetime
    size_bytes: int | None = None
    public: bool = False
    expires_at: datetime | None = None
    user_metadata: Mapping[str, Any] | None = None
    run_id: str = ""

    @classmethod
    def from_json(cls, data: Any) -> Checkpoint:
        """Read one checkpoint.

        :raises InvalidResponse: *data* is not one.
        """
        record = schema.mapping(data, "checkpoints")
        path = read_path(schema.text(record, "tinker_path"))
        return cls(
            checkpoint_id=schema.optional_text(record, "checkpoint_id") or path.checkpoint_id,
            checkpoint_type=schema.optional_text(record, "checkpoint_type") or path.checkpoint_type,
            tinker_path=str(path),
            time=schema.time(record, "time"),
            size_bytes=_size(record),
            public=bool(schema.optional_bool(record, "public")),
            expires_at=schema.optional_time(record, "expires_at"),
            user_metadata=schema.optional_mapping(record, "user_metadata"),
            run_id=path.run_id,
        )


def _size(record: schema.Json) -> int | None:
    size = schema.optional_int(record, "size_bytes")
    return size if size is not None and size >= 0 else None


def read_path(text: str) -> TinkerPath:
    """Return the path *text* of a server.

    :raises InvalidResponse: it is none.
    """
    try:
        return TinkerPath.from_string(text)
    except UsageError as error:
        raise InvalidResponse(f"the server's answer cannot be right: {error}") from error
