"""Long-running operations: polling until the result is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from tinkex.api.http.retry import LONGEST_WAIT, Deadline, retry_after
from tinkex.api.http.schema import refuse
from tinkex.api.http.transport import Request, Response, Transport, log_traceback
from tinkex.exceptions import (
    BadRequest,
    Category,
    ConnectionFailed,
    InvalidResponse,
    OperationFailed,
    TimedOut,
    TinkexError,
    detail_of,
    words_of,
)

PROTOBUF = "application/x-protobuf"
#: Seconds to keep one poll open; servers hold it for up to five minutes.
POLL_TIMEOUT = 45.0
#: Consecutive polls that fail before the operation does.
MAX_FAILURES = 5
#: Polling interval in seconds, growing, if the server responds at once.
_SHORTEST, _LONGEST = 0.05, 1.0
_LONGEST_BACKOFF = 30.0

Decoder = Callable[[bytes], dict[str, Any]]


def request_id_of(accepted: Mapping[str, Any]) -> str:
    """Return the id of an accepted operation, as a string even if the server sends a number."""
    value = accepted.get("request_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        refuse("no 'request_id'", accepted)
    return value


def result(
    transport: Transport,
    request_id: str,
    kind: str,
    deadline: Deadline,
    decode: Decoder | None = None,
) -> dict[str, Any]:
    """Wait for the operation *request_id* and return its result.

    :param kind: the service's name for the operation: ``SaveWeights``.
    :param decode: decodes a result in protobuf.
    :raises tinkex.exceptions.OperationFailed: the operation failed.
    :raises tinkex.exceptions.NotFound: the service no longer knows it (410), or never did.
    :raises tinkex.exceptions.TimedOut: the time is up.
    """
    return _Poll(transport, request_id, kind, deadline, decode).run()


class _Poll:
    def __init__(
        self,
        transport: Transport,
        request_id: str,
        kind: str,
        deadline: Deadline,
        decode: Decoder | None,
    ) -> None:
        self._transport = transport
        self._deadline = deadline
        self._decode = decode
        self._failures = 0
        self._gap = _SHORTEST
        self._iteration = 0
        self._body = {"request_id": request_id, "allow_metadata_only": False}
        self._headers = {"X-Tinker-Request-Type": kind}
        if decode:
            self._headers["Accept"] = f"{PROTOBUF}, application/json"

    def run(self) -> dict[str, Any]:
        while True:
            start = time.monotonic()
            response = self._poll_once()
            if response is None:
                continue
            value = self._value(response)
            if value is not None:
                return value
            # Servers hold a poll open; one that does not must not be flooded.
            took = time.monotonic() - start
            if took < self._gap:
                self._deadline.sleep(self._gap - took)
            self._gap = min(self._gap * 2, _LONGEST)

    def _poll_once(self) -> Response | None:
        """Poll once; ``None`` if there was no response."""
        headers = {**self._headers, "X-Tinker-Request-Iteration": str(self._iteration)}
        self._iteration += 1
        request = Request("POST", "retrieve_future", self._body, headers=headers, repeatable=True)
        try:
            return self._transport.once(request, self._deadline, read_timeout=POLL_TIMEOUT)
        except TimedOut:
            self._deadline.remaining()  # it is not the whole operation that has timed out
            self._deadline.report()
        except ConnectionFailed as error:
            self._count(error, str(error), None)
        return None

    def _value(self, response: Response) -> dict[str, Any] | None:
        """Return the result in *response*, or ``None`` if there is none yet."""
        if response.ok:
            self._failures = 0
            return self._payload(response)
        if response.status == 408:
            queue: dict[str, Any] = {}
            with suppress(InvalidResponse):
                queue = response.object()
            self._tell_queue(queue)
            return None
        if response.status == 429 or response.status >= 500:
            error = self._transport.refusal(response)
            self._count(error, f"HTTP {response.status}", retry_after(response.headers))
            return None
        error = self._transport.refusal(response)
        if not isinstance(error, BadRequest):
            raise error
        # An operation that failed: some servers say 400, some 422, with its words as detail.
        failed = OperationFailed(error.message, category=error.category)
        failed.status, failed.request_id = error.status, error.request_id
        raise failed

    def _payload(self, response: Response) -> dict[str, Any] | None:
        if response.content_type == PROTOBUF:
            if self._decode is None:
                raise InvalidResponse("the server answered with protobuf instead of JSON")
            return self._decode(response.body)
        value = response.object()
        status = value.get("status")
        is_pending = status == "pending" and "result" not in value
        if value.get("type") == "try_again" or status == "complete_metadata" or is_pending:
            self._tell_queue(value)
            return None
        if value.get("error") is not None:  # even an empty one
            category: Category = "user" if value.get("category") == "user" else "server"
            words = self._transport.auth.hidden(words_of({"error": value["error"]}))
            log_traceback(words)
            words = detail_of(words) or "the operation failed, and the service does not say why"
            error = OperationFailed(words, category=category)
            error.request_id = response.request_id
            raise error
        wrapped = value.get("result")
        return wrapped if status == "completed" and isinstance(wrapped, dict) else value

    def _tell_queue(self, value: dict[str, Any]) -> None:
        state, reason = value.get("queue_state"), value.get("queue_state_reason")
        self._deadline.report(
            queue_state=state if isinstance(state, str) else None,
            reason=reason if isinstance(reason, str) else None,
        )
        wait = value.get("retry_after_ms")
        if isinstance(wait, (int, float)) and 0 < wait <= LONGEST_WAIT * 1000:
            self._deadline.sleep(wait / 1000)

    def _count(self, error: TinkexError, reason: str, asked: float | None) -> None:
        """Wait after a poll failed with *error*, or raise it if it is one too many."""
        self._failures += 1
        backoff = min(0.5 * 2 ** (self._failures - 1), _LONGEST_BACKOFF)
        wait = asked if asked is not None and asked <= LONGEST_WAIT else backoff
        if self._failures > MAX_FAILURES or not self._deadline.allows(wait):
            raise error
        self._deadline.pause(wait, reason)
