"""Fields of a request body as people type them: ``name=value``, ``a[b]=1``, ``list[]=x``.

The notation is that of ``gh api``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TextIO

from tinkex.exceptions import UsageError
from tinkex.files import read_bytes

_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_HINT = "It looks like name=value, name[member]=value or name[]=value."


def typed(text: str, stdin: TextIO | None) -> Any:
    """Return the value that *text* means.

    ``true``, ``false``, ``null`` and numbers are themselves, ``@FILE`` and ``@-`` the text of a
    file, ``[…]`` and ``{…}`` JSON; everything else is a text.

    :raises tinkex.exceptions.LocalError: the file cannot be read.
    """
    if text.startswith("@"):
        return read_bytes(text[1:], stdin).decode("utf-8", "replace")
    if text in ("true", "false", "null") or text[:1] in ("[", "{") or _NUMBER.fullmatch(text):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def split(field: str) -> tuple[str, str]:
    """Return key and value of *field*.

    :raises UsageError: it has no ``=`` or no key.
    """
    key, sign, value = field.partition("=")
    if not sign or not _KEY.fullmatch(key):
        raise UsageError(f"not a field: {field[:80]!r}", hint=_HINT)
    return key, value


def assembled(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the JSON object that *fields* describe.

    :raises UsageError: two of them contradict each other.
    """
    result: dict[str, Any] = {}
    for key, value in fields:
        match = _KEY.fullmatch(key)
        assert match is not None, "checked by split()"
        _put(result, [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])], value, key)
    return result


def _put(target: Any, steps: list[str], value: Any, key: str) -> None:
    """Put *value* into the object or list *target*, making what is on the way."""
    step, rest = steps[0], steps[1:]
    if isinstance(target, list):
        if step:
            raise _contradiction(key)
        if not rest:
            target.append(value)
            return
        # As in gh: a member that the last element has already begins another element.
        last = target[-1] if target else None
        if not isinstance(last, dict) or rest[0] in last:
            target.append({} if rest[0] else [])
        _put(target[-1], rest, value, key)
        return
    if not isinstance(target, dict) or not step:
        raise _contradiction(key)
    if not rest:
        if step in target:
            raise UsageError(f"the field {key!r} is given twice")
        target[step] = value
        return
    _put(target.setdefault(step, {} if rest[0] else []), rest, value, key)


def _contradiction(key: str) -> UsageError:
    return UsageError(f"the field {key!r} contradicts another one", hint=_HINT)
