"""Requests for logprobs, and servers that do not return them.

Some servers reject unknown members of a request (TuFT), others ignore them (SkyRL). Both cases are
reported as :class:`~tinkex.exceptions.LogprobsUnavailable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tinkex.api.http import schema
from tinkex.api.sampling.types import Logprobs, SampleResponse
from tinkex.exceptions import LogprobsUnavailable, TinkexError

#: Member that limits the scores to the end of the prompt; the results do not depend on it.
LAST_N = "prompt_logprobs_last_n"
_PROMPT, _TOPK_PROMPT, _TOPK = "prompt_logprobs", "topk_prompt_logprobs", "topk_sample_logprobs"
#: Member of a request → what it requests.
_NAMES = {
    _PROMPT: "prompt logprobs",
    _TOPK_PROMPT: "alternatives to the prompt tokens",
    _TOPK: "alternatives to the sampled tokens",
}
#: Words in an error about an unknown member, as opposed to a value that is out of range.
_UNKNOWN = re.compile(
    r"\bnot (offer|support|permit|allow|implement|recogni[sz]e|available)"
    r"|\b(unsupported|unknown|unexpected|unrecogni[sz]ed|forbidden|extra)\b",
    re.IGNORECASE,
)


def request_members(wanted: Logprobs, size: int, *, last_n: bool) -> dict[str, Any]:
    """Return the members of a request for *wanted*, without default values.

    :param size: number of tokens in the prompt.
    :param last_n: whether the server may support :data:`LAST_N`.
    """
    members: dict[str, Any] = {}
    if wanted.of_prompt:
        members[_PROMPT] = True
        last = wanted.prompt_logprobs_last_n
        if last is not None and last < size and last_n:
            members[LAST_N] = last
    if wanted.topk_prompt_logprobs:
        members[_TOPK_PROMPT] = wanted.topk_prompt_logprobs
    if wanted.topk_logprobs:
        members[_TOPK] = wanted.topk_logprobs
    return members


def refused_member(error: TinkexError, members: Iterable[str]) -> str | None:
    """Return the member that the server rejects with *error* because it does not know it."""
    if not _UNKNOWN.search(error.message):
        return None
    return next((m for m in members if re.search(rf"\b{m}\b", error.message)), None)


def unavailable(member: str, error: TinkexError | None = None) -> LogprobsUnavailable:
    """Return the error for a server that does not return what *member* requests.

    :param error: the server's error, if it sent one.
    """
    said = f" ({error.message})" if error else ""
    return LogprobsUnavailable(f"this server does not return {_NAMES[member]}{said}")


def checked(response: SampleResponse, wanted: Logprobs, size: int) -> SampleResponse:
    """Return *response* after checking that it has the logprobs *wanted*.

    :param size: number of tokens in the prompt.
    :raises LogprobsUnavailable: they are missing.
    :raises InvalidResponse: their number is not the number of tokens.
    """
    if wanted.of_prompt:
        _check_length(response.prompt_logprobs, size, _PROMPT)
    if wanted.topk_prompt_logprobs:
        _check_length(response.topk_prompt_logprobs, size, _TOPK_PROMPT)
    if wanted.topk_logprobs:
        for sequence in response.sequences:
            _check_length(sequence.topk_logprobs, len(sequence.tokens), _TOPK)
    last = wanted.prompt_logprobs_last_n
    if last is None or last >= size:
        return response
    before = (None,) * (size - last)  # the same result from a server that scores the whole prompt
    scores, topk = response.prompt_logprobs, response.topk_prompt_logprobs
    return replace(
        response,
        prompt_logprobs=scores and before + scores[-last:],
        topk_prompt_logprobs=topk and before + topk[-last:],
    )


def _check_length(found: tuple[Any, ...] | None, size: int, member: str) -> None:
    if found is None or (size and not found):
        raise unavailable(member)
    if len(found) != size:
        schema.refuse(f"{_NAMES[member]} for {len(found)} tokens instead of {size}")
