"""Sessions, runs, sequence numbers, and what every request has in common."""

import pytest

BASE_MODEL = "tinkex/baker-street-2M"


def model_body(session, **more):
    return {"session_id": session, "model_seq_id": 0, "base_model": BASE_MODEL, **more}


def test_basics_answer_as_the_protocol_says(client):
    assert client.get("healthz").json == {"status": "ok"}
    assert client.post("telemetry", {"events": [1]}).json == {"status": "accepted"}
    (model,) = client.get("get_server_capabilities").json["supported_models"]
    assert (model["model_name"], model["max_context_length"]) == (BASE_MODEL, 1024)
    ids = {client.get(target).headers["x-request-id"] for target in ("healthz", "nope", "healthz")}
    assert len(ids) == 3


@pytest.mark.parametrize("target", ["nope", "client/dynamic_config", "/", "auth/apikey/me"])
def test_unknown_endpoints_are_404_with_a_detail(client, target):
    for method in ("GET", "POST", "DELETE"):
        answer = client.request(method, target)
        assert (answer.status, answer.json) == (404, {"detail": "Not Found"})


def test_a_session_lives_and_ends(client):
    session = client.session()
    beat = client.post("session_heartbeat", {"session_id": session})
    assert beat.json == {"type": "session_heartbeat"}
    assert client.get("sessions").json == {"sessions": [session]}
    finished = client.post(f"sessions/{session}/finish", {"reason": {"type": "success"}})
    assert (finished.status, finished.body) == (204, b"")
    assert client.post("session_heartbeat", {"session_id": session}).status == 410
    assert client.post("create_model", model_body(session)).status == 400


def test_sessions_and_runs_are_listed_newest_first_in_pages(client, clock):
    sessions, runs = [], []
    for _ in range(3):
        clock.now += 1
        sessions.append(client.session())
        runs.append(client.model(sessions[-1]))
    assert client.get("sessions?limit=2&offset=1").json == {"sessions": [sessions[1], sessions[0]]}
    page = client.get("training_runs?limit=2&offset=1").json
    assert [run["training_run_id"] for run in page["training_runs"]] == [runs[1], runs[0]]
    assert page["cursor"] == {"offset": 1, "limit": 2, "total_count": 3}


def test_a_session_knows_its_runs_samplers_and_metadata(client):
    session = client.session(user_metadata={"a": "b"}, display_name="d")
    runs = [client.model(session, number) for number in (1, 0)]  # in any order
    sampler = client.sampler(3, session)
    assert client.get(f"sessions/{session}").json == {
        "training_run_ids": runs,
        "sampler_ids": [sampler],
        "user_metadata": {"a": "b"},
        "display_name": "d",
    }


def test_a_run_is_shown_with_its_latest_checkpoints(client, clock):
    run = client.model(rank=8)
    info = client.get(f"training_runs/{run}").json
    assert (info["training_run_id"], run.endswith(":train:0")) == (run, True)
    assert (info["base_model"], info["is_lora"], info["lora_rank"]) == (BASE_MODEL, True, 8)
    assert info["last_request_time"].endswith("Z")
    assert info["last_checkpoint"] is None
    client.saved(run, "weights", "one", seq_id=1)
    clock.now += 1
    client.saved(run, "weights", "two", seq_id=2)
    client.saved(run, "sampler_weights", "three", seq_id=3)
    info = client.get(f"training_runs/{run}").json
    assert info["last_checkpoint"]["checkpoint_id"] == "weights/two"
    assert info["last_sampler_checkpoint"]["checkpoint_id"] == "sampler_weights/three"


def test_a_model_is_described_until_it_is_unloaded(client):
    run = client.model(rank=16)
    info = client.post("get_info", {"model_id": run}).json
    assert info["model_data"]["model_name"] == BASE_MODEL
    assert (info["is_lora"], info["lora_rank"]) == (True, 16)
    assert client.result("unload_model", {"model_id": run})["model_id"] == run
    assert client.post("get_info", {"model_id": run}).status == 400
    assert client.post("save_weights", {"model_id": run, "path": "a"}).status == 400


def test_an_unknown_base_model_is_refused_naming_the_known_ones(client):
    answer = client.post("create_model", model_body(client.session(), base_model="Other/Model"))
    assert answer.status == 400
    assert "Other/Model" in answer.json["detail"]
    assert BASE_MODEL in answer.json["detail"]


@pytest.mark.parametrize("rank", [0, -1, 257, 1.5, "8", True])
def test_a_senseless_rank_is_refused(client, rank):
    answer = client.post("create_model", model_body("s", lora_config={"rank": rank}))
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["body", "lora_config", "rank"]


def test_an_adapter_of_nothing_fails_as_an_operation(client):
    lora = {"train_attn": False, "train_mlp": False, "train_unembed": False}
    outcome = client.result("create_model", model_body(client.session(), lora_config=lora))
    assert outcome["category"] == "user"
    assert "trains nothing" in outcome["error"]


SAVE = {"model_id": "nope", "path": "a"}


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("session_heartbeat", {"session_id": "nope"}),
        ("get_info", {"model_id": "nope"}),
        ("unload_model", {"model_id": "nope"}),
        ("save_weights", SAVE),
        ("save_weights_for_sampler", SAVE),
        ("save_weights_external", SAVE),
        ("retrieve_future", {"request_id": "nope"}),
        ("weights_info", {"tinker_path": "tinker://nope/weights/a"}),
        ("load_weights", {"path": "tinker://nope/weights/a", "optimizer": False, "model_id": "n"}),
        ("create_model", model_body("nope")),
        ("create_sampling_session", model_body("nope", sampling_session_seq_id=0)),
        ("sessions/nope", None),
        ("sessions/nope/trace_export", None),
        ("samplers/nope", None),
        ("training_runs/nope", None),
        ("training_runs/x/checkpoints", None),
    ],
)
def test_an_unknown_name_is_404_and_named(client, call, body):
    answer = client.get(call) if body is None else client.post(call, body)
    assert answer.status == 404
    assert answer.json["detail"].startswith("Unknown ")


# Sequence numbers


def test_the_same_request_twice_gets_the_first_id(client):
    body = model_body(client.session())
    first = client.post("create_model", body).json
    assert client.post("create_model", body).json == first
    save = {"model_id": first["model_id"], "path": "a", "seq_id": 1}
    once, again = (client.post("save_weights", save).json for _ in range(2))
    assert once["request_id"] == again["request_id"]
    assert len(client.checkpoints()) == 1


def test_a_number_may_leave_gaps_but_not_go_back_or_serve_twice(client):
    run = client.model()
    client.saved(run, "weights", "a", seq_id=5)
    for number in (4, 5):
        answer = client.post("save_weights", {"model_id": run, "path": "b", "seq_id": number})
        assert answer.status == 409
        assert answer.headers["x-should-retry"] == "false"
    assert len(client.checkpoints()) == 1
