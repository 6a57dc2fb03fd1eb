"""Requests of training steps: encoding, and retries while the server is unreachable."""

from __future__ import annotations

from typing import Any

from tinkex.api.http import protobuf
from tinkex.api.http.futures import PROTOBUF
from tinkex.api.http.retry import Deadline
from tinkex.api.http.transport import Request, Transport
from tinkex.exceptions import APIError, ConnectionFailed, ServerError, TimedOut

#: Statuses of servers that do not read protobuf: for another content type, for malformed JSON, and
#: of SkyRL 0.3, which fails to describe the malformed JSON.
_NO_PROTOBUF = frozenset({400, 415, 422, 500})
_PROTOBUF_BODIES = "POST forward_backward in protobuf"
#: Delays in seconds between attempts to reach the server: the first, and the maximum.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 8.0


def send_patiently(
    transport: Transport,
    endpoint: str,
    body: dict[str, Any] | bytes,
    *,
    deadline: Deadline,
    final: frozenset[int] = frozenset(),
) -> dict[str, Any]:
    """Send a numbered call, repeatedly while the server is unreachable; return the response.

    The server recognizes a repeated call by its number.

    :param final: see :attr:`tinkex.api.http.transport.Request.final`.
    """
    headers = {"Content-Type": PROTOBUF} if isinstance(body, bytes) else {}
    call = ("POST", endpoint, body)
    request = Request(*call, headers=headers, repeatable=True, final=final, what="training")
    delay = _FIRST_DELAY
    while True:
        try:
            return transport.call(request, deadline).object()
        except (ConnectionFailed, ServerError, TimedOut) as error:
            if error.status == 500 or not deadline.allows(delay):
                raise
            deadline.pause(delay, str(error))
            delay = min(2 * delay, _LONGEST_DELAY)


class ExampleSender:
    """Sends examples as protobuf, or as JSON to a server that does not read protobuf."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reads_protobuf = False

    def send(
        self, body: dict[str, Any], *, forward_only: bool, deadline: Deadline
    ) -> dict[str, Any]:
        """Send the examples in *body*, the JSON form of a call; return the response.

        The first call determines which format the server reads.
        """
        if _PROTOBUF_BODIES in self._transport.missing:
            return self._send_json(body, forward_only, deadline)
        message = protobuf.forward_backward_request(body, forward_only=forward_only)
        final = frozenset() if self._reads_protobuf else _NO_PROTOBUF
        call = (self._transport, "forward_backward", message)
        try:
            accepted = send_patiently(*call, deadline=deadline, final=final)
        except APIError as error:
            if error.status not in final:
                raise
            try:
                accepted = self._send_json(body, forward_only, deadline)
            except APIError as other:  # 415: it reads protobuf only, and the examples are wrong
                raise (error if other.status == 415 else other) from None
            self._transport.missing.add(_PROTOBUF_BODIES)
            return accepted
        self._reads_protobuf = True
        return accepted

    def _send_json(
        self, body: dict[str, Any], forward_only: bool, deadline: Deadline
    ) -> dict[str, Any]:
        endpoint = "forward" if forward_only else "forward_backward"
        given = {n: v for n, v in body.items() if n != "forward_backward_input"}
        given[f"{endpoint}_input"] = body["forward_backward_input"]
        return send_patiently(self._transport, endpoint, given, deadline=deadline)
