"""Sampling sessions, and validation of sampling requests."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import Any

from tinkex_local.engines import SampleSpec
from tinkex_local.problems import OperationError, Problem, bad_request, conflict
from tinkex_local.state import adapter, checkpoints, operations, paths, sessions
from tinkex_local.state.models import ModelFacts
from tinkex_local.state.service import Service
from tinkex_local.wire import bodies

#: Maximum number of pending requests; more get a 429.
MAX_PENDING = 4096
#: Seconds after which a request whose result was never fetched no longer counts.
PENDING_SECONDS = 3600


def create_session(service: Service, body: bodies.CreateSamplingSession) -> dict[str, Any]:
    """Open a sampling session on a base model or a checkpoint.

    :raises Problem: neither or both are given, or one does not exist.
    """
    number = body.sampling_session_seq_id
    sampler_id = sampler_id_of(body.session_id, number)
    with service.store.transaction():
        earlier = service.store.scalar("SELECT digest FROM samplers WHERE id = ?", sampler_id)
        if earlier is None:
            sessions.require_open(service, body.session_id)
            target = _target(service, body.base_model, body.model_path)
            insert_sampler(
                service, body.session_id, number, body.digest(), *target, body.model_path
            )
        elif earlier != body.digest():
            raise conflict(
                f"The sampling session {sampler_id!r} was already created by another request"
            )
    return {"type": "create_sampling_session", "sampling_session_id": sampler_id}


def insert_sampler(
    service: Service,
    session_id: str,
    number: int,
    digest: str,
    base_model: str,
    checkpoint_id: str | None,
    model_path: str | None = None,
) -> None:
    """Add a row for a sampling session with an unused number, within a transaction."""
    service.store.insert(
        "samplers",
        id=sampler_id_of(session_id, number),
        session_id=session_id,
        base_model=base_model,
        checkpoint_id=checkpoint_id,
        model_path=model_path,
        digest=digest,
        created=service.clock(),
    )


def info(service: Service, sampler_id: str) -> dict[str, Any]:
    """Return the response of ``GET samplers/…``.

    :raises Problem: the sampling session does not exist.
    """
    row = service.find("sampling session", sampler_id)
    return {
        "sampler_id": sampler_id,
        "base_model": row["base_model"],
        "model_path": row["model_path"],
    }


def submit(service: Service, body: bodies.Sample) -> dict[str, Any]:
    """Check and accept a sampling request; it is computed when its result is polled.

    :raises Problem: it is invalid for the model (400), or too many requests are pending (429).
    """
    scope = scope_of(body.sampling_session_id)
    if body.sampling_session_id is None:
        seq = None
        base_model, checkpoint_id = _target(service, body.base_model, body.model_path)
    elif body.seq_id is None:
        raise bad_request("seq_id is required together with sampling_session_id")
    else:
        seq = body.seq_id
        sampler = service.find("sampling session", body.sampling_session_id)
        base_model, checkpoint_id = sampler["base_model"], sampler["checkpoint_id"]
    spec = _spec(body, service.facts(base_model))
    payload = {
        "base_model": base_model,
        "checkpoint_id": checkpoint_id,
        "spec": dataclasses.asdict(spec) | {"stop_tokens": sorted(spec.stop_tokens)},
    }
    with service.store.transaction():
        request_id = operations.earlier(service, scope, seq, body)
        if request_id is None:
            _require_room(service)
            request_id = operations.record(
                service, "sample", scope, seq, body, "pending", payload=payload
            )
    return {
        "request_id": request_id,
        "sample_sequence_ids": [f"{request_id}:{index}" for index in range(body.num_samples)],
    }


def scope_of(sampler_id: str | None) -> str:
    """Return the scope of a sampling session's sequence numbers."""
    return f"sampler {sampler_id}"


def spec_from(payload: dict[str, Any]) -> SampleSpec:
    """Return the sampling specification stored in an operation's payload."""
    fields = dict(payload["spec"])
    for name in ("tokens", "stop_strings"):
        fields[name] = tuple(fields[name])
    return SampleSpec(**fields | {"stop_tokens": frozenset(fields["stop_tokens"])})


def directory_of(service: Service, checkpoint_id: str | None) -> Path | None:
    """Return the directory of a checkpoint's adapter.

    ``None`` stands for the base model, also for an adapter without effect, such as a new one.

    :raises OperationError: the checkpoint does not exist.
    """
    if checkpoint_id is None:
        return None
    directory = service.checkpoints / checkpoint_id
    alive = service.store.scalar(
        "SELECT 1 FROM checkpoints WHERE id = ? AND (expires IS NULL OR expires > ?)",
        checkpoint_id,
        service.clock(),
    )
    if not alive:
        raise OperationError("The checkpoint of this sampling session no longer exists")
    try:
        return None if adapter.is_identity(directory) else directory
    except OSError as error:
        raise OperationError(f"The checkpoint cannot be read: {error}", "server") from error


def _target(
    service: Service, base_model: str | None, model_path: str | None
) -> tuple[str, str | None]:
    """Return the base model and the checkpoint's internal id of a request."""
    if model_path is None:
        if base_model is None:
            raise bad_request("base_model or model_path is required")
        return service.model(base_model).name, None
    path = paths.parse(model_path)
    if path.kind == paths.EXTERNAL:
        raise bad_request(
            f"{path} is an export; sample from a sampler_weights checkpoint of the same run"
        )
    row = checkpoints.find(service, path)
    run = service.find("training run", path.run_id)
    if base_model not in (None, run["base_model"]):
        raise bad_request(f"The base model of {path} is {run['base_model']}, not {base_model}")
    return service.model(run["base_model"]).name, row["id"]


def _spec(body: bodies.Sample, facts: ModelFacts) -> SampleSpec:
    asked = body.sampling_params
    tokens = _prompt(body, facts)
    room = facts.context_length - len(tokens)
    if room < 1:
        raise bad_request(
            f"The prompt has {len(tokens)} tokens; the model's context length, which includes the "
            f"completion, is {facts.context_length}"
        )
    if body.prompt_alt_tokens_k or body.target_prompt_logprobs:
        raise bad_request(
            "This service does not support prompt_alt_tokens_k or target_prompt_logprobs"
        )
    strings, stop_tokens = _stops(asked.stop)
    scored = body.prompt_logprobs or body.topk_prompt_logprobs
    return SampleSpec(
        tokens=tokens,
        num_samples=body.num_samples,
        max_tokens=min(asked.max_tokens or room, room),
        temperature=asked.temperature,
        top_k=max(asked.top_k, 0),
        top_p=asked.top_p,
        seed=secrets.randbits(62) if asked.seed is None else asked.seed,
        stop_strings=strings,
        stop_tokens=stop_tokens,
        prompt_logprobs=(body.prompt_logprobs_last_n or len(tokens)) if scored else 0,
        topk_prompt_logprobs=body.topk_prompt_logprobs,
        topk_sample_logprobs=body.topk_sample_logprobs,
    )


def _prompt(body: bodies.Sample, facts: ModelFacts) -> tuple[int, ...]:
    tokens: list[int] = []
    for chunk in body.prompt.chunks:
        if chunk.type != "encoded_text" or chunk.tokens is None:
            raise bad_request(
                f"The prompt has a chunk of type {chunk.type[:40]!r}; this service accepts only "
                "encoded_text chunks with tokens"
            )
        tokens += chunk.tokens
    if not tokens:
        raise bad_request("The prompt is empty")
    for token in tokens:
        if token >= facts.vocabulary:
            raise bad_request(
                f"Token {token} is outside the model's vocabulary (0 to {facts.vocabulary - 1})"
            )
    return tuple(tokens)


def _stops(stop: str | list[str | int] | None) -> tuple[tuple[str, ...], frozenset[int]]:
    entries = [stop] if isinstance(stop, str) else stop or []
    strings = tuple(entry for entry in entries if isinstance(entry, str))
    if "" in strings:
        raise bad_request("A stop string must not be empty")
    return strings, frozenset(entry for entry in entries if isinstance(entry, int))


def _require_room(service: Service) -> None:
    pending = service.store.scalar(
        "SELECT count(*) FROM operations WHERE state = 'pending' AND created > ?",
        service.clock() - PENDING_SECONDS,
    )
    if pending >= MAX_PENDING:
        raise Problem(429, "Too many sampling requests are pending")


def sampler_id_of(session_id: str, number: int) -> str:
    """Return the id of a session's sampling session with *number*."""
    return f"{session_id}:sample:{number}"
