"""A directory of Hugging Face files is added, trained and sampled with the engine in PyTorch."""

import json
import shutil
from pathlib import Path

import pytest

import tinkex
from tests.bigram import example, loss_body
from tinkex_local.state.models import DEFAULT_MODEL

pytestmark = pytest.mark.train
STEP = {"learning_rate": 5e-3, "eps": 1e-8}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_hugging_face_directory_is_added_trained_and_sampled(
    home, opened, tmp_path, sampling_body
):
    import tinkex_torch

    files = Path(tinkex_torch.__file__).parent / "models" / "baker-street-2M"
    shutil.copytree(files, tmp_path / "model")
    words = ["local", "model", "add", "me/mine", str(tmp_path / "model"), "--json"]
    assert json.loads(tinkex.run(words).stdout)["engine"] == "torch"
    client = opened()
    listed = client.get("get_server_capabilities").json["supported_models"]
    assert [(entry["model_name"], entry["trainable"]) for entry in listed] == [
        (DEFAULT_MODEL, True),
        ("me/mine", True),
    ]
    body = {"session_id": client.session(), "model_seq_id": 0, "base_model": "me/mine"}
    run = client.result("create_model", body | {"lora_config": {"rank": 8, "seed": 1}})["model_id"]
    lesson = [example([500, 600, 801, 802])]
    losses = []
    for seq in range(1, 21, 2):
        losses.append(client.result("forward_backward", loss_body(run, seq, lesson))["metrics"])
        step = {"model_id": run, "seq_id": seq + 1, "adam_params": STEP}
        client.result("optim_step", step)
    assert losses[-1]["loss:sum"] < 1 < losses[0]["loss:sum"]
    path = client.saved(run, seq_id=21)
    params = {"params": {"max_tokens": 2, "temperature": 0.0}}
    sampled = {
        name: client.result("asample", sampling_body(client.sampler(**target), **params, **more))
        for name, target, more in (
            ("trained", {"model_path": path}, {"tokens": [500, 600], "topk_sample_logprobs": 2}),
            ("base", {"base_model": "me/mine"}, {"tokens": [500, 600]}),
        )
    }
    assert sampled["trained"]["sequences"][0]["tokens"] == [801, 802]
    assert sampled["base"]["sequences"][0]["tokens"] != [801, 802]
    assert [len(row) for row in sampled["trained"]["sequences"][0]["topk_logprobs"]] == [2, 2]
