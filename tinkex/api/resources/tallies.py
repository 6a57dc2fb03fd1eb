"""Usage added up: by day, model, user, project, session or training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinkex.api.resources.billing import Usage, UsageEvent
from tinkex.exceptions import UsageError


@dataclass(frozen=True)
class Tally:
    """The usage of one group of events.

    :ivar key: what they have in common; ``None`` where the service says nothing.
    :ivar training_tokens: tokens of forward and backward passes.
    :ivar prefill_tokens: tokens of prompts, those from the cache included.
    :ivar cached_tokens: those of them from the cache.
    :ivar sampled_tokens: tokens that were drawn.
    :ivar checkpoints: checkpoint operations.
    :ivar gigabyte_hours: storage.
    :ivar cost_usd: sum of the prices that are known, in US dollars.
    :ivar unpriced: events that have no price yet.
    """

    key: str | None
    training_tokens: int
    prefill_tokens: int
    cached_tokens: int
    sampled_tokens: int
    checkpoints: int
    gigabyte_hours: float
    cost_usd: float
    unpriced: int


_KEYS: Mapping[str, Callable[[UsageEvent], str | None]] = {
    "day": lambda event: event.bucket_start.date().isoformat(),
    "session": lambda event: event.session_id,
    "model": lambda event: event.base_model,
    "user": lambda event: event.user_name or event.user_id,
    "project": lambda event: event.project_id,
    "type": lambda event: event.type,
}
#: What usage can be added up by.
DIMENSIONS = (*_KEYS, "run")


def tallies(
    usage: Usage, by: str, runs_of: Mapping[str, Sequence[str]] | None = None
) -> list[Tally]:
    """Return *usage* added up: days in order, everything else by price, the highest first.

    :param by: ``day``, ``session``, ``model``, ``user``, ``project``, ``type`` or ``run``.
    :param runs_of: session id → its training runs, for ``run``: the service keeps books by
        session. Several runs of one session share a line; a session without any has its own.
    :raises UsageError: no such dimension.
    """
    key_of = _KEYS.get(by) or (_run_key(runs_of or {}) if by == "run" else None)
    if key_of is None:
        raise UsageError(f"usage cannot be added up by {by!r}", hint=", ".join(DIMENSIONS))
    groups: dict[str | None, list[UsageEvent]] = {}
    for event in usage.events:
        groups.setdefault(key_of(event), []).append(event)
    found = [_tally(key, events) for key, events in groups.items()]
    if by == "day":
        return sorted(found, key=lambda tally: tally.key or "")
    return sorted(found, key=lambda tally: (-tally.cost_usd, tally.key or ""))


def _run_key(runs_of: Mapping[str, Sequence[str]]) -> Callable[[UsageEvent], str | None]:
    def key(event: UsageEvent) -> str | None:
        if event.session_id is None:
            return None
        return ", ".join(runs_of.get(event.session_id, ())) or f"session {event.session_id}"

    return key


def _tally(key: str | None, events: Sequence[UsageEvent]) -> Tally:
    def tokens(kind: str, wanted: Iterable[bool] = (True, False)) -> int:
        return sum(e.token_count for e in events if e.type == kind and e.cached in wanted)

    return Tally(
        key=key,
        training_tokens=tokens("training"),
        prefill_tokens=tokens("sampling_prefill"),
        cached_tokens=tokens("sampling_prefill", (True,)),
        sampled_tokens=tokens("sampling_sample"),
        checkpoints=sum(event.count for event in events),
        gigabyte_hours=math.fsum(event.gigabyte_hours for event in events),
        cost_usd=math.fsum(event.estimated_cost_usd or 0.0 for event in events),
        unpriced=sum(event.is_unpriced for event in events),
    )
