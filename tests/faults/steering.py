"""Correct responses and errors whose texts contain terminal control sequences."""

from __future__ import annotations

import json

from tests.faults.wire import JSON, Request

#: Sequences with ESC, as the 8-bit controls, BEL, a change of direction, and what overwrites.
STEERING = "\x1b[666m A \x1b]0;title\x07 B \x9b6n C \x90q D \u202e E \x1bc F\b G\rH \x7f \u2066"
#: Members that the program itself goes on with.
_WORKING = (
    *("session_id", "request_id", "type", "model_id", "sampling_session_id", "cursor", "url"),
    *("tinker_path", "path", "checkpoint_type", "status"),
)


def evil(request: Request) -> None:
    """Give the true answer, its texts steering a terminal.

    ``evil-all`` changes every text, ``evil-shown`` those that a client does not work with, and
    ``evil-none`` none.
    """
    code, body, kind = request.upstream()
    if code in range(300, 400):
        return request.answer(code, body, kind)
    try:
        value = json.loads(body)
    except ValueError:
        return request.answer(code, body, kind)
    if request.fault != "evil-none":
        value = steering(value, _WORKING if request.fault == "evil-shown" else ())
    return request.answer(code, json.dumps(value).encode(), kind.split("\r")[0])


def steering(value: object, kept: tuple[str, ...]) -> object:
    if isinstance(value, dict):
        return {
            name: member
            if name in kept or name.endswith(("_at", "time", "_start", "_end"))
            else steering(member, kept)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [steering(member, kept) for member in value]
    return value + STEERING if isinstance(value, str) else value


def evil_error(request: Request) -> None:
    """Refuse in such words, in every place where an error has any."""
    words = STEERING.replace("\r", "")
    body = json.dumps({"detail": [{"loc": ["body", words], "msg": words}, words]}).encode()
    line = f"HTTP/1.1 400 {words}\r\nConnection: close\r\nX-Request-Id: {words}\r\nContent-Type: {JSON}\r\n"
    ascii_only = line.encode("latin-1", "ignore")
    request.send(ascii_only + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
