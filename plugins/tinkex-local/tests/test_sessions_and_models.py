"""Sessions, runs, sequence numbers, and what every request has in common."""

import pytest

BASE_MODEL = "tinkex/baker-street-2M"


def test_basics_answer_as_the_protocol_says(client):
    assert client.get("healthz").json == {"status": "ok"}
    assert client.post("client/config").json["pjwt_auth_enabled"] is False
    assert client.post("telemetry", {"events": [1]}).json == {"status": "accepted"}
    (model,) = client.get("get_server_capabilities").json["supported_models"]
    assert model["model_name"] == BASE_MODEL
    assert model["max_context_length"] == 1024


@pytest.mark.parametrize("target", ["nope", "client/dynamic_config", "/", "auth/apikey/me"])
def test_unknown_endpoints_are_404_with_a_detail(client, target):
    for method in ("GET", "POST", "DELETE"):
        answer = client.request(method, target)
        assert (answer.status, answer.json) == (404, {"detail": "Not Found"})


def test_a_wrong_method_is_405(client):
    assert client.get("create_session").status == 405


def test_every_answer_has_its_own_request_id(client):
    ids = {client.get(target).headers["X-Request-ID"] for target in ("healthz", "nope", "healthz")}
    assert len(ids) == 3


def test_a_session_lives_and_ends(client):
    session = client.session()
    assert client.post("session_heartbeat", {"session_id": session}).json == {
        "type": "session_heartbeat"
    }
    assert client.get("sessions").json == {"sessions": [session]}
    finished = client.post(f"sessions/{session}/finish", {"reason": {"type": "success"}})
    assert (finished.status, finished.body) == (204, b"")
    assert client.post("session_heartbeat", {"session_id": session}).status == 410
    refused = client.post(
        "create_model", {"session_id": session, "model_seq_id": 0, "base_model": BASE_MODEL}
    )
    assert refused.status == 400


def test_sessions_are_listed_newest_first_in_pages(client, clock):
    sessions = []
    for _ in range(3):
        clock.now += 1
        sessions.append(client.session())
    assert client.get("sessions?limit=2&offset=1").json == {"sessions": [sessions[1], sessions[0]]}


def test_a_session_knows_its_runs_samplers_and_metadata(client):
    body = {"tags": [], "sdk_version": "0", "user_metadata": {"a": "b"}, "display_name": "d"}
    session = client.post("create_session", body).json["session_id"]
    run = client.model(session)
    sampler = client.post(
        "create_sampling_session",
        {"session_id": session, "sampling_session_seq_id": 3, "base_model": BASE_MODEL},
    ).json["sampling_session_id"]
    assert client.get(f"sessions/{session}").json == {
        "training_run_ids": [run],
        "sampler_ids": [sampler],
        "user_metadata": {"a": "b"},
        "display_name": "d",
    }


def test_a_run_is_shown_with_its_latest_checkpoints(client, clock):
    run = client.model(rank=8)
    info = client.get(f"training_runs/{run}").json
    assert info["training_run_id"] == run
    assert run.endswith(":train:0")
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


def test_runs_are_listed_newest_first_with_a_cursor(client, clock):
    runs = []
    for _ in range(3):
        clock.now += 1
        runs.append(client.model())
    page = client.get("training_runs?limit=2&offset=1").json
    assert [run["training_run_id"] for run in page["training_runs"]] == [runs[1], runs[0]]
    assert page["cursor"] == {"offset": 1, "limit": 2, "total_count": 3}


def test_get_info_tells_model_and_tokenizer(client):
    run = client.model(rank=16)
    info = client.post("get_info", {"model_id": run}).json
    assert info["model_data"]["model_name"] == BASE_MODEL
    assert (info["is_lora"], info["lora_rank"]) == (True, 16)


def test_an_unloaded_model_can_be_neither_shown_nor_saved(client):
    run = client.model()
    assert client.result("unload_model", {"model_id": run})["model_id"] == run
    assert client.post("get_info", {"model_id": run}).status == 400
    assert client.post("save_weights", {"model_id": run, "path": "a"}).status == 400


def test_an_unknown_base_model_is_refused_naming_those_there_are(client):
    body = {"session_id": client.session(), "model_seq_id": 0, "base_model": "Other/Model"}
    answer = client.post("create_model", body)
    assert answer.status == 400
    assert "Other/Model" in answer.json["detail"]
    assert BASE_MODEL in answer.json["detail"]


@pytest.mark.parametrize("rank", [0, -1, 257, 1.5, "8", True])
def test_a_senseless_rank_is_refused(client, rank):
    body = {
        "session_id": client.session(),
        "model_seq_id": 0,
        "base_model": BASE_MODEL,
        "lora_config": {"rank": rank},
    }
    answer = client.post("create_model", body)
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["body", "lora_config", "rank"]


def test_an_adapter_of_nothing_fails_as_an_operation(client):
    lora = {"train_attn": False, "train_mlp": False, "train_unembed": False}
    body = {
        "session_id": client.session(),
        "model_seq_id": 0,
        "base_model": BASE_MODEL,
        "lora_config": lora,
    }
    outcome = client.result("create_model", body)
    assert outcome["category"] == "user"
    assert "trains nothing" in outcome["error"]


@pytest.mark.parametrize("call", ["forward", "forward_backward", "optim_step"])
def test_training_is_refused_in_words(client, call):
    answer = client.post(call, {"model_id": "x"})
    assert answer.status == 400
    assert "does not train" in answer.json["detail"]


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("session_heartbeat", {"session_id": "nope"}),
        ("get_info", {"model_id": "nope"}),
        ("unload_model", {"model_id": "nope"}),
        ("save_weights", {"model_id": "nope", "path": "a"}),
        ("save_weights_for_sampler", {"model_id": "nope", "path": "a"}),
        ("save_weights_external", {"model_id": "nope", "path": "a"}),
        ("retrieve_future", {"request_id": "nope"}),
        ("weights_info", {"tinker_path": "tinker://nope/weights/a"}),
        ("load_weights", {"path": "tinker://nope/weights/a", "optimizer": False, "model_id": "n"}),
        ("create_model", {"session_id": "nope", "model_seq_id": 0, "base_model": BASE_MODEL}),
        (
            "create_sampling_session",
            {"session_id": "nope", "sampling_session_seq_id": 0, "base_model": BASE_MODEL},
        ),
    ],
)
def test_what_is_not_there_is_404_and_named(client, call, body):
    answer = client.post(call, body)
    assert answer.status == 404
    assert answer.json["detail"].startswith("Unknown ")


@pytest.mark.parametrize(
    "target",
    ["sessions/nope", "samplers/nope", "training_runs/nope", "training_runs/x/checkpoints"],
)
def test_pages_of_what_is_not_there_are_404(client, target):
    assert client.get(target).json["detail"].startswith("Unknown ")


# Sequence numbers


def test_the_same_request_twice_gets_the_first_id(client):
    session = client.session()
    body = {"session_id": session, "model_seq_id": 0, "base_model": BASE_MODEL}
    first = client.post("create_model", body).json
    assert client.post("create_model", body).json == first
    save = {"model_id": first["model_id"], "path": "a", "seq_id": 1}
    once, again = (client.post("save_weights", save).json for _ in range(2))
    assert once["request_id"] == again["request_id"]
    assert len(client.get("checkpoints").json["checkpoints"]) == 1


def test_a_number_used_otherwise_is_a_conflict_that_is_not_to_be_retried(client):
    run = client.model()
    client.saved(run, "weights", "a", seq_id=1)
    answer = client.post("save_weights", {"model_id": run, "path": "b", "seq_id": 1})
    assert answer.status == 409
    assert answer.headers["X-Should-Retry"] == "false"


def test_numbers_may_have_gaps_but_not_go_back(client):
    run = client.model()
    client.saved(run, "weights", "a", seq_id=5)
    answer = client.post("save_weights", {"model_id": run, "path": "b", "seq_id": 4})
    assert answer.status == 409
    assert client.get("checkpoints").json["cursor"]["total_count"] == 1


def test_models_of_a_session_may_be_created_in_any_order(client):
    session = client.session()
    assert client.model(session, 1).endswith(":1")
    assert client.model(session, 0).endswith(":0")
