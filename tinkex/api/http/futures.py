"""Long-running operations: asking until the result is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from tinkex.api.http.answers import Response
from tinkex.api.http.requesting import Request
from tinkex.api.http.retry import LONGEST_WAIT, retry_after
from tinkex.api.http.schema import refuse
from tinkex.api.http.transport import NoResponse, Transport
from tinkex.api.http.waiting import Deadline
from tinkex.exceptions import (
    APIError,
    BadRequest,
    Category,
    InvalidResponse,
    OperationFailed,
    TinkexError,
    detail_of,
)

PROTOBUF = "application/x-protobuf"
#: Seconds to keep one question open; servers hold it for up to five minutes.
POLL_TIMEOUT = 45.0
#: Answers without a result, one after the other, before giving up.
MAX_FAILURES = 5
#: Seconds between two questions when the server answers at once, growing.
_SHORTEST, _LONGEST = 0.05, 1.0
_LONGEST_BACKOFF = 30.0

Decoder = Callable[[bytes], dict[str, Any]]


def submitted(answer: Response) -> str:
    """Return the id of the operation that *answer* accepts."""
    return request_id_of(answer.object())


def request_id_of(accepted: Mapping[str, Any]) -> str:
    """Return the id of an accepted operation; always text, even of digits."""
    value = accepted.get("request_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        refuse("no 'request_id'")
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
    :param decode: reads the result if it comes as protobuf.
    :raises tinkex.exceptions.OperationFailed: the operation failed.
    :raises tinkex.exceptions.NotFound: the service has forgotten it (410) or never knew it.
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
            answer = self._ask()
            if answer is None:
                continue
            value = self._value(answer)
            if value is not None:
                return value
            self._space_out(time.monotonic() - start)

    def _ask(self) -> Response | None:
        """Ask once; ``None`` if that has to be done again."""
        headers = {**self._headers, "X-Tinker-Request-Iteration": str(self._iteration)}
        self._iteration += 1
        request = Request("POST", "retrieve_future", self._body, headers=headers, repeatable=True)
        try:
            return self._transport.once(request, self._deadline, read_timeout=POLL_TIMEOUT)
        except NoResponse as failure:
            if failure.is_read_timeout:
                self._deadline.tell()
            else:
                self._count(failure.error, str(failure.error), None)
            return None

    def _value(self, answer: Response) -> dict[str, Any] | None:
        """Return the result in *answer*, or ``None`` if there is none yet."""
        if answer.ok:
            self._failures = 0
            return self._payload(answer)
        if answer.status == 408:
            self._tell_queue(_leniently(answer))
            return None
        if answer.status == 429 or answer.status >= 500:
            error = self._transport.refusal(answer)
            self._count(error, f"HTTP {answer.status}", retry_after(answer))
            return None
        raise self._failure(answer)

    def _failure(self, answer: Response) -> TinkexError:
        error = self._transport.refusal(answer)
        if not isinstance(error, BadRequest):
            return error
        # An operation that failed: some servers say 400, some 422, with its words as detail.
        failed = OperationFailed(error.message, category=error.category)
        failed.status, failed.request_id = error.status, error.request_id
        return failed

    def _payload(self, answer: Response) -> dict[str, Any] | None:
        if answer.content_type == PROTOBUF:
            if self._decode is None:
                raise InvalidResponse("the server answered with protobuf where JSON was asked for")
            return self._decode(answer.body)
        value = answer.object()
        if value.get("type") == "try_again" or value.get("status") == "complete_metadata":
            self._tell_queue(value)
            return None
        if value.get("status") == "pending" and "result" not in value:
            self._tell_queue(value)
            return None
        if value.get("error") is not None:  # also where it says nothing
            raise _operation_failed(value, answer, self._transport.auth.hidden)
        if value.get("status") == "completed" and isinstance(value.get("result"), dict):
            wrapped: dict[str, Any] = value["result"]
            return wrapped
        return value

    def _tell_queue(self, value: dict[str, Any]) -> None:
        state, reason = value.get("queue_state"), value.get("queue_state_reason")
        self._deadline.tell(
            queue_state=state if isinstance(state, str) else None,
            reason=reason if isinstance(reason, str) else None,
        )
        wait = value.get("retry_after_ms")
        if isinstance(wait, (int, float)) and 0 < wait <= LONGEST_WAIT * 1000:
            self._deadline.sleep(wait / 1000)

    def _count(self, error: TinkexError, reason: str, asked: float | None) -> None:
        """Wait after the failure *error* of a question, or raise it if it is one too many."""
        self._failures += 1
        backoff = min(0.5 * 2 ** (self._failures - 1), _LONGEST_BACKOFF)
        wait = asked if asked is not None and asked <= LONGEST_WAIT else backoff
        if self._failures > MAX_FAILURES or not self._deadline.allows(wait):
            raise error
        self._deadline.pause(wait, reason)

    def _space_out(self, took: float) -> None:
        # Servers hold the question open; one that does not must not be flooded.
        if took < self._gap:
            self._deadline.sleep(self._gap - took)
        self._gap = min(self._gap * 2, _LONGEST)


def _operation_failed(
    value: dict[str, Any], answer: Response, hidden: Callable[[str], str]
) -> OperationFailed:
    category: Category = "user" if value.get("category") == "user" else "server"
    words = detail_of({"error": value["error"]})
    error = OperationFailed(
        hidden(words) or "the operation failed, and the service does not say why", category=category
    )
    error.request_id = answer.request_id
    return error


def _leniently(answer: Response) -> dict[str, Any]:
    try:
        return answer.object()
    except (InvalidResponse, APIError):
        return {}
