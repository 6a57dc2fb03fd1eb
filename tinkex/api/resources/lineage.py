"""What a checkpoint was trained from, asked in every way that some server knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tinkex.api.http import schema
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.api.paths import TinkerPath
from tinkex.api.resources.runs import get_run
from tinkex.exceptions import APIError, InvalidResponse, RateLimited, Unauthorized

if TYPE_CHECKING:
    from tinkex.api.resources.records import Checkpoint


@dataclass(frozen=True)
class Lineage:
    """What is known of a checkpoint's making; ``None`` where nothing is."""

    base_model: str | None = None
    is_lora: bool | None = None
    lora_rank: int | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    train_unembed: bool | None = None


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint and what it was trained from; ``None`` where the service does not tell.

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
    base_model: str | None = None
    is_lora: bool | None = None
    lora_rank: int | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    train_unembed: bool | None = None


def info_of(
    transport: Transport, path: TinkerPath, found: Checkpoint, deadline: Deadline
) -> CheckpointInfo:
    """Return all that the service knows about *path*, which it lists as *found*."""
    try:
        lineage = lineage_of(transport, path, deadline)
    except APIError:
        lineage = Lineage()
    return _described(path, found, lineage)


def info_of_unlisted(
    transport: Transport, path: TinkerPath, missing: APIError, deadline: Deadline
) -> CheckpointInfo:
    """Return what the service knows about *path* of somebody else, who has published it.

    :param missing: is raised if it knows nothing.
    """
    try:
        lineage = weights_info(transport, path, deadline)
    except (APIError, InvalidResponse):
        raise missing from None
    return _described(path, None, lineage)


def lineage_of(transport: Transport, path: TinkerPath, deadline: Deadline) -> Lineage:
    """Return what the service knows: by the checkpoint, else by its training run.

    Some servers answer for training checkpoints only, some with an internal error.

    :raises tinkex.exceptions.APIError: neither is to be had.
    """
    try:
        return weights_info(transport, path, deadline)
    except (Unauthorized, RateLimited):
        raise
    except (APIError, InvalidResponse) as error:
        try:
            run = get_run(transport, path.run_id, deadline)
        except APIError:
            raise error from None
        return Lineage(run.base_model, run.is_lora, run.lora_rank)


def weights_info(transport: Transport, path: TinkerPath, deadline: Deadline) -> Lineage:
    """Ask about the checkpoint itself."""
    # Asking changes nothing, so this POST may be repeated; but servers that know nothing of a
    # path like to answer 500, which another try does not mend.
    request = Request("POST", "weights_info", {"tinker_path": str(path)}, what="weights_info")
    data = transport.call(request, deadline).object()
    return Lineage(
        base_model=schema.optional_text(data, "base_model"),
        is_lora=schema.optional_bool(data, "is_lora"),
        lora_rank=schema.optional_int(data, "lora_rank"),
        train_mlp=schema.optional_bool(data, "train_mlp"),
        train_attn=schema.optional_bool(data, "train_attn"),
        train_unembed=schema.optional_bool(data, "train_unembed"),
    )


def base_model_of(transport: Transport, path: TinkerPath, deadline: Deadline) -> str:
    """Return the name of the model that the checkpoint *path* adapts.

    :raises tinkex.exceptions.TinkexError: the service does not tell.
    """
    name = lineage_of(transport, path, deadline).base_model
    return name or schema.refuse("no 'base_model'")


def _described(path: TinkerPath, found: Checkpoint | None, lineage: Lineage) -> CheckpointInfo:
    known = {} if found is None else vars(found)
    default = {
        "tinker_path": str(path),
        "run_id": path.run_id,
        "checkpoint_id": path.checkpoint_id,
        "checkpoint_type": path.checkpoint_type,
    }
    return CheckpointInfo(**{**default, **known, **vars(lineage)})
