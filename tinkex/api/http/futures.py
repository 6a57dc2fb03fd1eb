"""Long-running operations: polling until the result is available."""

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
#: Number of consecutive failed polls after which the operation fails.
MAX_FAILURES = 5
#: Seconds between two polls that the server does not hold open; some servers reject faster ones.
INTERVAL = 1.0
_LONGEST_BACKOFF = 30.0
#: ``type`` of an operation that failed, on some servers.
_FAILED = ("request_failed", "RequestFailedResponse")
#: Members of a response with the time of the next poll → their unit in seconds.
_WAITS = {"retry_after_ms": 0.001, "retry_after_s": 1.0}

Decoder = Callable[[bytes], dict[str, Any]]


def request_id_of(accepted: Mapping[str, Any]) -> str:
    """Return the id of an accepted operation, as a string even if the server sends a number."""
    value = accepted.get("request_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        refuse("no 'request_id'", accepted)
    return value


def outcome(
    transport: Transport,
    accepted: Mapping[str, Any],
    kind: str,
    deadline: Deadline,
    decode: Decoder | None = None,
    *,
    wanted: str,
    patient: bool = False,
) -> dict[str, Any]:
    """Return the result of an operation, from its first response or by polling.

    Servers differ in which operations they complete at once. For the other parameters and the
    errors see :func:`result`.

    :param accepted: the first response.
    :param wanted: a member that only the result has.
    """
    if accepted.get("request_id") is None:
        if has_failed(accepted):
            raise _failure(transport, accepted)
        if accepted.get(wanted) is not None:
            return dict(accepted)
        refuse(f"neither {wanted!r} nor 'request_id'")
    request_id = request_id_of(accepted)
    return result(transport, request_id, kind, deadline, decode, patient=patient)


def has_failed(value: Mapping[str, Any]) -> bool:
    """Return whether a response with a status of success reports a failure."""
    is_failed = value.get("type") in _FAILED or value.get("status") == "failed"
    return is_failed or value.get("error") is not None  # even an empty one


def _failure(transport: Transport, value: Mapping[str, Any]) -> OperationFailed:
    is_user = str(value.get("category")).startswith("user")
    words = transport.auth.hidden(words_of(value))
    log_traceback(words)
    words = detail_of(words) or "the operation failed, and the service gave no reason"
    return OperationFailed(words, category="user" if is_user else "server")


def result(
    transport: Transport,
    request_id: str,
    kind: str,
    deadline: Deadline,
    decode: Decoder | None = None,
    *,
    patient: bool = False,
) -> dict[str, Any]:
    """Wait for the operation *request_id* and return its result.

    :param kind: the service's name for the operation: ``SaveWeights``.
    :param decode: function that decodes a protobuf result.
    :param patient: count only the time without a response towards the deadline, as far as its
        patience allows, and do not limit the number of failed polls.
    :raises tinkex.exceptions.OperationFailed: the operation failed.
    :raises tinkex.exceptions.NotFound: the operation has expired (410) or is unknown.
    :raises tinkex.exceptions.TimedOut: the deadline has passed.
    """
    return _Poll(transport, request_id, kind, deadline, decode, patient).run()


class _Poll:
    def __init__(
        self,
        transport: Transport,
        request_id: str,
        kind: str,
        deadline: Deadline,
        decode: Decoder | None,
        patient: bool,
    ) -> None:
        self._patient = patient
        #: ``deadline.elapsed`` when the service last responded.
        self._responded = deadline.elapsed
        self._transport = transport
        self._deadline = deadline
        self._decode = decode
        self._failures = 0
        #: Seconds to wait before the next poll, as requested by the server.
        self._asked = 0.0
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
            wait = max(self._asked, INTERVAL - (time.monotonic() - start))
            self._asked = 0.0
            self._deadline.sleep(wait)

    def _poll_once(self) -> Response | None:
        """Poll once; ``None`` if there was no response."""
        headers = {**self._headers, "X-Tinker-Request-Iteration": str(self._iteration)}
        self._iteration += 1
        request = Request("POST", "retrieve_future", self._body, headers=headers, repeatable=True)
        try:
            return self._transport.once(request, self._deadline, read_timeout=POLL_TIMEOUT)
        except TimedOut:
            self._deadline.remaining()  # the poll has timed out, not the whole operation
            self._deadline.report()
        except ConnectionFailed as error:
            self._deadline.excuse_suspension(error)
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
            self._pending(queue, response)
            return None
        if response.status == 429 or response.status >= 500:
            error = self._transport.refusal(response)
            self._count(error, f"HTTP {response.status}", retry_after(response.headers))
            return None
        error = self._transport.refusal(response)
        if not isinstance(error, BadRequest):
            raise error
        # A failed operation: some servers return 400, some 422, with the reason as detail.
        failed = OperationFailed(error.message, category=error.category)
        failed.status, failed.request_id = error.status, error.request_id
        raise failed

    def _payload(self, response: Response) -> dict[str, Any] | None:
        if response.content_type == PROTOBUF:
            if self._decode is None:
                raise InvalidResponse("the server returned protobuf instead of JSON")
            return self._decode(response.body)
        value = response.object()
        status = value.get("status")
        is_pending = status == "pending" and "result" not in value
        if value.get("type") == "try_again" or status == "complete_metadata" or is_pending:
            self._pending(value, response)
            return None
        if has_failed(value):
            error = _failure(self._transport, value)
            error.request_id = response.request_id
            raise error
        wrapped = value.get("result")
        return wrapped if status == "completed" and isinstance(wrapped, dict) else value

    def _pending(self, value: dict[str, Any], response: Response) -> None:
        """Report why there is no result yet, and record when the server expects the next poll."""
        if self._patient:
            self._deadline.excuse(self._deadline.elapsed - self._responded)
            self._responded = self._deadline.elapsed
        state, reason = value.get("queue_state"), value.get("queue_state_reason")
        self._deadline.report(
            queue_state=state if isinstance(state, str) else None,
            reason=reason if isinstance(reason, str) else None,
        )
        waits = [retry_after(response.headers)]
        for name, unit in _WAITS.items():
            number = value.get(name)
            waits.append(number * unit if isinstance(number, (int, float)) else None)
        self._asked = max((w for w in waits if w is not None and w <= LONGEST_WAIT), default=0.0)

    def _count(self, error: TinkexError, reason: str, asked: float | None) -> None:
        """Wait after a poll failed with *error*; raise it after too many failures."""
        self._failures += 1
        backoff = min(0.5 * 2 ** (self._failures - 1), _LONGEST_BACKOFF)
        wait = asked if asked is not None and asked <= LONGEST_WAIT else backoff
        is_last = self._failures > MAX_FAILURES and not self._patient
        if is_last or not self._deadline.allows(wait):
            raise error
        self._deadline.pause(wait, reason)
