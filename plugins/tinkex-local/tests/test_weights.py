"""Saving and loading: real PEFT adapters, whole or not at all."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinkex_local.state import checkpoints
from tinkex_local.state.models import built_in
from tinkex_local.state.paths import parse
from tinkex_local.state.reset import reset

BASE_MODEL = "tinkex/baker-street-2M"
PREFIX = "base_model.model.model.layers"


def directory(app, path: str) -> Path:
    row = checkpoints.find(app.service, parse(path))
    return app.service.checkpoints / row["id"]


def tensors(app, path: str):
    return load_file(directory(app, path) / "adapter_model.safetensors")


def config(app, path: str):
    return json.loads((directory(app, path) / "adapter_config.json").read_text())


def test_the_adapter_has_the_shapes_of_the_model(client, app):
    hf = json.loads((built_in(BASE_MODEL).directory / "config.json").read_text())
    hidden, wide = hf["hidden_size"], hf["intermediate_size"]
    queries = hf["num_attention_heads"] * hf["head_dim"]
    keys = hf["num_key_value_heads"] * hf["head_dim"]
    sizes = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }
    expected = {}
    for layer in range(hf["num_hidden_layers"]):
        for name, (inputs, outputs) in sizes.items():
            expected[f"{PREFIX}.{layer}.{name}.lora_A.weight"] = (6, inputs)
            expected[f"{PREFIX}.{layer}.{name}.lora_B.weight"] = (outputs, 6)
    expected["base_model.model.lm_head.lora_A.weight"] = (6, hidden)
    expected["base_model.model.lm_head.lora_B.weight"] = (hf["vocab_size"], 6)
    found = tensors(app, client.saved(client.model(rank=6)))
    assert {name: value.shape for name, value in found.items()} == expected
    assert all(value.dtype == np.float32 for value in found.values())


def test_the_first_factor_is_random_within_bounds_and_the_second_zero(client, app):
    for name, value in tensors(app, client.saved(client.model(rank=16))).items():
        if ".lora_B." in name:
            assert not value.any()
        else:
            bound = 1 / np.sqrt(value.shape[1])
            assert np.abs(value).max() <= bound
            assert value.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)


def test_the_seed_decides_the_numbers(client, app):
    def first(**lora):
        found = tensors(app, client.saved(client.model(**lora)))
        return found[f"{PREFIX}.0.self_attn.q_proj.lora_A.weight"]

    assert np.array_equal(first(seed=7), first(seed=7))
    assert not np.array_equal(first(seed=7), first(seed=8))
    assert np.isfinite(first(seed=-5)).all()
    assert not np.array_equal(first(seed=None), first(seed=None))


@pytest.mark.parametrize(
    ("flags", "modules"),
    [
        ({"train_mlp": False, "train_unembed": False}, ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ({"train_attn": False, "train_unembed": False}, ["down_proj", "gate_proj", "up_proj"]),
        ({"train_attn": False, "train_mlp": False}, ["lm_head"]),
    ],
)
def test_the_flags_decide_the_modules(client, app, flags, modules):
    path = client.saved(client.model(**flags))
    adapter = config(app, path)
    assert adapter["target_modules"] == modules
    assert (adapter["peft_type"], adapter["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (adapter["r"], adapter["base_model_name_or_path"]) == (4, BASE_MODEL)
    found = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors(app, path)}
    assert sorted(found) == modules
    info = client.post("weights_info", {"tinker_path": path}).json
    assert {name: info[name] for name in flags} == flags
    assert (info["base_model"], info["is_lora"], info["lora_rank"]) == (BASE_MODEL, True, 4)


@pytest.mark.parametrize(
    ("kind", "listed_as"),
    [("weights", "training"), ("sampler_weights", "sampler"), ("external_weights", "external")],
)
def test_each_kind_is_saved_under_its_path(client, kind, listed_as):
    run = client.model()
    path = client.saved(run, kind, "v1.0_x-y")
    assert path == f"tinker://{run}/{kind}/v1.0_x-y"
    (listed,) = client.get("checkpoints").json["checkpoints"]
    assert listed["checkpoint_id"] == f"{kind}/v1.0_x-y"
    assert (listed["tinker_path"], listed["checkpoint_type"]) == (path, listed_as)
    assert listed["size_bytes"] > 10_000
    assert (listed["public"], listed["expires_at"]) == (False, None)


def test_a_taken_name_fails_and_keeps_the_old_one(client, app):
    run = client.model()
    path = client.saved(run, "weights")
    before = directory(app, path)
    outcome = client.result("save_weights", {"model_id": run, "path": "a"})
    assert outcome["category"] == "user"
    assert path in outcome["error"]
    assert directory(app, path) == before
    assert [item.name for item in app.service.checkpoints.iterdir()] == [before.name]


def test_overwrite_replaces_a_checkpoint_and_its_files(client, app):
    run = client.model()
    path = client.saved(run, "weights")
    before = directory(app, path)
    assert client.saved(run, "weights", overwrite=True) == path
    assert directory(app, path) != before
    assert [item.name for item in app.service.checkpoints.iterdir()] == [directory(app, path).name]


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "ü", "a b", "x" * 201, "a\n"])
@pytest.mark.parametrize("call", ["save_weights", "save_weights_for_sampler"])
def test_a_name_that_is_no_name_is_refused(client, app, call, name):
    answer = client.post(call, {"model_id": client.model(), "path": name})
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["body", "path"]
    assert list(app.service.checkpoints.iterdir()) == []


@pytest.mark.parametrize("ttl", [3599, 10 * 365 * 86400 + 1, 0, -1, "3600"])
def test_a_lifetime_out_of_range_is_refused(client, ttl):
    body = {"model_id": client.model(), "path": "a", "ttl_seconds": ttl}
    assert client.post("save_weights", body).status == 422


def test_a_lifetime_given_when_saving_counts(client, clock):
    client.saved(client.model(), ttl_seconds=3600)
    assert client.get("checkpoints").json["cursor"]["total_count"] == 1
    clock.now += 3600
    assert client.get("checkpoints").json["cursor"]["total_count"] == 0


def test_an_encrypted_export_is_refused_not_done_in_clear(client):
    body = {"model_id": client.model(), "path": "a", "age_encryption_recipients": ["age1x"]}
    assert client.post("save_weights_external", body).status == 400


SAVE_WITH_LITTLE_ROOM = """
import json, resource, sys
from pathlib import Path
from tinkex_local.app import create_app
from tinkex_local.state import operations, weights
from tinkex_local.wire import bodies
service = create_app(Path(sys.argv[1])).service
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
answer = weights.save(service, bodies.SaveWeights(model_id=sys.argv[2], path="a"))
print(json.dumps(operations.find(service, answer["request_id"])["result"]))
"""


def test_no_room_for_the_files_is_the_servers_failure_and_leaves_nothing(client, app, home):
    run = client.model(rank=32)  # 2 MB, more than the process below may write into one file
    done = subprocess.run(
        [sys.executable, "-c", SAVE_WITH_LITTLE_ROOM, str(home), run],
        stdout=subprocess.PIPE,
        check=True,
    )
    outcome = json.loads(done.stdout)
    assert outcome["category"] == "server"
    assert "cannot write the checkpoint" in outcome["error"]
    assert list(app.service.checkpoints.iterdir()) == []
    assert client.get("checkpoints").json["checkpoints"] == []


# Loading


def test_a_new_run_is_created_from_a_checkpoint(client, app):
    source = client.saved(client.model(rank=6, seed=3), "weights")
    session = client.session()
    body = {"path": source, "optimizer": False, "session_id": session, "model_seq_id": 2}
    loaded = client.result("load_weights", body)
    assert loaded["model_id"] == f"{session}:train:2"
    client.delete(f"training_runs/{source[9:].replace('/weights/', '/checkpoints/weights/')}")
    copy = client.saved(loaded["model_id"], "weights", seq_id=1)
    assert client.get(f"training_runs/{loaded['model_id']}").json["lora_rank"] == 6
    original = tensors(app, client.saved(client.model(rank=6, seed=3)))
    assert all(np.array_equal(original[name], value) for name, value in tensors(app, copy).items())


def test_loading_into_a_run_replaces_its_tensors(client, app):
    source = client.saved(client.model(seed=3), "weights")
    run = client.model(seed=4)
    body = {"path": source, "optimizer": True, "model_id": run, "seq_id": 1}
    assert client.result("load_weights", body)["type"] == "load_weights"
    copy = client.saved(run, "weights", seq_id=2)
    assert all(
        np.array_equal(tensors(app, source)[name], value)
        for name, value in tensors(app, copy).items()
    )


def test_loads_at_once_leave_the_tensors_of_the_last_only(client, home):
    source = client.saved(client.model(), "weights")
    run = client.model()
    body = {"path": source, "optimizer": False, "model_id": run}
    start = threading.Barrier(6)

    def load():
        start.wait()
        client.result("load_weights", body)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(list((home / "checkpoints").iterdir())) == 2  # of the source, and of the run


def test_what_does_not_fit_is_not_loaded(client):
    source = client.saved(client.model(rank=4), "weights")
    other = client.model(rank=8)
    body = {"path": source, "optimizer": False, "model_id": other, "seq_id": 1}
    assert client.post("load_weights", body).status == 400
    sampler = client.saved(client.model(), "sampler_weights")
    assert client.post("load_weights", body | {"path": sampler}).status == 400
    neither = {"path": source, "optimizer": False}
    assert client.post("load_weights", neither).status == 400
    both = neither | {"model_id": other, "session_id": client.session(), "model_seq_id": 0}
    assert client.post("load_weights", both).status == 400


@pytest.mark.parametrize(
    "path", ["", "tinker://", "tinker://a/b", "x://a/weights/b", "a/weights/b"]
)
def test_a_malformed_path_is_400_in_the_servers_words(client, path):
    answer = client.post("weights_info", {"tinker_path": path})
    assert answer.status == 400
    assert answer.json["detail"].startswith("Invalid checkpoint tinker path")


@pytest.mark.parametrize("call", ["save_weights", "load_weights", "copy_weights"])
def test_what_a_reset_overtakes_fails_and_leaves_nothing(client, app, home, monkeypatch, call):
    source = client.saved(client.model(), "weights")
    session = client.session()
    body = {
        "save_weights": {"model_id": client.model(session), "path": "late"},
        "load_weights": {"path": source, "optimizer": False},
        "copy_weights": {"source_path": source},
    }[call]
    if call != "save_weights":
        body |= {"session_id": session, "model_seq_id": 1}
    stage = checkpoints.stage

    def stage_and_reset(service, write):
        staged = stage(service, write)
        reset(home)
        return staged

    monkeypatch.setattr(checkpoints, "stage", stage_and_reset)
    answer = client.post(call, body)
    if answer.status == 200:
        assert "error" in client.retrieve(answer.json["request_id"])
    else:
        assert answer.status == 404
    assert client.get("checkpoints").json["checkpoints"] == []
    assert client.get("training_runs").json["training_runs"] == []
    assert list((home / "checkpoints").iterdir()) == []


def test_a_reset_removes_what_killed_processes_left(client, home):
    client.saved(client.model())
    (home / "checkpoints" / ".tmp-1").mkdir()
    (home / "checkpoints" / "without-a-row").mkdir()
    reset(home)
    assert list((home / "checkpoints").iterdir()) == []
