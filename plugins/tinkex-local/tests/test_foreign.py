"""Adapters from elsewhere, added with ``tinkex local checkpoint add``."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinkex
from tests.bigram import A, B, BigramEngine, example, loss_body
from tests.full_disk import files_up_to
from tinkex.exceptions import LocalError, UsageError
from tinkex_local.state import adapter, checkpoints, foreign
from tinkex_local.state.models import DEFAULT_MODEL
from tinkex_local.state.paths import parse

LAYER = "base_model.model.model.layers.1.self_attn.q_proj"
CONFIG = {
    "base_model_name_or_path": DEFAULT_MODEL,
    "r": 2,
    "lora_alpha": 16,
    "target_modules": "all-linear",
    "peft_type": "LORA",
}


def head(rank=2):
    random = np.random.default_rng(3)
    first = random.standard_normal((rank, 192)).astype(np.float32)
    return {A: first, B: random.standard_normal((2048, rank)).astype(np.float32)}


@pytest.fixture
def made(tmp_path):
    """Return a function that writes an adapter and returns its directory."""

    def made(tensors=None, **config):
        directory = tmp_path / "my adapter"
        directory.mkdir(exist_ok=True)
        (directory / "adapter_config.json").write_text(json.dumps(CONFIG | config))
        save_file(head() if tensors is None else tensors, directory / "adapter_model.safetensors")
        return directory

    return made


@pytest.fixture
def client(opened):
    return opened(engines=[BigramEngine()])


@pytest.fixture
def added(client, made):
    """Return a function that adds an adapter and returns the checkpoint and its tensors."""

    def added(*args, name="a", base_model=None, **config):
        service = client.app.service
        found = foreign.add(service, made(*args, **config), name, base_model)
        identifier = checkpoints.find(service, parse(found["tinker_path"]))["id"]
        return found, load_file(service.checkpoints / identifier / adapter.TENSORS)

    return added


def test_an_added_adapter_is_listed_samples_and_can_be_trained_further(
    client, added, sampling_body
):
    found, _ = added()
    assert found["tinker_path"].endswith("/weights/a")
    assert (found["base_model"], found["lora_rank"]) == (DEFAULT_MODEL, 2)
    assert [entry["tinker_path"] for entry in client.checkpoints()] == [found["tinker_path"]]
    info = client.post("weights_info", {"tinker_path": found["tinker_path"]}).json
    assert (info["train_attn"], info["train_mlp"], info["train_unembed"]) == (False, False, True)
    sampler = client.sampler(model_path=found["tinker_path"])
    sample = client.result("asample", sampling_body(sampler))["sequences"][0]
    assert sample["logprobs"][0] != pytest.approx(-np.log(2048), abs=0.01)
    body = {"path": found["tinker_path"], "session_id": client.session(), "model_seq_id": 0}
    assert (
        "no optimizer state" in client.result("load_weights", body | {"optimizer": True})["error"]
    )
    body = body | {"optimizer": False, "model_seq_id": 1}
    run = client.result("load_weights", body)["model_id"]
    data = [example([5, 6, 7])]
    first, second = (
        client.result("forward_backward", loss_body(run, seq, data))["metrics"] for seq in (1, 2)
    )
    assert first == second != {"loss:sum": pytest.approx(2 * np.log(2048), rel=1e-3)}


@pytest.mark.parametrize(
    ("config", "scale"),
    [({}, 8), ({"lora_alpha": 4.0}, 2), ({"use_rslora": True}, 16 / np.sqrt(2))],
)
def test_the_effect_is_that_of_the_original_whatever_its_alpha(added, config, scale):
    _, tensors = added(**config)
    own = tensors[B] @ tensors[A] * (adapter.ALPHA / 2)
    given = head()
    assert np.allclose(own, given[B] @ given[A] * scale, rtol=1e-5, atol=1e-5)


def test_modules_that_an_adapter_lacks_are_added_without_effect(added):
    first = np.ones((2, 192), np.float16)
    _, tensors = added(
        {f"{LAYER}.lora_A.weight": first, f"{LAYER}.lora_B.weight": np.ones((192, 2))}
    )
    assert len(tensors) == 2 * 4 * 4  # of the attention in four layers
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float32)}
    with_effect = {name for name, values in tensors.items() if ".lora_B." in name and values.any()}
    assert with_effect == {f"{LAYER}.lora_B.weight"}
    assert all(values.any() for name, values in tensors.items() if ".lora_A." in name)


@pytest.mark.parametrize("name", ["model.unembed_tokens", "unembed_tokens", "model.lm_head"])
def test_names_of_other_tinker_services_are_known(added, name):
    given = head()
    found = {
        f"base_model.model.{name}.lora_{part}.weight": given[key]
        for part, key in zip("AB", (A, B), strict=True)
    }
    _, tensors = added(found)
    assert np.array_equal(tensors[A], given[A])


def test_half_precision_of_both_kinds_is_converted(client, made):
    directory = made(head(), name="b")
    values = np.array([[1.0, -2.5]], np.float32)
    header = {"x.lora_A.weight": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = directory / "adapter_model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + halves)
    assert np.array_equal(
        foreign.read_tensors(directory)["base_model.model.x.lora_A.weight"], values
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": 0}, "r is not a whole number"),
        ({"r": True}, "r is not a whole number"),
        ({"r": 3}, r"has the shape \[2, 192\]; the model and the rank require \[3, 192\]"),
        ({"lora_alpha": None}, "lora_alpha is not a number"),
        ({"lora_alpha": 1e300}, "lora_alpha is not a number"),
        ({"peft_type": "IA3"}, "unsupported peft_type: IA3"),
        ({"use_dora": True}, "unsupported use_dora: True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"base_model_name_or_path": "Qwen/Qwen3-8B"}, "unknown base model 'Qwen/Qwen3-8B'"),
        (
            {"base_model_name_or_path": None},
            "adapter_config.json does not contain the name of the base model",
        ),
    ],
)
def test_a_configuration_that_cannot_be_applied_is_refused(client, added, config, words):
    with pytest.raises(foreign.ForeignError, match=words):
        added(**config)
    assert (client.checkpoints(), list(client.app.service.checkpoints.iterdir())) == ([], [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: given.clear(), "has no tensors"),
        (lambda given: given.pop(B), "lm_head has lora_A, but no lora_B"),
        (lambda given: given.update({A: given[A].T.copy()}), r"has the shape \[192, 2\]"),
        (lambda given: given.update({A: given[A].astype(np.int8)}), "element type: I8"),
        (lambda given: given.update({A: given[A] * np.inf}), "not finite"),
        (
            lambda given: given.update({"lm_head.weight": given[A]}),
            "tensors other than lora_A and lora_B: lm_head.weight",
        ),
        (
            lambda given: given.update({LAYER.replace("1", "9") + ".lora_A.weight": given[A]}),
            r"no modules for these tensors: base_model.model.model.layers.9.self_attn.q_proj",
        ),
        (lambda given: given.update({"model.lm_head.lora_A.weight": given[A]}), "two names"),
        (
            lambda given: [
                given.update({f"h.0.c_attn.lora_{x}.weight": given.pop(y)})
                for x, y in (("A", A), ("B", B))
            ],
            "no modules for these tensors: base_model.model.h.0.c_attn.lora_A.weight",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_tensors_that_do_not_fit_are_refused(added, change, words):
    given = head()
    change(given)
    with pytest.raises(foreign.ForeignError, match=words):
        added(given)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "missing", "garbage", "huge"])
def test_the_directory_is_not_trusted(client, made, tmp_path, name, kind, monkeypatch):
    directory = made()
    path = directory / name
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"\xff" * 100)
    elif kind == "huge":
        monkeypatch.setattr(foreign, "LARGEST", 1000)
        path.write_bytes(content.ljust(1001))
    with pytest.raises(foreign.ForeignError, match=name):
        foreign.add(client.app.service, directory, "a", None)


# The command


@pytest.fixture
def home_of_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "home"))


def test_the_command_prints_the_path_of_the_checkpoint(home_of_commands, made, capsys):
    directory = made()
    added = tinkex.run(["local", "checkpoint", "add", str(directory)])
    assert added.stdout == f"{added.value}\n"
    assert added.value.endswith("/weights/my-adapter")
    words = ["local", "checkpoint", "add", str(directory), "--name", "v1", "-f", "json"]
    shown = json.loads(tinkex.run(words).stdout)
    assert list(shown) == ["tinker_path", "base_model", "lora_rank", "size_bytes"]
    assert shown["tinker_path"].endswith("/weights/v1")
    assert shown["lora_rank"] == 2
    listed = tinkex.run(["--profile", "local", "checkpoint", "list", "-f", "json"])
    assert len(json.loads(listed.stdout)) == 2


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            ["/nowhere"],
            "cannot add /nowhere: /nowhere has no adapter_config.json",
            "directory that",
        ),
        (["CUT"], "adapter_model.safetensors is not a valid", "Download or copy the"),
        (["DIR", "--base-model", "x"], "unknown base model 'x'", "'tinkex local model add'"),
        (["DIR", "--name", "a/b"], "a name must consist of 1 to 200 letters", "tinkex help local"),
    ],
)
def test_errors_of_the_command_name_what_is_wrong(home_of_commands, made, words, message, hint):
    directory = made()
    if words == ["CUT"]:
        os.truncate(directory / "adapter_model.safetensors", 100)
    words = [str(directory) if word in ("DIR", "CUT") else word for word in words]
    with pytest.raises(UsageError, match=message) as caught:
        tinkex.run(["local", "checkpoint", "add", *words])
    assert hint in caught.value.hint


def test_a_full_disk_leaves_nothing(home_of_commands, made):
    directory = made()
    tinkex.run(["local", "info"])
    with files_up_to(100), pytest.raises(LocalError):
        tinkex.run(["local", "checkpoint", "add", str(directory)])
    assert tinkex.run(["local", "info"]).value["checkpoints"] == 0
