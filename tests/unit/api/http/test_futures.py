"""Polling a long-running operation, reply by reply."""

from __future__ import annotations

import json
import struct
from types import SimpleNamespace

import pytest

from tests.unit.api.conftest import NEVER
from tinkex.api.http import errors, futures, protobuf
from tinkex.exceptions import (
    Conflict,
    ConnectionFailed,
    InvalidResponse,
    NotFound,
    OperationFailed,
    PaymentRequired,
    RateLimited,
    ServerError,
    TimedOut,
)

DONE = {"path": "tinker://r/weights/x"}
TRY_AGAIN = {"type": "try_again", "request_id": "7", "queue_state": "active"}


@pytest.fixture
def poll(server, connect):
    """Return a function that polls through a list of replies."""

    def poll(*replies, timeout=30.0, decode=None):
        server.on("POST", "retrieve_future", *replies)
        service = connect(server.url, timeout=timeout)._transport
        deadline = service.deadline("sampling")
        return futures.result(service, "7", "SaveWeights", deadline, decode)

    return poll


@pytest.mark.parametrize(
    "not_yet",
    [TRY_AGAIN, {"status": "complete_metadata", "response_payload_size": 9}, {"status": "pending"}],
)
def test_it_is_asked_until_the_result_is_there(not_yet, poll, server, naps):
    assert poll(not_yet, not_yet, DONE) == DONE
    assert [s.headers["x-tinker-request-iteration"] for s in server.seen] == ["0", "1", "2"]
    assert server.seen[0].headers["x-tinker-request-type"] == "SaveWeights"
    assert all(s.body == {"request_id": "7", "allow_metadata_only": False} for s in server.seen)


def test_408_408_and_a_slow_answer_mean_again(poll, server, waits, naps, monkeypatch):
    def then(seconds, reply):
        """Answer, and let the next poll take so long at most."""

        def answer(_):
            monkeypatch.setattr(futures, "POLL_TIMEOUT", seconds)
            return reply

        return answer

    never = server.reply(DONE, delay=NEVER)
    slow = [*[never] * futures.MAX_FAILURES, then(60, never)]
    ended = server.reply({"detail": "x", "queue_state": "paused_rate_limit"}, 408)
    assert poll(ended, then(0.3, server.reply("Timeout", 408)), *slow, DONE) == DONE
    assert waits[0].queue_state == "paused_rate_limit"
    assert [w.retry_in for w in waits] == [None] * (2 + len(slow))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, RateLimited),
        *((status, ServerError) for status in (500, 502, 503)),
        (None, ConnectionFailed),  # the connection is lost
    ],
)
def test_a_failing_server_is_asked_a_few_times_more(status, error, poll, server, naps, waits):
    bad = server.reply("Internal Server Error", status or 200, reset=status is None)
    assert poll(bad, bad, DONE) == DONE
    assert len(waits) == 2
    assert all((f"HTTP {status}" if status else "lost") in wait.reason for wait in waits)
    server.seen.clear()
    with pytest.raises(error):
        poll(bad, timeout=1000)
    assert len(server.seen) == futures.MAX_FAILURES + 1


@pytest.mark.parametrize(
    ("reply", "category", "words"),
    [
        ({"error": "too long", "category": "user"}, "user", "too long"),
        ({"error": "out of memory", "category": "server"}, "server", "out of memory"),
        ({"error": "what\n\x1b[31m?", "category": "unknown"}, "server", "what [31m?"),
        ({"error": {"message": "nested"}}, "server", "nested"),
        ({"status": "failed", "error": "wrapped"}, "server", "wrapped"),
        ({"type": "request_failed", "error": "rank", "category": "user_error"}, "user", "rank"),
        ({"type": "RequestFailedResponse", "message": "gone"}, "server", "gone"),
    ],
)
def test_a_failed_operation_carries_the_servers_words(reply, category, words, poll):
    with pytest.raises(OperationFailed) as caught:
        poll(reply)
    assert (str(caught.value), caught.value.category) == (words, category)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, {"detail": "Model m1 not loaded"}, OperationFailed, "Model m1 not loaded"),
        (422, {"detail": "Future failed: bad rank"}, OperationFailed, "Future failed: bad rank"),
        (409, {"detail": "Sequence conflict: expected 7, got 9."}, Conflict, "Sequence conflict"),
        (410, {"detail": "Promise expired"}, NotFound, "Promise expired"),
        (404, {"detail": "Future not found"}, NotFound, "Future not found"),
        (402, {"detail": "No credit"}, PaymentRequired, "No credit"),
    ],
)
def test_refusals_end_it_at_once(status, body, kind, words, poll, server):
    with pytest.raises(kind, match=words) as caught:
        poll(server.reply(body, status))
    assert caught.value.status == status
    assert len(server.seen) == 1


@pytest.mark.parametrize("is_lost", [True, False])
def test_time_for_which_the_program_was_suspended_does_not_count(
    is_lost, connect, monkeypatch, naps
):
    service = connect("http://127.0.0.1:9")._transport
    deadline = service.deadline("sampling")
    calls = []

    def send(*_):
        calls.append(_)
        if len(calls) == 1:
            deadline._start -= 500  # Ctrl-Z, then fg
            if is_lost:
                raise errors.suspended("h", 100.0)
        body = json.dumps(DONE).encode()
        return SimpleNamespace(status=200, headers={}, chunks=lambda _: [body], close=lambda: None)

    monkeypatch.setattr(service, "_sender", SimpleNamespace(send=send, close=lambda: None))
    assert futures.result(service, "7", "SaveWeights", deadline) == DONE
    assert len(calls) == 2


def test_forms_of_a_result(poll):
    assert poll({"error": None, **DONE}) == {"error": None, **DONE}
    assert poll({"status": "completed", "result": DONE}) == DONE


def test_the_deadline_bounds_it(poll, naps):
    with pytest.raises(TimedOut, match=r"^Timed out while awaiting sampling$"):
        poll(TRY_AGAIN, timeout=0.6)


def test_polls_that_the_server_answers_at_once_are_a_second_apart(poll, server, naps, monkeypatch):
    """MinT answers nothing to polls that come sooner, tinker-cloud holds none open."""
    monkeypatch.setattr(futures, "INTERVAL", 1.0)
    not_yet = [TRY_AGAIN, {"type": "try_again"}, server.reply({"detail": "not yet"}, 408)]
    assert poll(*not_yet, DONE) == DONE
    assert [round(nap) for nap in naps] == [1, 1, 1]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Retry-After": "7"}, {}),
        ({}, {"retry_after_s": 7}),
        ({}, {"retry_after_ms": 7000}),
        ({"Retry-After": "3600"}, {"retry_after_s": 7}),  # an hour is not waited for
    ],
)
@pytest.mark.parametrize("status", [200, 408])
def test_the_next_poll_comes_when_the_server_wants_it(status, headers, body, poll, server, naps):
    assert poll(server.reply({"type": "try_again", **body}, status, headers), DONE) == DONE
    assert naps == [7]


@pytest.mark.parametrize(
    ("accepted", "polls"),
    [({"request_id": "7", "path": "early"}, 1), ({"request_id": None, **DONE}, 0), (DONE, 0)],
)
def test_a_result_may_be_in_the_response_or_be_polled_for(accepted, polls, server, client):
    server.on("POST", "retrieve_future", DONE)
    arguments = (client._transport, accepted, "SaveWeights", client.deadline("saving"))
    assert futures.outcome(*arguments, wanted="path")["path"] == DONE["path"]
    assert len(server.seen) == polls


def test_a_failure_reported_with_status_200_is_one(server, client):
    """tinker-cloud's load_weights: nothing is loaded, and no operation begins."""
    answer = {"error": "Loading is not supported", "reason": "…", "solution": "…"}
    with pytest.raises(OperationFailed, match="Loading is not supported"):
        futures.outcome(
            client._transport, answer, "LoadWeights", client.deadline("x"), wanted="path"
        )
    with pytest.raises(InvalidResponse, match="neither 'path' nor 'request_id'"):
        futures.outcome(client._transport, {}, "LoadWeights", client.deadline("x"), wanted="path")
    assert not server.seen


def test_protobuf_is_read_only_where_it_was_asked_for(poll, server):
    reply = server.reply(b"", headers={"Content-Type": "application/x-protobuf"})
    with pytest.raises(InvalidResponse, match="protobuf"):
        poll(reply)
    assert poll(reply, decode=protobuf.sample_response)["sequences"] == []


def test_ids_are_text():
    for given in ("13", 13):
        assert futures.request_id_of({"request_id": given}) == "13"
    for given in (None, "", True, 1.5, [], {}):
        with pytest.raises(InvalidResponse):
            futures.request_id_of({"request_id": given})


# Protobuf ------------------------------------------------------------------------------------


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def test_every_known_field_is_read_and_others_are_skipped():
    sequence = field(1, 1) + field(2, ints(8, -1)) + field(3, floats(-0.5, -1.5))
    topk = (
        field(1, ints(4, 5, 6, 0))
        + field(2, floats(-1, -2, -3, -99999))
        + field(3, 2)
        + field(4, 2)
    )
    unknown = field(6, 3) + b"\x49" + b"\0" * 8 + b"\x55" + b"\0" * 4 + field(15, b"later")
    message = (
        field(1, sequence + field(4, topk) + unknown)
        + field(1, field(2, ints(9)))
        + field(2, floats(float("nan"), -0.25))
        + field(3, topk)
        + unknown
    )

    table = [[[4, -1.0], [5, -2.0]], [[6, -3.0]]]
    assert protobuf.sample_response(message) == {
        "sequences": [
            {
                "tokens": [8, -1],
                "logprobs": [-0.5, -1.5],
                "stop_reason": "length",
                "topk_logprobs": table,
            },
            {"tokens": [9], "logprobs": None, "stop_reason": "stop"},
        ],
        "prompt_logprobs": [None, -0.25],
        "topk_prompt_logprobs": table,
        "type": "sample",
    }


@pytest.mark.parametrize(
    "message",
    [
        *(
            b"\x0a",
            b"\x0a\x05abc",
            b"\x0a" + b"\xff" * 10 + b"\x01",
            b"\x80" * 20,
            b"\x0b",
            b"\x0c",
        ),
        *(b"\x02\x00", b"\x09abc", b"<html>", field(1, field(2, b"abc")), field(1, field(2, 5))),
        *(
            field(1, field(1, b"xx")),
            field(1, 7),
            field(2, floats(1) + b"x"),
            field(3, field(1, 1)),
        ),
        field(3, field(1, ints(1)) + field(3, 1) + field(4, 1)),
    ],
)
def test_malformed_messages_are_invalid_answers(message):
    with pytest.raises(InvalidResponse):
        protobuf.sample_response(message)
