"""Errors: their classes, sentences and JSON objects."""

from __future__ import annotations

import json

import pytest

from tinkex import exceptions
from tinkex.exceptions import TinkexError, UsageError, from_response


@pytest.mark.parametrize(
    ("status", "body", "cls", "category"),
    [
        (400, b'{"detail": "bad path"}', exceptions.BadRequest, "user"),
        (401, b'{"detail": "Missing API key"}', exceptions.Unauthorized, "user"),
        (402, b"", exceptions.PaymentRequired, "user"),
        (403, b"", exceptions.Forbidden, "user"),
        (404, b'{"detail": "Not Found"}', exceptions.NotOffered, "user"),
        (404, b'{"detail": "Run x not found"}', exceptions.NotFound, "user"),
        (405, b"", exceptions.NotOffered, "user"),
        (501, b"", exceptions.NotOffered, "user"),
        (400, b'{"error": "no API key given"}', exceptions.Unauthorized, "user"),
        (408, b"", exceptions.APIError, "server"),
        (409, b"", exceptions.Conflict, "user"),
        (410, b"", exceptions.NotFound, "user"),
        (415, b"", exceptions.BadRequest, "user"),
        (422, b"", exceptions.BadRequest, "user"),
        (429, b"", exceptions.RateLimited, "server"),
        (503, b"", exceptions.ServerError, "server"),
    ],
)
def test_class_and_category_by_status(status, body, cls, category):
    error = from_response(status, body, "application/json")
    assert type(error) is cls
    assert error.category == category


def test_validation_errors_name_the_field():
    body = json.dumps({"detail": [{"loc": ["body", "path"], "msg": "too long"}, {"msg": "other"}]})
    assert "path: too long; other" in str(from_response(422, body, "application/json"))


TRACEBACK = "Traceback (most recent call last):\n  File 'x'\n    a()\nValueError: rank 512 > 128\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": {"code": 7, "error": "no such run", "path": "x"}}, "no such run"),
        ({"detail": {"reason": "quota"}}, "quota"),
        ({"error": "invalid request", "detail": [{"loc": ["rank"], "msg": "low"}]}, "rank: low"),
        ({"error": "saturated", "message": "all 4 slots are busy"}, "all 4 slots are busy"),
        ({"type": "RequestFailedResponse", "error_message": "no adapter"}, "no adapter"),
        ({"message": "error", "error": "the worker is gone"}, "the worker is gone"),
        ({"error": "gone", "message": ""}, "gone"),
        ({"detail": "", "reason": "it is paused"}, "it is paused"),
        ({"error": {"message": "deep down"}}, "deep down"),
        ({"error": TRACEBACK}, "ValueError: rank 512 > 128"),
        (TRACEBACK, "ValueError: rank 512 > 128"),
        ({"detail": 3, "error": ["a", {"msg": "b"}]}, "a; b"),
    ],
)
def test_the_sentence_of_a_server_is_found_wherever_it_is(body, words):
    assert exceptions.detail_of(body) == words


@pytest.mark.parametrize(
    ("loc", "first"),
    [
        (["body", "user_metadata"], "Sampling failed: user_metadata: no object (HTTP 422)"),
        (["body", "lora_config", "rank"], "Sampling failed. Please check your inputs: lora_config"),
        (["body", []], "Sampling failed. Please check your inputs: no object"),
        ([], "Sampling failed. Please check your inputs: no object"),
    ],
)
def test_the_user_is_not_blamed_for_a_field_that_tinkex_filled_in(loc, first):
    body = json.dumps({"detail": [{"loc": loc, "msg": "no object"}]})
    error = from_response(422, body, "application/json")
    assert error.sentence("Sampling").startswith(first)
    assert (error.hint is not None) == ("check" not in first)


def test_status_and_request_id_are_in_the_line():
    error = from_response(500, b"", headers={"X-Request-ID": "req-7"})
    assert str(error) == "API request failed (HTTP 500, request req-7)"
    assert error.as_dict("Sampling") == {
        "category": "server",
        "message": "Sampling failed due to server or transient error. Consider retrying: "
        "API request failed (HTTP 500, request req-7)",
        "hint": None,
        "status": 500,
        "request_id": "req-7",
    }


def test_control_characters_of_a_server_are_not_shown():
    assert "\x1b" not in str(
        from_response(400, b'{"detail": "\\u001b[31mred"}', "application/json")
    )


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), ("0.5", 0.5), ("soon", None), ("-1", None), ("1e99", None)]
)
def test_retry_after(value, seconds):
    assert from_response(429, b"", headers={"Retry-After": value}).retry_after == seconds


def test_sentences_of_the_guide():
    assert (
        TinkexError("Missing --api-key").sentence("Checkpoint")
        == "Checkpoint failed. Please check your inputs: Missing --api-key"
    )
    timed_out = exceptions.TimedOut("Timed out while awaiting sampling")
    assert (
        timed_out.sentence("Sampling") == "Sampling failed due to server or transient error. "
        "Consider retrying: Timed out while awaiting sampling"
    )
    whole = UsageError("Invalid option(s) for run: --x", whole_line=True)
    assert whole.sentence("Sampling") == "Invalid option(s) for run: --x"


def test_what_is_published_is_every_error_of_the_module():
    classes = [
        c for c in vars(exceptions).values() if isinstance(c, type) and issubclass(c, TinkexError)
    ]
    assert {c.__name__ for c in classes} | {"from_response"} == set(exceptions.__all__)
