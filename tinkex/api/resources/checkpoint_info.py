"""One checkpoint: its record in lists, and what it was trained from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tinkex.api.http import schema
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import KINDS, TinkerPath, run_url
from tinkex.exceptions import APIError, InvalidResponse, RateLimited, Unauthorized


@dataclass(frozen=True)
class Checkpoint:
    """A saved checkpoint.

    :ivar checkpoint_id: the service's id within the run; its form differs between servers.
    :ivar checkpoint_type: ``training``, ``sampler`` or ``external``.
    :ivar time: when it was saved, UTC.
    :ivar public: whether everyone may use it.
    :ivar expires_at: when the service will delete it, UTC; ``None`` means never.
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
        """Return the checkpoint that *data* describes."""
        record = schema.mapping(data, "checkpoints")
        path = TinkerPath.from_server(schema.text(record, "tinker_path"))
        size = schema.optional_int(record, "size_bytes")
        kind = schema.optional_text(record, "checkpoint_type") or path.checkpoint_type
        return schema.read(
            cls,
            record,
            "checkpoints",
            checkpoint_id=schema.optional_text(record, "checkpoint_id") or path.checkpoint_id,
            checkpoint_type=KINDS.get(kind, kind),  # some servers have the word in paths
            tinker_path=str(path),
            size_bytes=None if size is None or size < 0 else size,
            run_id=path.run_id,
        )


@dataclass(frozen=True)
class Lineage:
    """What a checkpoint was trained from; ``None`` where the service does not report it."""

    base_model: str | None = None
    is_lora: bool | None = None
    lora_rank: int | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    train_unembed: bool | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo(Lineage):
    """A checkpoint and what it was trained from; ``None`` where the service does not report it.

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
        """Return *record*, or what *path* itself says without one, together with *lineage*."""
        default = {
            "tinker_path": str(path),
            "run_id": path.run_id,
            "checkpoint_id": path.checkpoint_id,
            "checkpoint_type": path.checkpoint_type,
        }
        return cls(**{**default, **(vars(record) if record else {}), **vars(lineage)})


def weights_info(transport: Transport, path: TinkerPath, deadline: Deadline) -> Lineage:
    """Return the lineage of *path* by the endpoint that also knows other accounts' checkpoints."""
    # The POST only reads, yet it is not retried: servers answer 500 for a path they do not know.
    request = Request("POST", "weights_info", {"tinker_path": str(path)}, what="weights_info")
    return schema.read(Lineage, transport.call(request, deadline).object(), "weights_info")


def lineage_of(transport: Transport, path: TinkerPath, deadline: Deadline) -> Lineage:
    """Return the lineage of *path*: of the checkpoint, else of its training run.

    Some servers answer for training checkpoints only, some with an internal error.

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
