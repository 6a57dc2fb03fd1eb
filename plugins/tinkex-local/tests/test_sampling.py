"""Sampling through the protocol: submitted, polled, returned as JSON and protobuf."""

import json
import re
import struct
import sys
import threading

import pytest
from safetensors.numpy import load_file, save_file

from tinkex.api.http.protobuf import sample_response
from tinkex_local.engines import runner as runners
from tinkex_local.engines.onnx import OnnxEngine
from tinkex_local.serve import CONNECTIONS, THREADS
from tinkex_local.state.adapter import TENSORS

BASE_MODEL = "tinkex/baker-street-2M"


@pytest.fixture
def submit(client, sampling_body):
    """Return a function that submits a request to a new sampler, or to one; it returns the id."""

    def submit(seq=0, sampler=None, **changes):
        body = sampling_body(sampler or client.sampler(), seq, **changes)
        return client.post("asample", body).json["request_id"]

    return submit


@pytest.fixture
def poll(client):
    return lambda request: client.post("retrieve_future", {"request_id": request}).json


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


def test_one_seed_one_result_without_a_seed_many(client, submit):
    sampler = client.sampler()

    def tokens(seq, **params):
        return client.retrieve(submit(seq, sampler, params=params))["sequences"][0]["tokens"]

    assert tokens(0) == tokens(1)
    assert tokens(2, seed=None) != tokens(3, seed=None)


def single(text):
    """Return the number in *text* as four bytes can hold it."""
    return struct.unpack("<f", struct.pack("<f", float(text)))[0]


def test_protobuf_says_the_same_as_json(client, submit):
    request = submit(
        num_samples=2, prompt_logprobs=True, topk_prompt_logprobs=2, topk_sample_logprobs=3
    )
    result = json.loads(json.dumps(client.retrieve(request)), parse_float=single)
    accept = "application/x-protobuf, application/json"
    answer = client.post("retrieve_future", {"request_id": request}, accept=accept)
    assert answer.headers["content-type"] == "application/x-protobuf"
    assert sample_response(answer.body) == result
    for sequence in result["sequences"]:
        assert [len(row) for row in sequence["topk_logprobs"]] == [3] * len(sequence["tokens"])
    # Other results stay JSON.
    request = client.post("save_weights", {"model_id": client.model(), "path": "a"}).json
    answer = client.post("retrieve_future", request, accept="application/x-protobuf")
    assert answer.json["path"].endswith("/weights/a")


def test_a_large_result_may_be_announced_first(client, submit, monkeypatch):
    request = submit()
    client.retrieve(request)
    monkeypatch.setattr("tinkex_local.wire.routes.INLINE", 10)
    body = {"request_id": request, "allow_metadata_only": True}
    announced = client.post("retrieve_future", body).json
    assert announced["status"] == "complete_metadata"
    whole = client.post("retrieve_future", body | {"allow_metadata_only": False})
    assert len(whole.body) == announced["response_payload_size"]


def test_a_fresh_checkpoint_samples_as_its_base_model(client, submit):
    path = client.saved(client.model())
    sampler = client.sampler(model_path=path)
    shown = {"sampler_id": sampler, "base_model": BASE_MODEL, "model_path": path}
    assert client.get(f"samplers/{sampler}").json == shown
    assert client.retrieve(submit(sampler=sampler)) == client.retrieve(submit())


def test_a_trained_adapter_is_refused_not_ignored(client, app, submit):
    sampler = client.sampler(model_path=client.saved(client.model()))
    (directory,) = app.service.checkpoints.iterdir()
    tensors = load_file(directory / TENSORS)
    name = next(name for name in tensors if ".lora_B." in name)
    tensors[name][0, 0] = 1
    save_file(tensors, directory / TENSORS)
    outcome = client.retrieve(submit(sampler=sampler))
    assert (outcome["category"], "cannot apply" in outcome["error"]) == ("user", True)


def test_an_unnamed_save_goes_straight_into_a_sampler(client, app, submit):
    run = client.model()
    body = {"model_id": run, "sampling_session_seq_id": 4, "seq_id": 1}
    saved = client.result("save_weights_for_sampler", body)
    assert saved["path"] is None
    sampler = saved["sampling_session_id"]
    assert client.get(f"samplers/{sampler}").json["base_model"] == BASE_MODEL
    assert client.retrieve(submit(sampler=sampler))["sequences"]
    assert client.checkpoints() == []
    # A taken number fails and leaves no files.
    again = client.result("save_weights_for_sampler", {**body, "seq_id": 2})
    assert again["category"] == "user"
    assert len(list(app.service.checkpoints.iterdir())) == 1


def test_sampling_from_a_deleted_checkpoint_fails_in_words(client, submit):
    path = client.saved(client.model())
    sampler = client.sampler(model_path=path)
    client.delete(f"training_runs/{path[9:].replace('/s', '/checkpoints/s', 1)}")
    assert "no longer exists" in client.retrieve(submit(sampler=sampler))["error"]


def test_sampling_works_without_a_session(client, sampling_body):
    body = sampling_body("x") | {"base_model": BASE_MODEL}
    del body["sampling_session_id"], body["seq_id"]
    assert client.result("asample", body)["sequences"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": [1] * 1024}, "The prompt has 1024 tokens"),
        ({"tokens": [2048]}, "Token 2048 is outside the model's vocabulary"),
        ({"tokens": []}, "The prompt is empty"),
        ({"prompt": {"chunks": [{"type": "image", "data": "", "format": "png"}]}}, "encoded_text"),
        ({"params": {"stop": [""]}}, "stop string"),
        ({"prompt_alt_tokens_k": 2}, "does not support"),
        ({"sampling_session_id": "nope"}, "Unknown sampling session"),
        ({"seq_id": None}, "seq_id is required"),
        ({"sampling_session_id": None}, "base_model or model_path"),
        ({"sampling_session_id": None, "base_model": "x"}, "Unknown base model"),
        *(
            ({"params": {name: value}}, None)
            for name, value in (
                *(("temperature", -0.1), ("top_p", 0), ("top_p", 1.1), ("top_k", -2)),
                *(("max_tokens", 0), ("seed", 2**63), ("stop", 3)),
            )
        ),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_once(client, sampling_body, changes, words):
    answer = client.post("asample", sampling_body(client.sampler(), **changes))
    if words is None:
        assert answer.status == 422
    else:
        assert answer.status in (400, 404)
        assert words in answer.json["detail"]


def test_stop_takes_all_its_forms(client, submit):
    sampler = client.sampler()
    free = client.retrieve(submit(0, sampler))["sequences"][0]["tokens"]
    for seq, stop in enumerate(([free[2]], [free[2], "zzz"]), start=1):
        (ended,) = client.retrieve(submit(seq, sampler, params={"stop": stop}))["sequences"]
        assert ended["tokens"] == free[: free.index(free[2]) + 1]
        assert ended["stop_reason"] == "stop"


@pytest.mark.parametrize("limit", [None, 10**6])
def test_the_context_is_the_limit(client, submit, limit):
    request = submit(tokens=[500] * 1000, params={"max_tokens": limit})
    (sequence,) = client.retrieve(request)["sequences"]
    assert len(sequence["tokens"]) == 24 or sequence["stop_reason"] == "stop"


def test_a_repeated_submission_is_the_same_request(client, sampling_body):
    sampler = client.sampler()
    first = client.post("asample", sampling_body(sampler, 0)).json
    assert client.post("asample", sampling_body(sampler, 0)).json == first
    assert client.post("asample", sampling_body(sampler, 0, params={"seed": 1})).status == 409
    session = sampler.partition(":")[0]
    assert client.sampler(0, session) == sampler
    body = {"session_id": session, "sampling_session_seq_id": 0}
    other = body | {"model_path": client.saved(client.model())}
    assert client.post("create_sampling_session", other).status == 409


def test_too_many_unfetched_requests_have_to_wait(client, sampling_body, monkeypatch):
    monkeypatch.setattr("tinkex_local.state.sampling.MAX_PENDING", 1)
    sampler = client.sampler()
    first = client.post("asample", sampling_body(sampler, 0)).json
    assert client.post("asample", sampling_body(sampler, 1)).status == 429
    client.retrieve(first["request_id"])
    assert client.post("asample", sampling_body(sampler, 1)).status == 200


# Long polls

#: More than any poll of these tests can compute.
ENDLESS = {"params": {"max_tokens": 900}, "num_samples": 50}


def limit(monkeypatch, **constants):
    for name, value in constants.items():
        monkeypatch.setattr(runners, name, value)


def test_a_long_request_is_finished_over_several_polls_or_by_another_process(
    client, opened, submit, poll, monkeypatch
):
    limit(monkeypatch, POLL_SECONDS=0.05, TURN_SECONDS=0.01)
    request = submit(params={"max_tokens": 900}, num_samples=2)
    outcome = poll(request)
    assert (outcome["type"], outcome["queue_state"]) == ("try_again", "active")
    result = opened().retrieve(request)  # from the start, with the same seed
    assert result["sequences"]
    assert client.retrieve(request) == result


def test_concurrent_requests_are_all_answered_and_do_not_disturb_each_other(
    client, submit, monkeypatch
):
    limit(monkeypatch, MAX_JOBS=2, TURN_SECONDS=0.005)
    sampler = client.sampler()
    requests = [submit(seq, sampler, params={"max_tokens": 60}) for seq in range(6)]
    results = {}
    threads = [
        threading.Thread(target=lambda name=name: results.update({name: client.retrieve(name)}))
        for name in requests * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert len({str(result) for result in results.values()}) == 1  # one seed


def test_a_poll_that_waits_for_room_computes_the_request_before_it(
    client, submit, poll, monkeypatch
):
    """The poll for that request may be waiting for a thread of the server."""
    limit(monkeypatch, MAX_JOBS=1, POLL_SECONDS=0.0)
    sampler = client.sampler()
    long, short = (submit(n, sampler, params={"max_tokens": m}) for n, m in ((0, 100), (1, 2)))
    assert poll(long)["queue_state"] == "active"
    limit(monkeypatch, POLL_SECONDS=10_000.0)
    assert poll(short)["type"] == "sample"
    limit(monkeypatch, POLL_SECONDS=0.0)
    assert poll(long)["type"] == "sample"


def test_further_polls_are_short_and_all_end_when_the_service_stops(
    client, submit, poll, monkeypatch
):
    limit(monkeypatch, MAX_POLLS=1, CROWDED_SECONDS=0.1, POLL_SECONDS=10_000.0)
    monkeypatch.setattr("tinkex_local.wire.routes.PATIENCE", "none")
    monkeypatch.setattr("tinkex_local.wire.routes.POLL_SECONDS", 10_000.0)
    computing = threading.Event()
    turn = runners.Runner._take_turn
    monkeypatch.setattr(runners.Runner, "_take_turn", lambda *a: computing.set() or turn(*a))
    request = submit(**ENDLESS)
    outcomes = []
    first = threading.Thread(target=lambda: outcomes.append(poll(request)))
    first.start()
    assert computing.wait(60)
    assert poll(request)["type"] == "try_again"
    assert first.is_alive()
    client.app.service.stopping.set()
    first.join(60)
    assert outcomes[0]["type"] == "try_again"


def test_the_sdk_learns_how_many_results_it_may_wait_for(client):
    assert client.post("client/config").json["sample_max_concurrent_requests"] < runners.MAX_POLLS
    assert runners.MAX_POLLS < THREADS < CONNECTIONS


def test_a_broken_engine_fails_the_request_once_and_for_all(client, submit, monkeypatch):
    def sample(self, model, spec):
        raise ZeroDivisionError
        yield

    monkeypatch.setattr(OnnxEngine, "sample", sample)
    request = submit()
    for _ in range(2):
        assert client.retrieve(request) == {"error": "Internal error", "category": "server"}


def test_an_engine_that_is_not_installed_is_named(client, submit, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    monkeypatch.delitem(sys.modules, "tinkex_local.engines.onnx", raising=False)
    outcome = client.retrieve(submit())
    assert outcome["category"] == "server"
    assert re.search("the engine onnx cannot be loaded.*onnxruntime_genai", outcome["error"])
