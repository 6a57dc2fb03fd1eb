"""Copies of checkpoints, and the scope of lists."""

import pytest


@pytest.fixture
def path(client):
    """The path of a checkpoint to be copied."""
    return client.saved(client.model(), "weights", "one", user_metadata={"note": 1})


def copy_body(client, path, **more):
    return {"source_path": path, "session_id": client.session(), "model_seq_id": 0, **more}


def test_a_copy_is_a_checkpoint_of_a_run_of_its_own(client, clock, path):
    body = copy_body(client, path, ttl_seconds=7200)
    copied = client.post("copy_weights", body).json["tinker_path"]
    assert copied == f"tinker://{body['session_id']}:train:0/weights/one"
    (original,) = (
        c for c in client.get("checkpoints").json["checkpoints"] if c["tinker_path"] == path
    )
    (found,) = (
        c for c in client.get("checkpoints").json["checkpoints"] if c["tinker_path"] == copied
    )
    assert found["size_bytes"] == original["size_bytes"]
    assert found["user_metadata"] == {"note": 1}
    assert (found["expires_at"] is None, original["expires_at"]) == (False, None)
    assert (
        client.delete(f"training_runs/{path.split('/')[2]}/checkpoints/weights/one").status == 204
    )
    info = client.post("weights_info", {"tinker_path": copied}).json
    assert info["lora_rank"] == 4


def test_asked_twice_it_is_copied_once(client, path):
    body = copy_body(client, path)
    assert client.post("copy_weights", body).json == client.post("copy_weights", body).json
    assert len(client.get("checkpoints").json["checkpoints"]) == 2
    other = client.post("copy_weights", {**body, "ttl_seconds": 7200})
    assert other.status == 409


def test_the_run_of_a_copy_takes_no_requests(client, path):
    run = client.post("copy_weights", copy_body(client, path)).json["tinker_path"].split("/")[2]
    refused = client.post("save_weights", {"model_id": run, "path": "x"})
    assert (refused.status, "unloaded" in refused.json["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"source_path": "tinker://none/weights/x"}, 404),
        ({"source_path": "nix"}, 400),
        ({"session_id": "none"}, 404),
        ({"session_id": None}, 400),
        ({"model_seq_id": None}, 400),
        ({"destination_project_id": "p"}, 400),
        ({"ttl_seconds": 3599}, 422),
        ({"source_path": 3}, 422),
    ],
)
def test_copies_that_cannot_be(client, path, change, status):
    answer = client.post("copy_weights", copy_body(client, path) | change)
    assert answer.status == status, answer.body
    assert len(client.get("checkpoints").json["checkpoints"]) == 1


@pytest.mark.parametrize("scope", ["owned", "accessible"])
def test_both_scopes_are_all_there_is(client, path, scope):
    assert len(client.get(f"checkpoints?access_scope={scope}").json["checkpoints"]) == 1
    assert len(client.get(f"training_runs?access_scope={scope}").json["training_runs"]) == 1


@pytest.mark.parametrize("target", ["checkpoints", "training_runs", "training_runs/x"])
def test_another_scope_is_422(client, target):
    assert client.get(f"{target}?access_scope=mine").status == 422
