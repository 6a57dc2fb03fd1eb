"""The request bodies of the protocol as typed structures.

Unknown fields are ignored, as the protocol requires.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from tinkex_local.problems import Problem

#: Seconds: one hour to ten years.
TTL_MIN, TTL_MAX = 3600, 10 * 365 * 86400

Identifier = Annotated[str, Meta(min_length=1, max_length=300)]
#: One segment of a checkpoint's path; no leading dot.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\Z")]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[int, Meta(ge=TTL_MIN, le=TTL_MAX)]
Token = Annotated[int, Meta(ge=0, lt=2**31)]
Metadata = dict[str, Any] | None
#: Maximum nesting depth of metadata, because code that reads it is recursive.
METADATA_LEVELS = 64


class Body(Struct, kw_only=True):
    """Base class of all bodies."""

    def digest(self) -> str:
        """Return a digest that is equal for identical requests."""
        return hashlib.sha256(type(self).__name__.encode() + msgspec.json.encode(self)).hexdigest()


class Described(Body, kw_only=True):
    """Base class of bodies with metadata for the created object."""

    user_metadata: Metadata = None

    def __post_init__(self) -> None:
        if _levels(self.user_metadata) > METADATA_LEVELS:
            raise ValueError(f"user_metadata is nested deeper than {METADATA_LEVELS} levels")


class CreateSession(Described):
    tags: list[str]
    sdk_version: str
    project_id: str | None = None
    display_name: str | None = None


class SessionHeartbeat(Body):
    session_id: Identifier


class FinishReason(Body):
    type: str = "success"


class FinishSession(Body):
    reason: FinishReason = field(default_factory=FinishReason)
    detail: str | None = None


class SearchOwner(Body):
    type: Literal["own", "accessible", "user"] = "own"
    owner_urns: Annotated[list[str], Meta(min_length=1, max_length=10)] | None = None


class StatusQuery(Body):
    type: Literal["active", "cancelled", "failed", "client_finished"]
    reasons: list[str] | None = None


class SearchCursor(Body):
    last_created_at: str
    last_session_id: str


class SearchSessions(Body):
    """The body of ``sessions/search``."""

    session_id: str | None = None
    project_ids: list[str] | None = None
    user_metadata: dict[str, str] = field(default_factory=dict)
    display_name: Annotated[str, Meta(min_length=1)] | None = None
    owner: SearchOwner = field(default_factory=SearchOwner)
    statuses: Annotated[list[StatusQuery], Meta(min_length=1)] | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: SearchCursor | None = None


class LoraConfig(Body):
    rank: Annotated[int, Meta(ge=1, le=256)] = 32
    seed: Seed | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class OptimizerConfig(Body):
    type: Literal["adamw"] = "adamw"


class CreateModel(Described):
    session_id: Identifier
    model_seq_id: Sequence
    base_model: Identifier
    lora_config: LoraConfig | None = None
    optimizer_config: OptimizerConfig | None = None


class ModelOnly(Body):
    """The body of ``get_info`` and ``unload_model``."""

    model_id: Identifier


class Save(Described):
    """Base class of the three requests that save a run."""

    model_id: Identifier
    path: Name | None = None
    seq_id: Sequence | None = None
    ttl_seconds: Seconds | None = None


class SaveWeights(Save):
    overwrite: bool = False


class SaveWeightsForSampler(Save):
    sampling_session_seq_id: Sequence | None = None


class SaveWeightsExternal(Save):
    path: Name
    age_encryption_recipients: list[str] | None = None


class LoadWeights(Described):
    path: str
    optimizer: bool
    model_id: Identifier | None = None
    seq_id: Sequence | None = None
    session_id: Identifier | None = None
    model_seq_id: Sequence | None = None
    base_model: Identifier | None = None
    optimizer_config: OptimizerConfig | None = None


class CopyWeights(Body):
    source_path: str
    destination_project_id: Identifier | None = None
    session_id: Identifier | None = None
    model_seq_id: Sequence | None = None
    ttl_seconds: Seconds | None = None


class Chunk(Body):
    type: str = "encoded_text"
    tokens: list[Token] | None = None


class ModelInput(Body):
    chunks: list[Chunk]


class TensorData(Body):
    """Numbers in row-major order, or the listed ones of a sparse matrix (CSR)."""

    data: list[float]
    dtype: Literal["float32", "int64"]
    shape: list[Annotated[int, Meta(ge=0, lt=2**31)]] | None = None
    sparse_crow_indices: list[int] | None = None
    sparse_col_indices: list[int] | None = None


class Datum(Body):
    model_input: ModelInput
    loss_fn_inputs: dict[str, TensorData]


class LossInput(Body):
    data: list[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float | str] | None = None


class ForwardBackward(Body):
    model_id: Identifier
    seq_id: Sequence
    forward_backward_input: LossInput


class Forward(Body):
    model_id: Identifier
    seq_id: Sequence
    forward_input: LossInput


class AdamParams(Body):
    learning_rate: Annotated[float, Meta(ge=0)] = 1e-4
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Meta(ge=0)] = 1e-12
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    grad_clip_norm: Annotated[float, Meta(ge=0)] = 0.0


class OptimStep(Body):
    model_id: Identifier
    seq_id: Sequence
    adam_params: AdamParams | None = None
    optimizer_params: Any = None


class CreateSamplingSession(Body):
    session_id: Identifier
    sampling_session_seq_id: Sequence
    base_model: Identifier | None = None
    model_path: str | None = None


class SamplingParams(Body):
    max_tokens: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    seed: Seed | None = None
    stop: str | list[str | int] | None = None
    temperature: Annotated[float, Meta(ge=0)] = 1.0
    top_k: Annotated[int, Meta(ge=-1)] = -1
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0


class Sample(Body):
    """The body of ``asample``."""

    prompt: ModelInput
    sampling_params: SamplingParams
    num_samples: Annotated[int, Meta(ge=1, le=1024)] = 1
    sampling_session_id: Identifier | None = None
    seq_id: Sequence | None = None
    base_model: Identifier | None = None
    model_path: str | None = None
    prompt_logprobs: bool | None = None
    prompt_logprobs_last_n: Annotated[int, Meta(ge=1)] | None = None
    topk_prompt_logprobs: Annotated[int, Meta(ge=0, le=100)] = 0
    topk_sample_logprobs: Annotated[int, Meta(ge=0, le=100)] = 0
    prompt_alt_tokens_k: int = 0
    target_prompt_logprobs: Any = None


class RetrieveFuture(Body):
    request_id: Identifier
    allow_metadata_only: bool = False


class Ttl(Body):
    #: Required, even if null, which removes the expiry.
    ttl_seconds: Seconds | None


class WeightsInfo(Body):
    tinker_path: str


_B = TypeVar("_B", bound=Body)
_guard = threading.Lock()
_decoders: dict[type[Body], msgspec.json.Decoder[Any]] = {}


def decode(raw: bytes, kind: type[_B]) -> _B:
    """Decode the body *raw* as *kind*.

    :raises Problem: the body is not JSON (400), or does not match the protocol (422).
    """
    try:
        return _decoder(kind).decode(raw)
    except msgspec.ValidationError as error:
        raise Problem(422, [_finding(str(error))]) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(400, f"The body is not valid JSON: {error}") from error


def _decoder(kind: type[_B]) -> msgspec.json.Decoder[_B]:
    # msgspec 0.22 crashes if two threads inspect a type for the first time; creating a decoder does
    # that, and decoders may be shared.
    with _guard:
        if kind not in _decoders:
            _decoders[kind] = msgspec.json.Decoder(kind)
        return _decoders[kind]


def _levels(value: Any) -> int:
    """Return the nesting depth of lists and objects, without recursion."""
    levels, inside = 0, [value]
    while parts := [part for part in inside if isinstance(part, dict | list) and part]:
        levels += 1
        inside = [item for p in parts for item in (p.values() if isinstance(p, dict) else p)]
    return levels


def _finding(message: str) -> dict[str, Any]:
    # msgspec says "Expected `int`, got `str` - at `$.lora_config.rank`".
    text, _, place = message.partition(" - at `$")
    if "matching regex" in text:  # only names have a pattern
        text = (
            "a name must consist of 1 to 200 letters, digits, '_', '-' or '.', and must not begin "
            "with a dot"
        )
    steps = place.rstrip("`").replace("[", ".").replace("]", "").split(".")
    loc = [int(step) if step.isdecimal() else step for step in steps if step]
    return {"type": "validation_error", "loc": ["body", *loc], "msg": text}
