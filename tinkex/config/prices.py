"""Price lists: US dollars per million tokens, by model.

A list is a JSON object in a file or at a URL that the user names::

    {
      "date": "2026-11-01",
      "models": {"Qwen/Qwen3-8B": {"prefill": 0.13, "cached": 0.03, "sample": 0.40, "train": 0.40}}
    }

``date`` is the day from which the prices are valid. Each price is optional; without one, no
cost is computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tinkex.exceptions import UsageError, a_few

_HINT = (
    'For example: {"date": "2026-11-01", "models": '
    '{"Qwen/Qwen3-8B": {"prefill": 0.13, "sample": 0.4, "train": 0.4}}}'
)
#: Number of tokens to which a price applies.
_UNIT = 1_000_000


@dataclass(frozen=True)
class TokenPrices:
    """The prices of one model in US dollars per million tokens; ``None`` if not listed.

    :ivar date: day from which they are valid, as written in the list.
    :ivar prefill: for tokens of a prompt.
    :ivar cached: for tokens of a prompt that the service has already processed.
    :ivar sample: for sampled tokens.
    :ivar train: for tokens of training examples.
    """

    date: str
    prefill: float | None = None
    cached: float | None = None
    sample: float | None = None
    train: float | None = None


def cost(tokens: int, price: float | None) -> float | None:
    """Return the cost of *tokens* in US dollars at *price* per million, or ``None``."""
    return None if price is None else tokens * price / _UNIT


def parse(content: bytes, name: str, model: str) -> TokenPrices:
    """Return the prices of *model* in the price list *content*.

    A variant of a model, such as ``…:peft:262144``, has the prices of the model if the list does
    not contain the variant.

    :param name: name of the list for error messages.
    :raises UsageError: it is not a price list, or does not contain the model.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    models = found.get("models") if isinstance(found, dict) else None
    if not isinstance(models, dict):
        raise UsageError(f"{name} is not a price list", hint=_HINT)
    date = found.get("date")
    if not isinstance(date, str) or not date:
        raise UsageError(
            f"{name} has no date",
            hint='Add the date from which the prices are valid: "date": "2026-11-01".',
        )
    listed = next((models[n] for n in (model, model.partition(":")[0]) if n in models), None)
    if listed is None:
        hint = (
            f"Models in the list: {a_few(list(map(str, models)))}."
            if models
            else "The list is empty."
        )
        raise UsageError(f"{name} has no prices for {model}", hint=hint)
    return TokenPrices(date, **_checked(listed, name, model))


def _checked(listed: Any, name: str, model: str) -> Mapping[str, float]:
    if not isinstance(listed, dict):
        raise UsageError(f"the prices for {model} in {name} must be a JSON object", hint=_HINT)
    known = [field.name for field in fields(TokenPrices) if field.name != "date"]
    prices = {}
    for kind, price in listed.items():
        if kind not in known:
            raise UsageError(
                f"unknown price name {kind!r} for {model} in {name}",
                hint=f"Valid price names: {', '.join(known)}.",
            )
        if price is None:
            continue
        is_number = isinstance(price, (int, float)) and not isinstance(price, bool)
        if not is_number or not math.isfinite(price) or price < 0:
            raise UsageError(
                f"the {kind} price for {model} in {name} must be a number, 0 or more", hint=_HINT
            )
        prices[kind] = float(price)
    return prices
