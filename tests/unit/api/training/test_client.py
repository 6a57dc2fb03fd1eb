"""Training clients: numbers of calls, saved checkpoints, and runs that continue from one."""

from __future__ import annotations

import pytest

from tests.unit.api.conftest import NEVER
from tinkex.exceptions import (
    BadRequest,
    ConnectionFailed,
    NotFound,
    OperationFailed,
    RateLimited,
    TimedOut,
    UsageError,
)

RUN = "r:train:0"
PATH = "tinker://r/weights/x"


@pytest.fixture
def service(server):
    server.on("POST", "create_session", {"session_id": "s-1"})
    server.on("POST", "session_heartbeat", {"type": "session_heartbeat"})
    server.on("POST", "create_model", {"request_id": "c", "model_id": RUN})
    server.on("POST", "save_weights_for_sampler", {"request_id": "w"})
    server.on("POST", "save_weights", {"request_id": "w"})
    server.on("POST", "load_weights", {"request_id": "l"})
    return server


def results(server, **by_id):
    """Let retrieve_future answer by request id."""

    def answer(seen):
        reply = by_id[seen.body["request_id"]]
        return reply if isinstance(reply, server.reply) else server.reply(reply)

    server.on("POST", "retrieve_future", answer)


@pytest.fixture
def training(service, client):
    """A training client of a service that accepts every name and reports no path."""
    results(service, c={}, w={"path": None})
    return client.create_lora_training_client("any", train_mlp=False, train_unembed=False)


def test_the_shape_is_sent_without_members_of_default_value(service, training):
    assert training.model_id == RUN  # which came with the acceptance
    (seen,) = service.requests("create_model")
    assert seen.body["lora_config"] == {"rank": 32, "train_mlp": False, "train_unembed": False}


@pytest.mark.parametrize(
    "bad", [{"rank": 0}, {"train_mlp": False, "train_attn": False, "train_unembed": False}]
)
def test_an_impossible_shape_is_refused_without_a_request(bad, service, client):
    with pytest.raises(UsageError):
        client.create_lora_training_client("any", **bad)
    assert not service.seen


def test_a_result_without_a_path_has_the_requested_name(training):
    assert training.save_state("final").path == f"tinker://{RUN}/weights/final"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\n"])
def test_an_impossible_name_is_refused_without_a_request(name, service, training):
    with pytest.raises(UsageError):
        training.save_weights_for_sampler(name)
    assert not service.requests("save_weights_for_sampler")


def test_a_checkpoint_is_continued_in_one_call(service, client):
    service.on("POST", "weights_info", {"base_model": "m", "is_lora": True, "lora_rank": 8})
    results(service, l={"model_id": "s-1:train:0"})
    training = client.create_training_client_from_checkpoint(PATH, optimizer=True)
    assert (training.model_id, training.base_model, training.lora_rank) == ("s-1:train:0", "m", 8)
    (load,) = service.requests("load_weights")
    assert load.body == {"path": PATH, "optimizer": True, "session_id": "s-1", "model_seq_id": 0}


@pytest.mark.parametrize(
    "refusal",
    [(400, "Missing model_id"), (422, [{"loc": ["body", "model_id"], "msg": "required"}])],
)
def test_a_server_that_loads_into_models_only_gets_two_calls(refusal, service, client):
    status, detail = refusal
    shape = {"lora_rank": 8, "train_mlp": False, "train_attn": True, "train_unembed": None}
    service.on("POST", "weights_info", {"base_model": "m", "is_lora": True, **shape})
    results(service, c={"model_id": RUN}, l={"type": "load_weights"})
    refused = service.reply({"detail": detail}, status)
    service.on("POST", "load_weights", refused, {"request_id": "l"})
    training = client.create_training_client_from_checkpoint(PATH)
    assert training.model_id == RUN
    created = service.requests("create_model")[0].body
    assert created["lora_config"] == {"rank": 8, "train_mlp": False}
    assert created["model_seq_id"] == 0
    loaded = service.requests("load_weights")[1].body
    assert loaded == {"model_id": RUN, "seq_id": 1, "path": PATH, "optimizer": False}


def test_saving_creates_session_model_and_checkpoint_and_finishes(service, client, waits):
    service.on("POST", "create_session", {"session_id": "s-1", "info_message": "Welcome."})
    service.on("POST", "sessions/s-1/finish", None)
    path = f"tinker://{RUN}/sampler_weights/final"
    again = {"type": "try_again", "request_id": "c", "queue_state": "paused_capacity"}
    created = {"model_id": RUN, "type": "create_model"}
    service.on("POST", "retrieve_future", again, created, {"path": path, "size_bytes": 1234})
    with client.create_lora_training_client("any", rank=8, seed=7) as training:
        saved = training.save_weights_for_sampler("final")
    assert (saved.model_id, saved.path) == (RUN, path)
    assert saved.response == {"path": path, "size_bytes": 1234}
    (session,) = service.requests("create_session")
    assert (session.body["tags"], session.body["user_metadata"]) == ([], {})
    (model,) = service.requests("create_model")
    assert model.body == {
        "session_id": "s-1",
        "model_seq_id": 0,
        "base_model": "any",
        "lora_config": {"rank": 8, "seed": 7},
    }
    (save,) = service.requests("save_weights_for_sampler")
    assert save.body == {"model_id": RUN, "seq_id": 1, "path": "final"}
    (finish,) = service.requests("sessions/s-1/finish")
    assert finish.body == {"reason": {"type": "success"}}
    assert [w.note for w in waits if w.note] == ["server: Welcome."]
    assert [w.queue_state for w in waits if w.queue_state] == ["paused_capacity"]


def test_a_strict_server_gets_metadata_of_texts_only(service, client):
    """hatchery answers 422 to null and to numbers, in create_session and in create_model."""
    results(service, c={})
    client.create_lora_training_client("any")
    client.create_lora_training_client("any", user_metadata={"team": "nlp"})
    sessions, models = service.requests("create_session"), service.requests("create_model")
    assert [seen.body["user_metadata"] for seen in sessions] == [{}, {"team": "nlp"}]
    assert [seen.body.get("user_metadata", {}) for seen in models] == [{}, {"team": "nlp"}]
    with pytest.raises(UsageError, match="value of 'step' in user_metadata must be a string"):
        client.create_lora_training_client("any", user_metadata={"step": 1})
    assert len(service.requests("create_session")) == 2


# ------------------------------------------------------------------ runs that are left behind


REFUSED = {"error": "name is taken", "category": "user"}


@pytest.mark.parametrize("can_finish", [True, False])
def test_a_refused_save_frees_the_place_of_its_run(can_finish, service, client):
    """Where sessions end only by idling: on SkyRL the ninth save in five minutes fails."""
    if can_finish:
        service.on("POST", "sessions/s-1/finish", None)
    results(service, c={}, w=REFUSED)
    with (
        pytest.raises(OperationFailed) as caught,
        client.create_lora_training_client("any") as training,
    ):
        training.save_weights_for_sampler("x")
    unloaded = [seen.body for seen in service.requests("unload_model")]
    assert unloaded == ([] if can_finish else [{"model_id": RUN}])
    assert caught.value.aftermath == f"The training run {RUN} was created and has no checkpoint."


def test_a_run_that_may_have_a_checkpoint_is_never_unloaded(service, client, naps):
    service.on("POST", "retrieve_future", {}, {"path": None}, REFUSED)
    training = client.create_lora_training_client("any")
    training.save_state("one")
    with pytest.raises(OperationFailed) as caught, training:
        training.save_state("two")
    assert caught.value.aftermath is None
    results(service, c={}, w=service.reply(reset=True))
    training = client.create_lora_training_client("any")
    with pytest.raises(ConnectionFailed) as lost:
        training.save_state("lost")
    results(service, w=REFUSED)
    with pytest.raises(OperationFailed) as caught, training:
        training.save_state("again")
    left = f"The training run {RUN} was created and may have no checkpoint."
    assert [lost.value.aftermath, caught.value.aftermath] == [left, left]
    assert service.requests("unload_model") == []


def test_a_checkpoint_that_cannot_be_loaded_frees_the_place_of_the_new_run(service, client):
    service.on("POST", "weights_info", {"base_model": "m", "is_lora": True})
    results(service, c={"model_id": RUN}, l={"error": "other shape", "category": "user"})
    refused = service.reply({"detail": "Missing model_id"}, 400)
    service.on("POST", "load_weights", refused, {"request_id": "l"})
    with pytest.raises(OperationFailed, match="other shape") as caught:
        client.create_training_client_from_checkpoint(PATH)
    assert [seen.body for seen in service.requests("unload_model")] == [{"model_id": RUN}]
    assert RUN in caught.value.aftermath


@pytest.mark.parametrize(
    ("accepted", "answer", "kind"),
    [
        (
            {"request_id": "c", "model_id": RUN},
            ({"detail": "Maximum number of LoRA adapters (8) reached"}, 400),
            OperationFailed,
        ),
        (({"error": "no free adapter slots (capacity 4)"}, 400), None, BadRequest),
        (({"detail": "Max 5 concurrent sessions"}, 429), None, RateLimited),
    ],
)
def test_a_full_server_is_called_full(accepted, answer, kind, service, client):
    """SkyRL, miles and hatchery; none of them is asked again."""
    reply = accepted if isinstance(accepted, dict) else service.reply(*accepted)
    service.on("POST", "create_model", reply)
    if answer:
        service.on("POST", "retrieve_future", service.reply(*answer))
    with pytest.raises(kind) as caught:
        client.create_lora_training_client("any")
    error = caught.value
    assert "Consider retrying: " in error.sentence("Checkpoint")
    assert error.hint.startswith("The server has no free capacity. Unload a run (POST ")
    assert bool(error.aftermath) is isinstance(accepted, dict)  # whose run stays in the list
    assert len(service.requests("create_model")) == 1


def test_an_interrupt_names_the_run_that_may_have_no_checkpoint(service, client, waits):
    results(service, c={})
    training = client.create_lora_training_client("any")
    with pytest.raises(KeyboardInterrupt), training:
        raise KeyboardInterrupt
    note = f"The training run {RUN} was created and may have no checkpoint."
    assert [wait.note for wait in waits if wait.note] == [note]
    assert service.requests("unload_model") == []


# ------------------------------------------------------------------ responses that are lost


@pytest.mark.parametrize("where", ["save_weights_for_sampler", "retrieve_future"])
def test_a_save_whose_response_is_lost_is_looked_for_and_never_sent_again(
    where, service, client, waits
):
    row = {"checkpoint_id": "x", "tinker_path": f"tinker://{RUN}/sampler_weights/x"}
    service.on("GET", f"training_runs/{RUN}/checkpoints", {"checkpoints": [row]})
    results(service, c={})
    lost = [service.reply(reset=True), service.reply({"detail": "Promise expired"}, 410)]
    with client.create_lora_training_client("any") as training:
        service.on("POST", where, lost[where == "retrieve_future"])
        assert training.save_weights_for_sampler("x").path == row["tinker_path"]
        for name in ("y", "x"):  # an earlier checkpoint proves nothing
            with pytest.raises((ConnectionFailed, NotFound)):
                training.save_weights_for_sampler(name)
    numbers = [seen.body["seq_id"] for seen in service.requests("save_weights_for_sampler")]
    assert numbers == ([1, 2, 3] if where == "retrieve_future" else [1, 2, 2])
    note = "The response was lost, but the checkpoint was saved: the server lists it."
    assert note in [w.note for w in waits]


def test_a_run_whose_creation_is_not_answered_is_created_once(service, connect):
    """hatchery works for minutes inside the POST."""
    service.on("POST", "create_model", service.reply({"request_id": "c"}, delay=NEVER))
    with pytest.raises(TimedOut) as caught:
        connect(service.url, timeout=1).create_lora_training_client("any")
    assert caught.value.aftermath.startswith("The server may have created the training run. ")
    assert len(service.requests("create_model")) == 1


@pytest.mark.parametrize(
    ("received", "path"),
    [
        ("tinker://r/x", "tinker://r/sampler_weights/x"),
        ("tinker://r/checkpoints/x", None),
        ("mint://r/sampler_weights/x.pt", None),
        ("twinkle://r/sampler_weights/20261130_120000", None),
        ("/var/models/x", None),
        (7, f"tinker://{RUN}/sampler_weights/x"),
    ],
)
def test_a_saved_checkpoint_keeps_the_path_that_the_server_gave_it(received, path, service, client):
    """A save that succeeded must not be lost for a path that this version cannot read."""
    results(service, c={}, w={"path": received})
    with client.create_lora_training_client("any") as training:
        assert training.save_weights_for_sampler("x").path == path or received
    service.on("POST", "copy_weights", {"tinker_path": str(received)})
    if path is None:
        assert client.checkpoints.copy(PATH) == received


def test_a_copy_that_takes_time_is_waited_for(service, client):
    service.on("POST", "copy_weights", {"request_id": "k"})
    results(service, k={"tinker_path": PATH})
    assert client.checkpoints.copy(PATH) == PATH


def described(path):
    """Return the part of an OpenAPI document about the names of checkpoints."""
    return {"schemas": {"SaveWeightsForSamplerRequest": {"properties": {"path": path}}}}


@pytest.mark.parametrize(
    "components",
    [
        *(None, [], {"schemas": []}, described(7), described({"anyOf": [None]})),
        described({"pattern": "(a+)+$"}),  # compared, and never run as a regular expression
    ],
)
def test_a_name_is_not_refused_by_a_description_that_says_nothing(components, service, client):
    service.on("GET", "/openapi.json", {"components": components})
    client.checkpoints.check_name("a.b")
    assert len(service.seen) == 1
