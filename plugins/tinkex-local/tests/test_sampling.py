"""Sampling through the protocol: submitted, polled, told in JSON and protobuf."""

import math
import struct
import sys
import threading

import pytest
from safetensors.numpy import load_file, save_file

from tinkex_local.app import create_app
from tinkex_local.engines import runner as runners
from tinkex_local.serve import CONNECTIONS, THREADS
from tinkex_local.state.adapter import TENSORS

BASE_MODEL = "tinkex/baker-street-2M"


def fields(buffer):
    """Yield (number, value) of a protobuf message: a reader of its own, to check the writer."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = buffer[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(buffer):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            assert key & 7 == 2
            size = varint()
            yield key >> 3, buffer[at : at + size]
            at += size


def numbers(raw, code):
    return list(struct.unpack(f"<{len(raw) // 4}{code}", raw))


def test_a_sample_is_polled_for_and_may_be_fetched_again(client, sampling_body):
    sampler = client.sampler()
    answer = client.post("asample", sampling_body(sampler, num_samples=3)).json
    assert len(set(answer["sample_sequence_ids"])) == 3
    result = client.retrieve(answer["request_id"])
    assert len(result["sequences"]) == 3
    for sequence in result["sequences"]:
        assert len(sequence["tokens"]) == len(sequence["logprobs"])
        assert sequence["stop_reason"] in ("stop", "length")
    assert result["prompt_logprobs"] is None
    assert client.retrieve(answer["request_id"]) == result


def test_one_seed_one_result_without_a_seed_many(client, sampling_body):
    sampler = client.sampler()

    def tokens(seq, **params):
        outcome = client.result("asample", sampling_body(sampler, seq, params=params))
        return outcome["sequences"][0]["tokens"]

    assert tokens(0) == tokens(1)
    assert tokens(2, seed=None) != tokens(3, seed=None)


def test_protobuf_says_the_same_as_json(client, sampling_body):
    body = sampling_body(
        client.sampler(), num_samples=2, prompt_logprobs=True, topk_prompt_logprobs=2
    )
    request = {"request_id": client.post("asample", body).json["request_id"]}
    told = client.retrieve(request["request_id"])
    accept = "application/x-protobuf, application/json"
    answer = client.post("retrieve_future", request, accept=accept)
    assert answer.headers["Content-Type"] == "application/x-protobuf"
    message = list(fields(answer.body))
    sequences = [dict(fields(value)) for number, value in message if number == 1]
    assert len(sequences) == 2
    for sequence, expected in zip(sequences, told["sequences"], strict=True):
        assert numbers(sequence[2], "i") == expected["tokens"]
        assert numbers(sequence[3], "f") == pytest.approx(expected["logprobs"])
        assert sequence.get(1, 0) == (expected["stop_reason"] == "length")
    (prompt,) = (numbers(value, "f") for number, value in message if number == 2)
    assert math.isnan(prompt[0])
    assert prompt[1:] == pytest.approx(told["prompt_logprobs"][1:])
    (topk,) = (dict(fields(value)) for number, value in message if number == 3)
    assert (topk[3], topk[4]) == (2, 3)
    assert numbers(topk[1], "i")[:2] == [0, 0]
    assert numbers(topk[2], "f")[:2] == [-99999.0, -99999.0]
    assert numbers(topk[1], "i")[2:] == [
        token for row in told["topk_prompt_logprobs"][1:] for token, _ in row
    ]


def test_what_is_no_sample_stays_json(client):
    run = client.model()
    request = client.post("save_weights", {"model_id": run, "path": "a"}).json
    answer = client.post("retrieve_future", request, accept="application/x-protobuf")
    assert answer.json["path"].endswith("/weights/a")


def test_a_large_result_may_be_announced_first(client, sampling_body, monkeypatch):
    request = client.post("asample", sampling_body(client.sampler())).json["request_id"]
    client.retrieve(request)
    monkeypatch.setattr("tinkex_local.wire.routes.INLINE", 10)
    body = {"request_id": request, "allow_metadata_only": True}
    announced = client.post("retrieve_future", body).json
    assert announced["status"] == "complete_metadata"
    whole = client.post("retrieve_future", body | {"allow_metadata_only": False})
    assert len(whole.body) == announced["response_payload_size"]


def test_a_fresh_checkpoint_samples_as_its_base_model(client, sampling_body):
    path = client.saved(client.model())
    outcomes = [
        client.result("asample", sampling_body(client.sampler(**target)))
        for target in ({"base_model": BASE_MODEL}, {"model_path": path})
    ]
    assert outcomes[0] == outcomes[1]


def test_a_trained_adapter_is_refused_not_ignored(client, app, sampling_body):
    sampler = client.sampler(model_path=client.saved(client.model()))
    (directory,) = app.service.checkpoints.iterdir()
    tensors = load_file(directory / TENSORS)
    name = next(name for name in tensors if ".lora_B." in name)
    tensors[name][0, 0] = 1
    save_file(tensors, directory / TENSORS)
    outcome = client.result("asample", sampling_body(sampler))
    assert outcome["category"] == "user"
    assert "cannot apply" in outcome["error"]


def test_an_unnamed_save_goes_straight_into_a_sampler(client, sampling_body):
    run = client.model()
    body = {"model_id": run, "sampling_session_seq_id": 4, "seq_id": 1}
    saved = client.result("save_weights_for_sampler", body)
    assert saved["path"] is None
    sampler = saved["sampling_session_id"]
    assert client.get(f"samplers/{sampler}").json["base_model"] == BASE_MODEL
    assert client.result("asample", sampling_body(sampler))["sequences"]
    assert client.get("checkpoints").json["checkpoints"] == []


def test_a_taken_sampler_number_fails_and_leaves_no_files(client, app):
    session = client.session()
    body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": BASE_MODEL}
    assert client.post("create_sampling_session", body).status == 200
    run = client.model(session)
    save = {"model_id": run, "sampling_session_seq_id": 0, "seq_id": 1}
    assert client.result("save_weights_for_sampler", save)["category"] == "user"
    assert list(app.service.checkpoints.iterdir()) == []


def test_a_sampler_tells_what_it_samples(client):
    path = client.saved(client.model())
    sampler = client.sampler(model_path=path)
    assert client.get(f"samplers/{sampler}").json == {
        "sampler_id": sampler,
        "base_model": BASE_MODEL,
        "model_path": path,
    }


def test_sampling_from_a_deleted_checkpoint_fails_in_words(client, sampling_body):
    path = client.saved(client.model())
    sampler = client.sampler(model_path=path)
    client.delete(f"training_runs/{path[9:].replace('/s', '/checkpoints/s', 1)}")
    outcome = client.result("asample", sampling_body(sampler))
    assert "no longer exists" in outcome["error"]


def test_sampling_works_without_a_session(client, sampling_body):
    body = sampling_body("x") | {"base_model": BASE_MODEL}
    del body["sampling_session_id"], body["seq_id"]
    assert client.result("asample", body)["sequences"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": [1] * 1024}, "The prompt has 1024 tokens"),
        ({"tokens": [2048]}, "Token 2048 is outside the vocabulary"),
        ({"tokens": []}, "The prompt is empty"),
        ({"prompt": {"chunks": [{"type": "image", "data": "", "format": "png"}]}}, "encoded_text"),
        ({"params": {"stop": [""]}}, "stop string"),
        ({"topk_sample_logprobs": 2}, "does not offer"),
        ({"sampling_session_id": "nope"}, "Unknown sampling session"),
        ({"seq_id": None}, "seq_id is required"),
        ({"sampling_session_id": None}, "base_model or model_path"),
        ({"sampling_session_id": None, "base_model": "x"}, "Unknown base model"),
    ],
)
def test_what_cannot_be_sampled_is_refused_at_once(client, sampling_body, changes, words):
    answer = client.post("asample", sampling_body(client.sampler(), **changes))
    assert answer.status in (400, 404)
    assert words in answer.json["detail"]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": -0.1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -2},
        {"max_tokens": 0},
        {"seed": 2**63},
        {"stop": 3},
    ],
)
def test_numbers_out_of_range_are_422(client, sampling_body, params):
    assert client.post("asample", sampling_body(client.sampler(), params=params)).status == 422


def test_stop_takes_all_its_forms(client, sampling_body):
    sampler = client.sampler()
    free = client.result("asample", sampling_body(sampler))["sequences"][0]["tokens"]
    for seq, stop in enumerate(([free[2]], [free[2], "zzz"]), start=1):
        outcome = client.result("asample", sampling_body(sampler, seq, params={"stop": stop}))
        assert outcome["sequences"][0]["tokens"] == free[: free.index(free[2]) + 1]
        assert outcome["sequences"][0]["stop_reason"] == "stop"


def test_without_max_tokens_the_context_is_the_limit(client, sampling_body):
    for params in ({"max_tokens": None}, {"max_tokens": 10**6}):
        body = sampling_body(client.sampler(), tokens=[500] * 1000, params=params)
        (sequence,) = client.result("asample", body)["sequences"]
        assert len(sequence["tokens"]) == 24 or sequence["stop_reason"] == "stop"


def test_a_repeated_submission_is_the_same_request(client, sampling_body):
    sampler = client.sampler()
    first = client.post("asample", sampling_body(sampler, 0)).json
    assert client.post("asample", sampling_body(sampler, 0)).json == first
    assert client.post("asample", sampling_body(sampler, 0, params={"seed": 1})).status == 409
    session = sampler.partition(":")[0]
    body = {"session_id": session, "sampling_session_seq_id": 0, "base_model": BASE_MODEL}
    assert client.post("create_sampling_session", body).json["sampling_session_id"] == sampler
    other = body | {"model_path": client.saved(client.model())}
    assert client.post("create_sampling_session", other).status == 409


def test_too_many_unfetched_requests_are_told_to_wait(client, sampling_body, monkeypatch):
    monkeypatch.setattr("tinkex_local.state.sampling.MAX_PENDING", 1)
    sampler = client.sampler()
    first = client.post("asample", sampling_body(sampler, 0)).json
    assert client.post("asample", sampling_body(sampler, 1)).status == 429
    client.retrieve(first["request_id"])
    assert client.post("asample", sampling_body(sampler, 1)).status == 200


# Long polls


@pytest.fixture
def slow(monkeypatch):
    """Let polls and turns be so short that one request takes several."""
    monkeypatch.setattr(runners, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(runners, "TURN_SECONDS", 0.01)


def test_a_long_request_is_finished_over_several_polls(client, sampling_body, slow):
    body = sampling_body(client.sampler(), params={"max_tokens": 900}, num_samples=2)
    request = {"request_id": client.post("asample", body).json["request_id"]}
    told = client.post("retrieve_future", request).json
    assert told["type"] == "try_again"
    assert told["queue_state"] == "active"
    assert client.retrieve(request["request_id"])["sequences"]


def test_half_finished_work_is_done_again_by_another_process(home, client, client_of, slow):
    sampler = client.sampler()
    params = {"max_tokens": 500}
    chunk = {"type": "encoded_text", "tokens": [500]}
    body = {
        "sampling_session_id": sampler,
        "seq_id": 0,
        "prompt": {"chunks": [chunk]},
        "sampling_params": params,
    }
    request = client.post("asample", body).json["request_id"]
    client.post("retrieve_future", {"request_id": request})
    other = create_app(home, clock=client.app.service.clock)
    try:
        result = client_of(other).retrieve(request)
    finally:
        other.close()
    assert client.retrieve(request) == result


def test_requests_at_once_are_all_answered_and_do_not_disturb_each_other(
    client, sampling_body, monkeypatch
):
    monkeypatch.setattr(runners, "MAX_JOBS", 2)
    monkeypatch.setattr(runners, "TURN_SECONDS", 0.005)
    sampler = client.sampler()
    bodies = [sampling_body(sampler, seq, params={"max_tokens": 60}) for seq in range(6)]
    requests = [client.post("asample", body).json["request_id"] for body in bodies]
    results = {}

    def poll(request):
        results[request] = client.retrieve(request)

    threads = [threading.Thread(target=poll, args=(request,)) for request in requests * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert len({str(result) for result in results.values()}) == 1  # one seed


def test_a_poll_that_waits_for_room_does_what_is_before_it(client, sampling_body, monkeypatch):
    """The poll that would go on with it may be waiting for a thread of the server."""
    monkeypatch.setattr(runners, "MAX_JOBS", 1)
    monkeypatch.setattr(runners, "POLL_SECONDS", 0.0)
    sampler = client.sampler()
    long, short = (
        client.post("asample", sampling_body(sampler, seq, params=params, **more)).json
        for seq, params, more in (
            (0, {"max_tokens": 100}, {}),
            (1, {"max_tokens": 2}, {}),
        )
    )
    request = {"request_id": long["request_id"]}
    assert client.post("retrieve_future", request).json["queue_state"] == "active"
    monkeypatch.setattr(runners, "POLL_SECONDS", 10_000.0)
    request = {"request_id": short["request_id"]}
    assert client.post("retrieve_future", request).json["type"] == "sample"
    monkeypatch.setattr(runners, "POLL_SECONDS", 0.0)
    request = {"request_id": long["request_id"]}
    assert client.post("retrieve_future", request).json["type"] == "sample"


def test_more_polls_than_threads_should_hold_are_short(client, sampling_body, monkeypatch):
    monkeypatch.setattr(runners, "MAX_POLLS", 1)
    monkeypatch.setattr(runners, "CROWDED_SECONDS", 0.1)
    monkeypatch.setattr(runners, "POLL_SECONDS", 10_000.0)
    computing = threading.Event()
    turn = runners.Runner._take_turn
    monkeypatch.setattr(runners.Runner, "_take_turn", lambda *a: computing.set() or turn(*a))
    body = sampling_body(client.sampler(), params={"max_tokens": 900}, num_samples=50)
    request = {"request_id": client.post("asample", body).json["request_id"]}
    first = threading.Thread(target=client.post, args=("retrieve_future", request))
    first.start()
    assert computing.wait(60)
    assert client.post("retrieve_future", request).json["type"] == "try_again"
    assert first.is_alive()
    client.app.service.stopping.set()
    first.join(60)


def test_the_sdk_is_told_how_many_results_it_may_wait_for(client):
    assert client.post("client/config").json["sample_max_concurrent_requests"] < runners.MAX_POLLS
    assert runners.MAX_POLLS < THREADS < CONNECTIONS


def test_polls_end_when_the_service_stops(client, sampling_body, monkeypatch):
    monkeypatch.setattr(runners, "POLL_SECONDS", 10_000.0)
    body = sampling_body(client.sampler(), params={"max_tokens": 900}, num_samples=50)
    request = client.post("asample", body).json["request_id"]
    threading.Timer(0.3, client.app.service.stopping.set).start()
    told = client.post("retrieve_future", {"request_id": request}).json
    assert told["type"] == "try_again"


def test_a_broken_engine_fails_the_request_once_and_for_all(client, sampling_body, monkeypatch):
    class Broken:
        def sample(self, model, spec):
            raise ZeroDivisionError
            yield

    monkeypatch.setattr("tinkex_local.engines.runner.load", lambda name: Broken())
    request = client.post("asample", sampling_body(client.sampler())).json["request_id"]
    for _ in range(2):
        outcome = client.retrieve(request)
        assert outcome == {"error": "Internal error", "category": "server"}


def test_an_engine_that_is_not_installed_is_named(client, sampling_body, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    monkeypatch.delitem(sys.modules, "tinkex_local.engines.onnx", raising=False)
    request = client.post("asample", sampling_body(client.sampler())).json["request_id"]
    outcome = client.retrieve(request)
    assert outcome["category"] == "server"
    assert "the engine onnx cannot be loaded" in outcome["error"]
    assert "onnxruntime_genai" in outcome["error"]
