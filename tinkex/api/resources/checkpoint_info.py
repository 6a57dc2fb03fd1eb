"""One checkpoint: its record in lists, and the base model and adapter it belongs to."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import KINDS, TinkerPath, run_url, shown
from tinkex.exceptions import (
    APIError,
    InvalidResponse,
    RateLimited,
    Unauthorized,
    UsageError,
)


@dataclass(frozen=True)
class Checkpoint:
    """A saved checkpoint.

    :ivar checkpoint_id: the service's id within the run; its form differs between servers.
    :ivar checkpoint_type: ``training``, ``sampler`` or ``external``; an unknown type is unchanged.
    :ivar tinker_path: unchanged if this version does not understand it.
    :ivar time: when it was saved, UTC; ``None`` if unknown.
    :ivar public: whether anyone may use it.
    :ivar expires_at: when the service will delete it, UTC; ``None`` means never.
    """

    checkpoint_id: str
    checkpoint_type: str
    tinker_path: str
    time: datetime | None = None
    size_bytes: int | None = None
    public: bool = False
    expires_at: datetime | None = None
    user_metadata: Mapping[str, Any] | None = None
    run_id: str = ""

    @classmethod
    def from_json(cls, data: Any, run_id: str = "") -> Checkpoint:
        """Create a checkpoint from its JSON form *data*, as far as this version understands it.

        :param run_id: the run that lists it, for a path that does not name its run.
        """
        record = data if isinstance(data, Mapping) else {"path": shown(data)}
        name = _text(record, "checkpoint_id")
        path = _text(record, "tinker_path") or _text(record, "path") or name or shown(data)
        kind = _text(record, "checkpoint_type")
        with contextlib.suppress(UsageError):
            parsed = TinkerPath.from_string(path)
            path, run_id = str(parsed), parsed.run_id
            name, kind = name or parsed.checkpoint_id, kind or parsed.checkpoint_type
        found = schema.read(
            cls,
            record,
            "checkpoints",
            lenient=True,
            checkpoint_id=name,
            checkpoint_type=KINDS.get(kind, kind),  # some servers use the name from paths
            tinker_path=path,
            run_id=run_id,
        )
        return found if (found.size_bytes or 0) >= 0 else replace(found, size_bytes=None)

    @property
    def path(self) -> TinkerPath | None:
        """The parts of its path; ``None`` if this version does not understand it."""
        try:
            return TinkerPath.from_string(self.tinker_path)
        except UsageError:
            return None

    @property
    def is_known(self) -> bool:
        """Whether kind, type and time are known; bulk commands skip all others."""
        path, types = self.path, KINDS.values()
        is_plain = path is not None and path.kind in KINDS and "/" not in path.name
        return is_plain and self.checkpoint_type in types and self.time is not None

    @property
    def has_bare_id(self) -> bool:
        """Whether its id has no kind, so that two checkpoints may share the id."""
        return bool(self.checkpoint_id) and "/" not in self.checkpoint_id


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


def key_of(path: str) -> str:
    """Return *path* without its scheme, which may differ between responses."""
    return path.rpartition("://")[2]


def row_of(path: TinkerPath, rows: Iterable[Checkpoint]) -> Checkpoint | None:
    """Return the checkpoint *path* among *rows*, the list of its run."""
    key = key_of(str(path))
    return next((row for row in rows if key_of(row.tinker_path) == key), None)


def twins_of(path: TinkerPath, rows: Collection[Checkpoint]) -> list[Checkpoint]:
    """Return the items of *rows*, the list of its run, that a server may confuse with *path*.

    They have the same name or id, and ids without a kind.
    """
    own = row_of(path, rows)
    names = {path.name, own.checkpoint_id if own else path.name}
    return [
        row
        for row in rows
        if row is not own
        and row.has_bare_id
        and names & {row.checkpoint_id, row.tinker_path.rpartition("/")[2]}
    ]


@dataclass(frozen=True)
class Lineage:
    """The base model and adapter of a checkpoint; ``None`` where the service does not report it."""

    base_model: str | None = None
    is_lora: bool | None = None
    lora_rank: int | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    train_unembed: bool | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo(Lineage):
    """A checkpoint with its base model and adapter; ``None`` where the service does not report it.

    Members are those of :class:`~tinkex.api.Checkpoint` and of the run's adapter.
    """

    tinker_path: str
    run_id: str
    checkpoint_id: str
    checkpoint_type: str
    time: datetime | None = None
    size_bytes: int | None = None
    public: bool | None = None
    expires_at: datetime | None = None
    user_metadata: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, path: TinkerPath, record: Checkpoint | None, lineage: Lineage) -> CheckpointInfo:
        """Combine *lineage* with *record*, or with the parts of *path* if there is no record."""
        default = {
            "tinker_path": str(path),
            "run_id": path.run_id,
            "checkpoint_id": path.checkpoint_id,
            "checkpoint_type": path.checkpoint_type,
        }
        return cls(**{**default, **(vars(record) if record else {}), **vars(lineage)})


def weights_info(transport: Transport, path: TinkerPath, deadline: Deadline) -> Lineage:
    """Return the lineage of *path* from an endpoint that supports checkpoints of other accounts."""
    # This POST only reads, but is not retried: servers return 500 for an unknown path.
    what = "information about a single checkpoint"
    request = Request("POST", "weights_info", {"tinker_path": str(path)}, what=what)
    return schema.read(Lineage, transport.call(request, deadline).object(), "weights_info")


def lineage_of(transport: Transport, path: TinkerPath, deadline: Deadline) -> Lineage:
    """Return the lineage of the checkpoint *path*, or of its training run.

    Some servers support this only for training checkpoints; some return an internal error.

    :raises tinkex.exceptions.APIError: the service reports neither.
    """
    try:
        return weights_info(transport, path, deadline)
    except (Unauthorized, RateLimited):
        raise
    except (APIError, InvalidResponse) as error:
        try:
            run = transport.call(Request("GET", run_url(path.run_id)), deadline).object()
        except APIError:
            raise error from None
        return schema.read(Lineage, {"is_lora": True, **run}, "training_runs")


def base_model_of(transport: Transport, path: TinkerPath, deadline: Deadline) -> str:
    """Return the name of the model that the checkpoint *path* adapts.

    :raises tinkex.exceptions.TinkexError: the service does not report it.
    """
    name = lineage_of(transport, path, deadline).base_model
    return name or schema.refuse("no 'base_model'")
