"""JSON objects of the service as typed values.

A missing or null optional member gets its default; a member of a wrong type raises an
:class:`~tinkex.exceptions.InvalidResponse` that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

from tinkex.exceptions import InvalidResponse, detail_of

Json = Mapping[str, Any]
T = TypeVar("T")

#: Limit for numbers, far above any size, count or rank.
_TOO_LARGE = 2**63
#: Times above this are milliseconds: as seconds, they would be after the year 5000.
_MILLISECONDS = 1e11


def refuse(what: str, data: Json | None = None) -> NoReturn:
    """Raise the error for a response that the protocol does not allow.

    :param what: what is wrong with it: ``no 'model_id'``.
    :param data: the incomplete response, if any: some servers report an error in a successful
        response.
    """
    errors = {name: data.get(name) for name in ("error", "error_message")} if data else {}
    if words := detail_of(errors):
        raise InvalidResponse(f"the server returned an error: {words}", hint="")
    raise InvalidResponse(f"unexpected response from the server: {what}")


def mapping(value: Any, name: str) -> Json:
    """Check that *value* is a JSON object, and return it."""
    if type(value) is not dict and not isinstance(value, Mapping):  # the first is much faster
        refuse(f"{name!r} is not an object")
    return value


def optional_mapping(data: Json, name: str) -> Json | None:
    """Return the object *name* in *data*, or ``None``."""
    value = data.get(name)
    return None if value is None else mapping(value, name)


def items(data: Json, name: str) -> list[Any]:
    """Return the required list *name* in *data*."""
    value = data.get(name)
    if not isinstance(value, list):
        refuse(f"{name!r} is missing or not an array", data)
    return value


def rows(data: Json, name: str, kinds: type | tuple[type, ...] = Mapping) -> list[Any]:
    """Return the list *name* in *data*; some items may be malformed, but not all."""
    found = items(data, name)
    if found and not any(isinstance(item, kinds) for item in found):
        refuse(f"{name!r} contains no objects")
    return found


def identifier(value: Any) -> str:
    """Check that *value* is a string, and return it."""
    if not isinstance(value, str):
        refuse("an id is not a string")
    return value


def text(data: Json, name: str) -> str:
    """Return the required, non-empty string *name* in *data*."""
    value = optional_text(data, name)
    if not value:
        refuse(f"no {name!r}", data)
    return value


def optional_text(data: Json, name: str) -> str | None:
    """Return the string *name* in *data*, or ``None``."""
    value = data.get(name)
    if value is None or isinstance(value, str):
        return value
    refuse(f"{name!r} is not a string")


def optional_int(data: Json, name: str) -> int | None:
    """Return the whole number *name* in *data*, or ``None``."""
    value = data.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        if value is not None and abs(value) >= _TOO_LARGE:
            refuse(f"{name!r} is out of range")
        return value
    refuse(f"{name!r} is not a whole number")


def optional_number(data: Json, name: str) -> float | None:
    """Return the finite number *name* in *data*, or ``None``."""
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _TOO_LARGE:
        return float(value)
    refuse(f"{name!r} is not a valid number")


def optional_bool(data: Json, name: str) -> bool | None:
    """Return the boolean *name* in *data*, or ``None``."""
    value = data.get(name)
    if value is None or isinstance(value, bool):
        return value
    refuse(f"{name!r} is neither true nor false")


def optional_time(data: Json, name: str) -> datetime | None:
    """Return the time *name* in *data*, in UTC, or ``None``.

    A time without a zone is in UTC. Some servers send seconds or milliseconds since 1970, and some
    send a time in 1970 for an unknown one.
    """
    value = data.get(name)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value / (1000 if value > _MILLISECONDS else 1), UTC)
        elif iso := optional_text(data, name):
            moment = datetime.fromisoformat(iso)
        else:
            return None
        if moment.tzinfo is not UTC:
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):  # outside of the years 1 to 9999, or not a number
        refuse(f"{name!r} is not a valid time")
    return None if moment.year == 1970 else moment


def read(cls: type[T], data: Any, name: str, *, lenient: bool = False, **given: Any) -> T:
    """Return the dataclass *cls* with the members of the JSON object *data*.

    Each field is read by its annotation; one with a default may be missing or null.

    :param name: what *data* is, for the error message.
    :param lenient: a member of a wrong type gets its default, so one item does not fail a list.
    :param given: fields whose values are given and not read from *data*.
    """
    record = mapping(data, name)
    for field, reader, is_required in _plan(cls):  # type: ignore[arg-type]
        if field not in given and (is_required or record.get(field) is not None):
            try:
                value = reader(record, field)
            except InvalidResponse:
                if is_required or not lenient:
                    raise
                continue
            if is_required and value in (None, ""):
                refuse(f"no {field!r}", record)
            if value is not None:
                given[field] = value
    return cls(**given)


_READERS: Mapping[str, Callable[[Json, str], Any]] = {
    "str": optional_text,
    "int": optional_int,
    "float": optional_number,
    "bool": optional_bool,
    "datetime": optional_time,
    "Mapping[str, Any]": optional_mapping,
}


@lru_cache
def _plan(cls: Any) -> list[tuple[str, Callable[[Json, str], Any], bool]]:
    """Return the name, the reader and the required flag of each field."""
    return [
        (field.name, reader, field.default is MISSING and field.default_factory is MISSING)
        for field in fields(cls)
        if (reader := _READERS.get(str(field.type).removesuffix(" | None")))
    ]
