"""Saving and loading of PEFT adapters, complete or not at all."""

import json
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.full_disk import files_up_to
from tinkex_local.state import checkpoints
from tinkex_local.state.models import built_in
from tinkex_local.state.paths import parse
from tinkex_local.state.reset import reset

BASE_MODEL = "tinkex/baker-street-2M"
PREFIX = "base_model.model.model.layers"


@pytest.fixture
def files(app):
    """Return a function from a checkpoint's path to its directory."""
    return lambda path: app.service.checkpoints / checkpoints.find(app.service, parse(path))["id"]


@pytest.fixture
def tensors(files):
    return lambda path: load_file(files(path) / "adapter_model.safetensors")


@pytest.fixture
def left(app):
    """Return a function that returns the names of all directories of checkpoints."""
    return lambda: [item.name for item in app.service.checkpoints.iterdir()]


def equal(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_the_adapter_has_the_shapes_of_the_model(client, tensors):
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
            expected[f"{PREFIX}.{layer}.{name}.lora_A.weight"] = (16, inputs)
            expected[f"{PREFIX}.{layer}.{name}.lora_B.weight"] = (outputs, 16)
    expected["base_model.model.lm_head.lora_A.weight"] = (16, hidden)
    expected["base_model.model.lm_head.lora_B.weight"] = (hf["vocab_size"], 16)
    found = tensors(client.saved(client.model(rank=16)))
    assert {name: value.shape for name, value in found.items()} == expected
    for name, value in found.items():  # the first factor is random within bounds, the second zero
        assert value.dtype == np.float32
        if ".lora_B." in name:
            assert not value.any()
        else:
            bound = 1 / np.sqrt(value.shape[1])
            assert np.abs(value).max() <= bound
            assert value.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)


def test_the_seed_decides_the_numbers(client, tensors):
    def first(**lora):
        found = tensors(client.saved(client.model(**lora)))
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
def test_the_flags_decide_the_modules(client, files, tensors, flags, modules):
    path = client.saved(client.model(**flags))
    config = json.loads((files(path) / "adapter_config.json").read_text())
    assert config["target_modules"] == modules
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["base_model_name_or_path"]) == (4, BASE_MODEL)
    found = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors(path)}
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
    (listed,) = client.checkpoints()
    assert listed["checkpoint_id"] == f"{kind}/v1.0_x-y"
    assert (listed["tinker_path"], listed["checkpoint_type"]) == (path, listed_as)
    assert listed["size_bytes"] > 10_000
    assert (listed["public"], listed["expires_at"]) == (False, None)


def test_a_taken_name_is_replaced_only_when_asked_for(client, files, left):
    run = client.model()
    path = client.saved(run, "weights")
    before = files(path)
    outcome = client.result("save_weights", {"model_id": run, "path": "a"})
    assert (outcome["category"], path in outcome["error"]) == ("user", True)
    assert (files(path), left()) == (before, [before.name])
    assert client.saved(run, "weights", overwrite=True) == path
    assert files(path) != before
    assert left() == [files(path).name]


@pytest.mark.parametrize("call", ["save_weights", "save_weights_for_sampler"])
def test_bad_names_and_lifetimes_are_refused(client, left, call):
    run = client.model()
    for name in ("", "..", ".hidden", "a/b", "a\\b", "ü", "a b", "x" * 201, "a\n"):
        answer = client.post(call, {"model_id": run, "path": name})
        assert answer.status == 422
        assert answer.json["detail"][0]["loc"] == ["body", "path"]
    for ttl in (3599, 10 * 365 * 86400 + 1, 0, -1, "3600"):
        body = {"model_id": run, "path": "a", "ttl_seconds": ttl}
        assert client.post(call, body).status == 422
    assert left() == []


def test_an_encrypted_export_is_refused_not_done_in_clear(client):
    body = {"model_id": client.model(), "path": "a", "age_encryption_recipients": ["age1x"]}
    assert client.post("save_weights_external", body).status == 400


def test_no_room_for_the_files_is_the_servers_failure_and_leaves_nothing(client, left):
    run = client.model(rank=32)  # 2 MB
    with files_up_to(1_000_000):
        outcome = client.result("save_weights", {"model_id": run, "path": "a"})
    assert outcome["category"] == "server"
    assert "cannot write the checkpoint" in outcome["error"]
    assert (left(), client.checkpoints()) == ([], [])


# Loading


def test_a_new_run_is_created_from_a_checkpoint(client, tensors):
    source = client.saved(client.model(rank=6, seed=3), "weights")
    session = client.session()
    body = {"path": source, "optimizer": False, "session_id": session, "model_seq_id": 2}
    loaded = client.result("load_weights", body)
    assert loaded["model_id"] == f"{session}:train:2"
    client.delete(f"training_runs/{source[9:].replace('/weights/', '/checkpoints/weights/')}")
    copy = client.saved(loaded["model_id"], "weights", seq_id=1)
    assert client.get(f"training_runs/{loaded['model_id']}").json["lora_rank"] == 6
    assert equal(tensors(client.saved(client.model(rank=6, seed=3))), tensors(copy))


def test_loading_into_a_run_replaces_its_tensors(client, tensors):
    source = client.saved(client.model(seed=3), "weights")
    run = client.model(seed=4)
    body = {"path": source, "optimizer": True, "model_id": run, "seq_id": 1}
    assert client.result("load_weights", body)["type"] == "load_weights"
    assert equal(tensors(source), tensors(client.saved(run, "weights", seq_id=2)))


def test_concurrent_loads_leave_the_tensors_of_the_last_only(client, left):
    source = client.saved(client.model(), "weights")
    body = {"path": source, "optimizer": False, "model_id": client.model()}
    start = threading.Barrier(6)

    def load():
        start.wait()
        client.result("load_weights", body)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(left()) == 2  # of the source, and of the run


def test_a_checkpoint_that_does_not_fit_is_not_loaded(client):
    run = client.model(rank=4)
    source, sampler = client.saved(run, "weights"), client.saved(run, "sampler_weights")
    other = client.model(rank=8)
    neither = {"path": source, "optimizer": False}
    into = neither | {"model_id": other, "seq_id": 1}
    both = neither | {"model_id": other, "session_id": client.session(), "model_seq_id": 0}
    for body in (into, into | {"path": sampler}, neither, both):
        assert client.post("load_weights", body).status == 400


@pytest.mark.parametrize(
    "path", ["", "tinker://", "tinker://a/b", "x://a/weights/b", "a/weights/b"]
)
def test_a_malformed_path_is_400_in_the_servers_words(client, path):
    answer = client.post("weights_info", {"tinker_path": path})
    assert answer.status == 400
    assert answer.json["detail"].startswith("Invalid checkpoint tinker path")


@pytest.mark.parametrize("call", ["save_weights", "load_weights", "copy_weights"])
def test_an_operation_that_a_reset_overtakes_fails_and_leaves_nothing(
    client, left, home, monkeypatch, call
):
    source = client.saved(client.model(), "weights")
    session = client.session()
    new_run = {"session_id": session, "model_seq_id": 1}
    body = {
        "save_weights": {"model_id": client.model(session), "path": "late"},
        "load_weights": {"path": source, "optimizer": False, **new_run},
        "copy_weights": {"source_path": source, **new_run},
    }[call]
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
    assert client.checkpoints() == []
    assert client.get("training_runs").json["training_runs"] == []
    assert left() == []
