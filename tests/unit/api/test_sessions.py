"""Sessions, training and sampling: numbers, heartbeats, and what happens when things fail."""

from __future__ import annotations

import threading

import pytest

from tests.until import until
from tinkex.api import SamplingParams
from tinkex.api.sampling.types import SampleResponse
from tinkex.exceptions import (
    InvalidResponse,
    NotFound,
    RateLimited,
    TimedOut,
    UsageError,
)

RUN = "r:train:0"


@pytest.fixture
def service(server):
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "session_heartbeat", {"type": "session_heartbeat"})
    server.on("POST", "create_model", {"request_id": "c", "model_id": RUN})
    server.on("POST", "save_weights_for_sampler", {"request_id": "w"})
    server.on("POST", "save_weights", {"request_id": "w"})
    server.on("POST", "load_weights", {"request_id": "l"})
    server.on("POST", "create_sampling_session", {"sampling_session_id": "sample-1"})
    server.on("POST", "asample", {"request_id": "a"})
    return server


def results(server, **by_id):
    """Let retrieve_future answer by request id."""

    def answer(seen):
        reply = by_id[seen.body["request_id"]]
        return reply if isinstance(reply, server.reply) else server.reply(reply)

    server.on("POST", "retrieve_future", answer)


# Sampling ------------------------------------------------------------------------------------

SAMPLED = {"sequences": [{"stop_reason": "stop", "tokens": [1], "logprobs": None}]}


@pytest.mark.parametrize("models", [{}, {"base_model": "m", "model_path": "tinker://r/x"}])
def test_exactly_one_model_is_sampled(models, service, client):
    with pytest.raises(UsageError):
        client.create_sampling_client(**models)


def test_a_bare_path_is_sent_in_full(service, client):
    client.create_sampling_client(model_path="tinker://r/x")
    body = service.requests("create_sampling_session")[0].body
    assert body["model_path"] == "tinker://r/sampler_weights/x"
    assert body["sampling_session_seq_id"] == 0
    assert "base_model" not in body


@pytest.mark.parametrize("samplers", [404, 500, None])
def test_the_base_model_is_found_by_another_way(samplers, service, client, naps):
    if samplers:
        service.on("GET", "samplers/sample-1", service.reply("x", samplers))
    else:
        service.on("GET", "samplers/sample-1", {"sampler_id": "x", "base_model": None})
    service.on("POST", "weights_info", service.reply({"detail": "samplers have none"}, 400))
    service.on("GET", "training_runs/r", {"training_run_id": "r", "base_model": "m"})
    assert client.create_sampling_client(model_path="tinker://r/x").base_model == "m"


def test_a_busy_service_gets_the_same_request_again(service, client, waits):
    results(service, a=SAMPLED)
    busy = service.reply({"detail": "busy"}, 429, {"Retry-After": "0.2"})
    service.on("POST", "asample", busy, busy, {"request_id": "a"})
    sampling = client.create_sampling_client(base_model="m")
    sampling.sample([1, 2])
    sampling.sample([3])
    first, second, third, fourth = service.requests("asample")
    assert first.body == second.body == third.body
    assert (first.body["seq_id"], fourth.body["seq_id"]) == (0, 1)
    told = [(w.reason, w.retry_in) for w in waits if w.reason]
    assert told == [("the service is busy", 0.2)] * 2


def test_all_samples_hold_back_together(service, client):
    results(service, a=SAMPLED)
    busy = service.reply(None, 429, {"Retry-After": "0.4"})
    service.on("POST", "asample", busy, {"request_id": "a"})
    sampling = client.create_sampling_client(base_model="m")
    first = threading.Thread(target=sampling.sample, args=([1],))
    first.start()
    until(lambda: sampling.backpressure.refusals)
    sampling.sample([2])
    first.join()
    refused, *others = service.requests("asample")
    assert all(seen.at - refused.at >= 0.4 for seen in others)
    assert {seen.body["seq_id"] for seen in others} == {0, 1}


def test_a_service_that_stays_busy_is_told(service, connect):
    service.on("POST", "asample", service.reply({"detail": "busy"}, 429))
    sampling = connect(service.url, timeout=0.8).create_sampling_client(base_model="m")
    with pytest.raises(RateLimited, match="busy"):
        sampling.sample([1])


def test_a_lost_request_is_made_anew_with_another_number(service, client):
    gone = service.reply({"detail": "expired"}, 410)
    service.on("POST", "retrieve_future", gone, SAMPLED)
    client.create_sampling_client(base_model="m").sample([1])
    assert [s.body["seq_id"] for s in service.requests("asample")] == [0, 1]
    service.on("POST", "retrieve_future", gone)
    with pytest.raises(NotFound, match="expired"):
        client.create_sampling_client(base_model="m").sample([1])


def test_sampling_ends_with_the_timeout(service, connect):
    service.on("POST", "retrieve_future", {"type": "try_again"})
    sampling = connect(service.url, timeout=0.3).create_sampling_client(base_model="m")
    with pytest.raises(TimedOut, match=r"^Timed out while awaiting sampling$"):
        sampling.sample([1])


@pytest.mark.parametrize("tokens", [[], [-1], [1.5], ["a"]])
def test_prompts_that_cannot_be_are_refused_here(tokens, service, client):
    with pytest.raises(UsageError):
        client.create_sampling_client(base_model="m").sample(tokens)
    assert not service.requests("asample")


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"top_k": -2},
        {"stop": ("a", "")},
        {"stop": "END"},
    ],
)
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        SamplingParams(**bad)


def test_parameters_that_every_server_takes():
    assert SamplingParams().body() == {
        "max_tokens": 256,
        "temperature": 1.0,
        "top_k": -1,
        "top_p": 1.0,
    }
    assert SamplingParams(max_tokens=3, seed=0, stop=("a",)).body()["seed"] == 0


def test_a_missing_first_logprob_is_put_back():
    data = {**SAMPLED, "prompt_logprobs": [-1, -2]}
    assert SampleResponse.from_json(data, 3).prompt_logprobs == (None, -1.0, -2.0)
    assert SampleResponse.from_json(data, 2).prompt_logprobs == (-1.0, -2.0)


def test_what_is_not_finite_becomes_null():
    sequence = {"tokens": [1, 2], "logprobs": [float("-inf"), float("nan")], "stop_reason": "stop"}
    topk = [None, [[1, float("nan")]]]
    data = {"sequences": [sequence], "prompt_logprobs": None, "topk_prompt_logprobs": topk}
    shown = SampleResponse.from_json(data).as_dict()
    assert shown["sequences"][0]["logprobs"] == [None, None]
    assert shown["topk_prompt_logprobs"] == [None, [[1, None]]]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"sequences": None},
        {"sequences": [1]},
        {"sequences": [{}]},
        {"sequences": [{"tokens": ["a"]}]},
        {"sequences": [{"tokens": [True]}]},
        {"sequences": [{"tokens": [1], "logprobs": ["x"]}]},
        {"sequences": [{"tokens": [1], "logprobs": 1}]},
        {"sequences": [], "prompt_logprobs": {}},
        {"sequences": [], "topk_prompt_logprobs": [1]},
        {"sequences": [], "topk_prompt_logprobs": [[1]]},
        {"sequences": [], "topk_prompt_logprobs": [[[1]]]},
    ],
)
def test_results_of_another_shape_are_invalid_answers(data):
    with pytest.raises(InvalidResponse):
        SampleResponse.from_json(data)
