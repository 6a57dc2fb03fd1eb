"""The same calls against the dialects that servers are known to speak."""

from __future__ import annotations

import json

import pytest
import responses
from responses import matchers

from tinkex.exceptions import BadRequest, NotOffered, ServerError

API = "http://tinker.test/services/tinker-prod/api/v1"
SAMPLER = "tinker://r/sampler_weights/x"


@pytest.fixture
def web():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as web:
        yield web


@pytest.fixture
def client(connect):
    return connect()


#: Dialect → how it accepts, and what it answers while saving.
SAVING = {
    "hosted": {
        "status": 200,
        "session": "0a1b",
        "run": "0a1b:train:0",
        "accepted": {"request_id": "q-1"},
        "created": {"model_id": "0a1b:train:0", "type": "create_model"},
        "saved": "tinker://0a1b:train:0/sampler_weights/x",
    },
    "skyrl": {
        "status": 200,
        "session": "session_0a1b2c3d",
        "run": "model_21576abd",
        "accepted": {"request_id": "13", "future_id": "13", "status": "pending"},
        "created": {"model_id": "model_21576abd"},
        "saved": "tinker://model_21576abd/x",
    },
    "tuft": {
        "status": 202,
        "session": "5f0e",
        "run": "77aa",
        "accepted": {"request_id": "5a0d", "model_id": None},
        "created": {"model_id": "77aa", "type": None},
        "saved": "tinker://77aa/sampler_weights/x",
    },
}


@pytest.mark.parametrize("dialect", SAVING)
def test_saving(dialect, web, client):
    speech = SAVING[dialect]
    accepted = {"json": speech["accepted"], "status": speech["status"]}
    web.get(f"{API}/get_server_capabilities", json={"supported_models": [{"model_name": "m"}]})
    web.post(f"{API}/create_session", json={"session_id": speech["session"]}, status=201)
    web.post(f"{API}/create_model", **accepted)
    web.post(f"{API}/save_weights_for_sampler", **accepted)
    web.post(f"{API}/retrieve_future", json=speech["created"])
    web.post(f"{API}/retrieve_future", json={"path": speech["saved"], "type": None})
    web.post(f"{API}/sessions/{speech['session']}/finish", json={"detail": "Not Found"}, status=404)
    with client.create_lora_training_client("m") as training:
        saved = training.save_weights_for_sampler("x")
    assert saved.path == f"tinker://{speech['run']}/sampler_weights/x"
    polls = [c.request for c in web.calls if c.request.url.endswith("retrieve_future")]
    assert all(isinstance(json.loads(p.body)["request_id"], str) for p in polls)


@pytest.mark.parametrize(
    ("call", "method", "path", "status", "body", "error", "words"),
    [
        ("delete", "DELETE", "", 404, {"detail": "Not Found"}, NotOffered, "deleting checkpoints"),
        ("publish", "POST", "/publish", 404, {"detail": "Not Found"}, NotOffered, "publishing"),
        ("unpublish", "DELETE", "/publish", 405, {"detail": "Method Not Allowed"}, NotOffered, "unpub"),
        ("unpublish", "DELETE", "/publish", 400, {"detail": "Invalid checkpoint reference"}, NotOffered, "unpub"),
        ("unpublish", "DELETE", "/publish", 400, {"detail": "Not yours"}, BadRequest, "Not yours"),
        ("set_ttl", "PUT", "/ttl", 405, {"detail": "Method Not Allowed"}, NotOffered, "expiry"),
        ("publish", "POST", "/publish", 500, "Internal Server Error", ServerError, "Internal Server Error"),
    ],
)  # fmt: skip
def test_what_a_server_lacks_is_said(call, method, path, status, body, error, words, web, client):
    url = f"{API}/training_runs/r/checkpoints/sampler_weights/x{path}"
    answer = {"json": body} if isinstance(body, dict) else {"body": body}
    web.add(method, url, status=status, **answer)
    arguments = (3600,) if call == "set_ttl" else ()
    with pytest.raises(error, match=words):
        getattr(client.checkpoints, call)(SAMPLER, *arguments)


@pytest.mark.parametrize("expected", [{"ttl_seconds": None}, {"ttl_seconds": 3600}])
def test_an_expiry_is_removed_with_an_explicit_null(expected, web, client):
    matcher = matchers.json_params_matcher(expected)
    web.put(f"{API}/training_runs/r/checkpoints/sampler_weights/x/ttl", match=[matcher])
    client.checkpoints.set_ttl(SAMPLER, expected["ttl_seconds"])


def test_validation_errors_name_the_field(web, client):
    detail = [{"type": "missing", "loc": ["body", "tags"], "msg": "Field required", "input": {}}]
    web.post(f"{API}/create_session", json={"detail": detail}, status=422)
    with pytest.raises(BadRequest, match="tags: Field required"):
        client.sessions.create()


def test_sampling_where_results_lack_members(web, client):
    web.post(f"{API}/create_session", json={"session_id": "session_1"})
    web.post(f"{API}/create_sampling_session", json={"sampling_session_id": "sampling_1"})
    web.post(f"{API}/asample", json={"request_id": "14", "future_id": "14", "status": "pending"})
    sequences = [{"stop_reason": "stop", "tokens": [3], "logprobs": [-0.25]}]
    web.post(f"{API}/retrieve_future", json={"detail": "Timeout waiting for result"}, status=408)
    web.post(f"{API}/retrieve_future", json={"sequences": sequences, "prompt_logprobs": [-1, -2]})
    with client.create_sampling_client(base_model="any") as sampling:
        response = sampling.sample([1, 2, 3])
    assert response.as_dict() == {
        "sequences": [{"tokens": [3], "logprobs": [-0.25], "stop_reason": "stop"}],
        "prompt_logprobs": [None, -1.0, -2.0],
        "topk_prompt_logprobs": None,
        "type": "sample",
    }
