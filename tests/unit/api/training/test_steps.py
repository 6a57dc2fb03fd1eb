"""Training steps: what is sent, what comes back, and servers that are lost for a while."""

from __future__ import annotations

import struct
from array import array
from dataclasses import replace

import pytest

from tinkex.api import AdamParams, Datum, ForwardBackwardResult, SupervisedExample
from tinkex.api.http import protobuf
from tinkex.api.training import types
from tinkex.exceptions import (
    BadRequest,
    ConnectionFailed,
    InvalidResponse,
    NotFound,
    OperationFailed,
    ServerError,
    UsageError,
)

DATUM = Datum([1, 2, 3], {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 0.5]})
OUTPUT = {"logprobs": {"data": [-1.0, None, -0.5], "dtype": "float32", "shape": [3]}}
RESULT = {"loss_fn_outputs": [OUTPUT], "metrics": {"loss:sum": 1.5, "note": "text"}}


@pytest.fixture
def service(server):
    """A service that accepts every step; a poll returns the result of its operation."""
    server.on("POST", "create_session", {"session_id": "s"})
    server.on("POST", "create_model", {"request_id": "c", "model_id": "m"})
    server.on("POST", "forward_backward", {"request_id": "f"})
    server.on("POST", "optim_step", {"request_id": "o"})
    server.results = {"c": {"model_id": "m"}, "f": RESULT, "o": {"metrics": {"norm": 2}}}
    server.on(
        "POST",
        "retrieve_future",
        lambda seen: server.reply(server.results[seen.body["request_id"]]),
    )
    return server


@pytest.fixture
def training(service, client):
    return client.create_lora_training_client("any")


def body_of(seq_id: int, data=(DATUM,), loss_fn="cross_entropy", **more):
    given = {"data": [datum.body() for datum in data], "loss_fn": loss_fn, **more}
    return {"model_id": "m", "seq_id": seq_id, "forward_backward_input": given}


def test_a_step_is_submitted_before_the_loss_is_known(service, training):
    loss = training.forward_backward([DATUM])
    step = training.optim_step(AdamParams(1e-3, grad_clip_norm=1.0))

    assert [seen.path for seen in service.seen[-2:]] == ["forward_backward", "optim_step"]
    passed, stepped = service.seen[-2:]
    assert passed.body == protobuf.forward_backward_request(body_of(1))
    assert stepped.body == {
        "model_id": "m",
        "seq_id": 2,
        "adam_params": {
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-12,
            "grad_clip_norm": 1.0,
        },
    }
    assert step.result() == {"norm": 2.0}
    result = loss.result()
    assert result.metrics == {"loss:sum": 1.5}
    assert result.outputs[0]["logprobs"] == pytest.approx([-1.0, float("nan"), -0.5], nan_ok=True)
    assert loss.result() is result
    kinds = [s.headers["x-tinker-request-type"] for s in service.requests("retrieve_future")[1:]]
    assert kinds == ["OptimStep", "ForwardBackward"]


def test_forward_and_the_parameters_of_a_loss(service, training):
    training.forward([DATUM], "ppo", {"clip_low_threshold": 0.8}).result()

    (seen,) = service.requests("forward_backward")
    body = body_of(1, loss_fn="ppo", loss_fn_config={"clip_low_threshold": 0.8})
    assert seen.body == protobuf.forward_backward_request(body, forward_only=True)


def test_a_result_in_protobuf(service, training):
    logprobs = struct.pack("<3f", -1.0, -2.0, -3.0)
    tensor = b"\x0a\x0c" + logprobs + b"\x12\x10" + struct.pack("<2q", 0, 12) + b"\x18\x01"
    entry = b"\x0a\x08logprobs\x12" + bytes([len(tensor)]) + tensor
    record = b"\x12" + bytes([len(entry)]) + entry + b"\x18\x01"
    message = b"\x12" + bytes([len(record)]) + record
    headers = {"Content-Type": "application/x-protobuf"}
    service.on("POST", "retrieve_future", service.reply(message, headers=headers))

    result = training.forward_backward([DATUM]).result()

    assert result == ForwardBackwardResult([{"logprobs": [-1.0, -2.0, -3.0]}], {})


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (422, [{"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error"}]),
        (500, "Internal Server Error"),
    ],
)
def test_a_server_that_reads_json_only_gets_json(status, detail, service, training):
    refused = service.reply({"detail": detail}, status)
    service.on("POST", "forward", {"request_id": "f"})
    service.on(
        "POST",
        "forward_backward",
        lambda seen: (
            refused if isinstance(seen.body, bytes) else service.reply({"request_id": "f"})
        ),
    )

    for _ in range(2):
        training.forward_backward([DATUM]).result()
    training.forward([DATUM]).result()

    bodies = [seen.body for seen in service.requests("forward_backward")]
    assert [type(body) for body in bodies] == [bytes, dict, dict]
    assert bodies[1:] == [body_of(1), body_of(2)]
    (forward,) = service.requests("forward")
    assert forward.body["forward_input"] == body_of(3)["forward_backward_input"]
    assert forward.body["seq_id"] == 3


def test_refused_examples_are_an_error_in_both_forms(service, training):
    wrong = service.reply({"detail": "unknown loss 'x'"}, 400)
    service.on("POST", "forward_backward", wrong, service.reply({"detail": "JSON"}, 415))
    with pytest.raises(BadRequest, match="unknown loss"):
        training.forward_backward([DATUM], "x")

    service.on("POST", "forward_backward", {"request_id": "f"}, wrong)
    training.forward_backward([DATUM])
    with pytest.raises(BadRequest, match="unknown loss"):
        training.forward_backward([DATUM], "x")

    seen = [s.body for s in service.requests("forward_backward")]
    assert [type(body) for body in seen] == [bytes, dict, bytes, bytes]
    assert seen[2] == protobuf.forward_backward_request(body_of(1))  # the number is used again


def test_much_data_is_sent_in_parts(service, training, monkeypatch):
    monkeypatch.setattr(types, "MAX_DATUMS", 2)
    data = [replace(DATUM, tokens=[n, 2, 3]) for n in range(5)]
    metrics = [{"loss:sum": 1.0, "x:mean": 1.0, "y:max": 1.0, "z:unique": 1.0}] * 2
    metrics.append({"loss:sum": 2.0, "x:mean": 6.0, "y:max": 3.0, "z:unique": 2.0, "w:min": 4.0})
    ids = iter("abc")
    service.on("POST", "forward_backward", lambda _: service.reply({"request_id": next(ids)}))
    for id, count, found in zip("abc", (2, 2, 1), metrics, strict=True):
        service.results[id] = {"loss_fn_outputs": [OUTPUT] * count, "metrics": found}

    result = training.forward_backward(data).result()

    sent = [seen.body for seen in service.requests("forward_backward")]
    parts = [data[:2], data[2:4], data[4:]]
    assert sent == [
        protobuf.forward_backward_request(body_of(n, part)) for n, part in enumerate(parts, 1)
    ]
    assert len(result.outputs) == 5
    assert result.metrics == {
        "loss:sum": 4.0,
        "x:mean": 2.0,
        "y:max": 3.0,
        "z:unique": 1.0,
        "w:min": 4.0,
    }
    monkeypatch.setattr(types, "MAX_BYTES", DATUM.size)
    assert [len(part) for part in types.chunks_of(data)] == [1, 1, 1, 1, 1]


def test_a_lost_server_is_waited_for(service, connect, naps):
    training = connect(service.url, timeout=120.0).create_lora_training_client("any")
    lost = service.reply(reset=True)
    gone = service.reply({"detail": "restarting"}, 503)
    service.on("POST", "optim_step", *[lost] * 8, *[gone] * 8, {"request_id": "o"})
    step = training.optim_step(AdamParams(1e-3))
    service.on("POST", "retrieve_future", *[lost] * 4, *[gone] * 4, {"metrics": None, "x": 1})

    assert step.result() == {}
    assert len({str(seen.body) for seen in service.requests("optim_step")}) == 1
    service.on("POST", "optim_step", lost)
    with pytest.raises(ConnectionFailed):
        training.optim_step(AdamParams(1e-3))
    service.on("POST", "optim_step", service.reply({"detail": "broken"}, 500))
    with pytest.raises(ServerError, match="broken"):
        training.optim_step(AdamParams(1e-3))


def test_a_busy_server_has_all_the_time_it_needs(service, training, naps):
    busy = {"type": "try_again", "request_id": "o", "retry_after_ms": 1000}
    service.on("POST", "retrieve_future", *[busy] * 100, {"metrics": {}})  # the timeout is 30 s

    assert training.optim_step(AdamParams(1e-3)).result() == {}
    assert sum(naps) > 60


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ({"error": "NaN loss", "category": "user"}, OperationFailed, "NaN loss"),
        ({"loss_fn_outputs": []}, InvalidResponse, "must have length 1, not 0"),
        ({"loss_fn_outputs": [3]}, InvalidResponse, "'outputs' is not an object"),
        ({"loss_fn_outputs": [{"a": {"data": ["x"]}}]}, InvalidResponse, "'a' contains an item"),
        ({"loss_fn_outputs": [{"a": {}}]}, InvalidResponse, "'data' is missing"),
        ({"loss_fn_outputs": [{}], "metrics": 3}, InvalidResponse, "'metrics' is not an object"),
    ],
)
def test_failed_and_malformed_results(service, training, result, error, message):
    service.results["f"] = result

    with pytest.raises(error, match=message):
        training.forward_backward([DATUM]).result()


def test_an_operation_that_the_server_lost(service, training):
    service.on("POST", "retrieve_future", service.reply({"detail": "the run was lost"}, 410))

    with pytest.raises(NotFound, match="the run was lost"):
        training.forward_backward([DATUM]).result()
    with pytest.raises(UsageError, match="at least one example"):
        training.forward_backward([])


def test_examples_become_data():
    example = SupervisedExample(array("i", [5, 6, 7, 8]), bytes([0, 0, 1, 1]))

    assert Datum.from_example(example) == Datum(
        array("i", [5, 6, 7]), {"target_tokens": array("i", [6, 7, 8]), "weights": [0.0, 1.0, 1.0]}
    )
    normalized = Datum.from_example(example, normalize=True)
    assert normalized.loss_fn_inputs["weights"] == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("tokens", "inputs", "message"),
    [
        ([], {}, "tokens must be token ids: the list is empty"),
        ([-1], {}, "tokens must be token ids"),
        ([1], {"target_tokens": [1.5]}, "target_tokens must be token ids"),
        ([1], {"weights": [1.0, 2.0]}, "weights must have length 1, not 2"),
        ([1], {"weights": [float("nan")]}, "weights contains an item that is not a finite"),
        ([1], {"weights": ["1"]}, "weights contains an item that is not a finite"),
    ],
)
def test_malformed_data_is_refused(tokens, inputs, message):
    with pytest.raises(UsageError, match=message):
        Datum(tokens, inputs)


@pytest.mark.parametrize(
    "values",
    [{"learning_rate": -1.0}, {"learning_rate": "1"}, {"learning_rate": 1.0, "beta1": 1.0}],
)
def test_impossible_parameters_are_refused(values):
    with pytest.raises(UsageError, match="must be"):
        AdamParams(**values)
