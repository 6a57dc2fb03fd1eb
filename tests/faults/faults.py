"""The faults of a server, named by the first segment of a request's path."""

from __future__ import annotations

import email.utils
import json
import socket
import time
from collections.abc import Callable

from tests.faults.steering import evil, evil_error
from tests.faults.wire import FOR_EVER, JSON, Request, head

# ------------------------------------------------------------------ faults of the connection

BODY = json.dumps({"training_runs": [], "checkpoints": [], "padding": "x" * 500}).encode()


HEAD = head(200, len(BODY))
CHUNKED = head(200, "", Transfer_Encoding="chunked")
#: What is sent before the server falls silent, and before it resets the connection.
SILENT = {
    "silent": b"",
    "silent-in-headers": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "silent-in-body": HEAD + BODY[:20],
}
RESET = {
    "reset-before": b"",
    "reset-in-headers": b"HTTP/1.1 200 OK\r\nContent-",
    "reset-in-body": HEAD + BODY[:20],
}
#: What is sent before the connection ends.
RAW = {
    "close-before": b"",
    **{f"cut-{keep}": HEAD + BODY[:keep] for keep in (0, 1, len(BODY) // 2, len(BODY) - 1)},
    "length-too-long": head(200, len(BODY) + 100) + BODY,
    "length-too-short": head(200, len(BODY) - 100) + BODY,
    "length-absurd": head(200, 10**15) + BODY,
    "length-negative": head(200, -5) + BODY,
    "length-no-number": head(200, "many") + BODY,
    "chunks-cut": CHUNKED + b"40\r\n" + BODY[:20],
    "chunks-garbage": CHUNKED + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "not-http": b"\x00\x01\x02 not http at all\r\n\r\n",
    "header-flood": b"HTTP/1.1 200 OK\r\n" + b"X-Pad: " + b"x" * 70_000 + b"\r\n\r\n",
}


def silent(request: Request) -> None:
    request.send(SILENT[request.fault])
    time.sleep(FOR_EVER)


def reset(request: Request) -> None:
    request.send(RESET[request.fault])
    time.sleep(0.02)
    request.reset()


def raw(request: Request) -> None:
    request.send(RAW[request.fault])
    request.connection.shutdown(socket.SHUT_RDWR)


def dripping(request: Request) -> None:
    request.send(HEAD)
    for byte in BODY:
        request.send(bytes([byte]))
        time.sleep(0.1)


def gzip_garbage(request: Request) -> None:
    request.answer(200, b"\x1f\x8bnot gzip", Content_Encoding="gzip")


def huge(request: Request) -> None:
    """Send JSON without an end in sight."""
    request.send(head(200, "", Connection="close") + b'{"training_runs": [')
    row = b'{"training_run_id": "' + b"x" * 65_000 + b'"},'
    end = time.monotonic() + FOR_EVER
    while time.monotonic() < end:
        request.send(row)


# ------------------------------------------------------------------ faults of the answer

ANSWERS: dict[str, tuple[int, str, bytes]] = {
    "json-empty": (200, JSON, b""),
    "json-null": (200, JSON, b"null"),
    "json-list": (200, JSON, b"[]"),
    "json-number": (200, JSON, b"3"),
    "json-string": (200, JSON, b'"x"'),
    "json-cut": (200, JSON, b'{"training_runs": [{"a"'),
    "json-no-members": (200, JSON, b"{}"),
    "json-wrong-types": (
        200,
        JSON,
        b'{"training_runs": 3, "checkpoints": {"a": 1}, "supported_models": null, "session_id": 7,'
        b' "request_id": {}, "cursor": "x", "sampling_session_id": [], "base_model": 3,'
        b' "sessions": 3, "data": 7, "tinker_path": 8, "training_run_id": [], "training_run_ids": 3}',
    ),
    "json-rows-of-nothing": (
        200,
        JSON,
        b'{"training_runs": [null, 3, "x"], "checkpoints": [null], "supported_models": [3, []],'
        b' "sessions": [null, {}], "data": [null]}',
    ),
    "json-nan": (200, JSON, b"NaN"),
    "json-deep": (200, JSON, b"[" * 200_000),
    "json-no-utf8": (200, JSON, b'{"training_runs": "\xff\xfe"}'),
    "json-big-number": (200, JSON, b"9" * 6000),
    "text-200": (200, "text/plain", b"hello"),
    "html-200": (200, "text/html", b"<html><body>Welcome to nginx</body></html>"),
    "html-502": (502, "text/html", b"<html><h1>502 Bad Gateway</h1></html>"),
    "escape": (400, JSON, b'{"detail": "\\u001b[31mred\\u0007 \\u202e"}'),
    "validation": (422, JSON, b'{"detail": [{"loc": ["body", "x"], "msg": "field required"}]}'),
    "endpoint-missing": (404, JSON, b'{"detail": "Not Found"}'),
    "key-echoed": (400, JSON, b'{"detail": "bad key KEY"}'),
}

#: Bodies of the faults ``status-<code>-<kind>``.
BODIES = {
    "json": (JSON, b'{"detail": "The server says so"}'),
    "text": ("text/plain", b"Something went wrong"),
    "html": ("text/html", b"<html><title>Oh no</title><h1>Oh no</h1></html>"),
    "none": ("", b""),
}

RETRY_AFTER: dict[str, Callable[[], str]] = {
    "zero": lambda: "0",
    "second": lambda: "1",
    "date": lambda: email.utils.formatdate(time.time() + 1, usegmt=True),
    "past": lambda: email.utils.formatdate(time.time() - 10**6, usegmt=True),
    "absurd": lambda: "999999999999",
    "negative": lambda: "-5",
    "garbage": lambda: "soon",
}


def scripted(request: Request) -> None:
    status, kind, body = ANSWERS[request.fault]
    key = request.headers.get("x-api-key", "").encode()
    request.answer(status, body.replace(b"KEY", key), kind)


def status(request: Request) -> None:
    _, code, name = request.fault.split("-")
    kind, body = BODIES[name]
    request.answer(int(code), body, kind)


def retry_after(request: Request) -> None:
    value = RETRY_AFTER[request.fault.removeprefix("retry-after-")]()
    request.answer(429, b'{"detail": "Slow down"}', Retry_After=value)


def refusing_twice(request: Request) -> None:
    """Answer 503 to the first two of the same request, then as the real service does."""
    if request.server.count(request) <= 2:
        request.answer(503, b'{"detail": "Starting"}', Retry_After="0", X_Should_Retry="true")
    else:
        request.pass_on()


def losing_once(request: Request) -> None:
    """Drop the first of the same reading request, then answer as the real service does."""
    if request.method == "GET" and request.server.count(request) == 1:
        request.connection.shutdown(socket.SHUT_RDWR)
    else:
        request.pass_on()


def true_cut(request: Request) -> None:
    """Cut the real answer at a thousandth of its body: ``true-cut-<thousandth>-<framing>``.

    Framing ``length`` announces the whole length; ``close`` leaves the end of the connection as
    the only mark of the end. Only what is asked last is cut.
    """
    _, _, place, framing = request.fault.split("-")
    last = ("/checkpoints", "/training_runs", "/retrieve_future", "/archive")
    code, body, kind = request.upstream()
    path = request.rest.split("?")[0]
    if not path.endswith(last) and "/training_runs/" not in path and "/files/" not in path:
        return request.answer(code, body, kind)
    keep = min(len(body) - 1, len(body) * int(place) // 1000)
    length = len(body) if framing == "length" else ""
    return request.send(head(code, length, kind, Connection="close") + body[: max(keep, 0)])


# ------------------------------------------------------------------ redirects


def redirect(request: Request) -> None:
    places = {
        "redirect-loop": request.path,
        "redirect-other-host": f"http://localhost:{request.server.canary}/stolen",
        "redirect-file": "file:///etc/passwd",
        "redirect-nowhere": "",
        "redirect-nonsense": "ht!tp://[::bad",
    }
    place = places[request.fault]
    request.answer(302, b"", Location=place) if place else request.answer(302, b"")


# ------------------------------------------------------------------ futures


def future(request: Request) -> None:
    """Give true answers, except where the result of a long operation is asked for."""
    if not request.rest.endswith("/retrieve_future"):
        return request.pass_on()
    waiting = {"type": "try_again", "request_id": "1", "queue_state": "paused_capacity"}
    answers: dict[str, tuple[int, object]] = {
        "future-waits": (200, {**waiting, "queue_state_reason": "no capacity"}),
        "future-408": (408, {"detail": "Timeout waiting for result"}),
        "future-user": (200, {"error": "rank is too large", "category": "user"}),
        "future-server": (200, {"error": "worker died", "category": "server"}),
        "future-unknown": (200, {"error": "", "category": None}),
        "future-vanished": (404, {"detail": "Future not found"}),
        "future-expired": (410, {"detail": "gone"}),
        "future-wrong-shape": (200, {"sequences": 3, "path": 7, "model_id": []}),
        "future-list": (200, [1, 2]),
    }
    if request.fault == "future-silent":
        time.sleep(FOR_EVER)
    code, body = answers[request.fault]
    time.sleep(0.02)
    return request.answer(code, json.dumps(body).encode())


FAULTS: dict[str, Callable[[Request], None]] = {
    **dict.fromkeys(SILENT, silent),
    "dripping": dripping,
    "close-before": raw,
    **dict.fromkeys(RESET, reset),
    **dict.fromkeys(RAW, raw),
    "gzip-garbage": gzip_garbage,
    "huge": huge,
    **dict.fromkeys(ANSWERS, scripted),
    **{f"retry-after-{name}": retry_after for name in RETRY_AFTER},
    "refusing-twice": refusing_twice,
    "losing-once": losing_once,
    **{
        f"redirect-{name}": redirect
        for name in ("loop", "other-host", "file", "nowhere", "nonsense")
    },
    **{
        f"future-{name}": future
        for name in (
            *("waits", "408", "user", "server", "unknown", "vanished", "expired"),
            *("wrong-shape", "list", "silent"),
        )
    },
}


def fault_of(name: str) -> Callable[[Request], None] | None:
    """Return what happens to a request for the fault *name*; ``None`` where there is no such."""
    if name == "evil-error":
        return evil_error
    for beginning, act in (("status-", status), ("true-cut-", true_cut), ("evil-", evil)):
        if name.startswith(beginning):
            return act
    return FAULTS.get(name)
