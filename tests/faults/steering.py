"""True answers whose texts steer a terminal, and refusals in such words."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.faults.wire import JSON, Request

#: Sequences with ESC, as the 8-bit controls, BEL, a change of direction, and what overwrites.
STEERING = "\x1b[666m A \x1b]0;title\x07 B \x9b6n C \x90q D \u202e E \x1bc F\b G\rH \x7f \u2066"
#: Members that the program itself goes on with.
_WORKING = (
    *("session_id", "request_id", "type", "model_id", "sampling_session_id", "cursor", "url"),
    *("tinker_path", "path", "checkpoint_type", "status"),
)


def evil(request: Request) -> None:
    """Give the true answer, its texts steering a terminal: ``evil-<member>``, or ``evil-all``.

    A member is the name that a JSON object has for a text or for what the text is a part of.
    ``evil-shown`` changes all but what a client works with, ``evil-none`` nothing; the members of
    all answers are told at ``/members``.
    """
    wanted = request.fault.removeprefix("evil-")
    code, body, kind = request.upstream()
    if code in range(300, 400):
        return request.answer(code, body, kind)
    try:
        value = json.loads(body)
    except ValueError:
        return request.answer(code, body, kind)
    request.server.members |= set(members(value))
    kind = kind.split("\r")[0]
    changed = steering(value, wanted, evil=wanted in ("all", "shown"))
    return request.answer(code, json.dumps(changed).encode(), kind)


def members(value: object) -> Iterator[str]:
    """Yield the names in *value* of what holds a text."""
    if isinstance(value, dict):
        for name, member in value.items():
            if isinstance(member, str):
                yield name
            yield from members(member)
    elif isinstance(value, list):
        for member in value:
            yield from members(member)


def steering(value: object, wanted: str, *, evil: bool) -> object:
    if isinstance(value, dict):
        kept = _WORKING if wanted == "shown" else ()
        return {
            name: member
            if name in kept or name.endswith(("_at", "time", "_start", "_end"))
            else steering(member, wanted, evil=evil or name == wanted)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [steering(member, wanted, evil=evil) for member in value]
    return value + STEERING if evil and isinstance(value, str) else value


def evil_error(request: Request) -> None:
    """Refuse in such words, in every place where an error has any."""
    words = STEERING.replace("\r", "")
    body = json.dumps({"detail": [{"loc": ["body", words], "msg": words}, words]}).encode()
    line = f"HTTP/1.1 400 {words}\r\nConnection: close\r\nX-Request-Id: {words}\r\nContent-Type: {JSON}\r\n"
    ascii_only = line.encode("latin-1", "ignore")
    request.send(ascii_only + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
