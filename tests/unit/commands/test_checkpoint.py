"""``checkpoint``: what saving refuses, and what it leaves on the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.contract.dialects.account import KEY, MODEL, validation
from tests.contract.dialects.hatchery import Hatchery
from tests.contract.dialects.official import Official
from tests.contract.dialects.skyrl import SkyRL
from tests.contract.dialects.wire import detail, listening
from tinkex.api.paths import UNKNOWN_FORM
from tinkex.testing import Invocation, invoke


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--model-path", "tinker://r/sampler_weights/a"], "has no training state to resume from"),
        (["--model-path", "tinker://r/weights/a", "--rank", "4"], "--rank cannot change"),
        (["--model-path", "tinker://r/weights/a", "--seed", "4"], "--seed cannot change"),
        (
            ["--model-path", "tinker://r/weights/a", "--no-train-mlp"],
            "--no-train-mlp cannot change",
        ),
    ],
)
def test_options_that_a_saved_checkpoint_fixes(argv, what, tmp_path):
    done = invoke(["checkpoint", *argv, "--output", str(tmp_path / "x"), "--api-key", "k"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert what in done.stderr


@pytest.fixture
def skyrl() -> Iterator[SkyRL]:
    server = SkyRL()
    with listening(server):
        yield server


@pytest.fixture
def save(skyrl, tmp_path) -> Callable[..., Invocation]:
    """Return a function that saves a checkpoint on SkyRL."""

    def save(*more: str) -> Invocation:
        options = ["--base-url", skyrl.url, "--api-key", KEY, "--output", str(tmp_path / "x.json")]
        return invoke(["checkpoint", "--base-model", MODEL, *options, *more])

    return save


def test_the_save_that_finds_no_place_says_that_the_server_is_full(skyrl, save):
    skyrl.places = 1
    assert save("--name", "one").exit_code == 0
    done = save("--name", "two")
    assert (done.exit_code, done.stdout) == (1, "")
    line, hint = done.stderr.splitlines()
    assert line == (
        "Checkpoint failed due to server or transient error. Consider retrying: "
        "Maximum number of LoRA adapters (9) reached"
    )
    assert hint.startswith("Hint: The server has no free capacity. Unload a run (POST ")
    assert hint.endswith(f" The training run {skyrl.new_run} was created and has no checkpoint.")


def test_a_refused_save_names_its_run_and_frees_its_place(skyrl, save, monkeypatch):
    skyrl.places = 1
    with monkeypatch.context() as patch:
        patch.setattr(SkyRL, "_save", lambda *_: detail(400, "the disk is full").reply)
        done = save("--name", "one")
    assert done.exit_code == 1
    assert "the disk is full" in done.stderr
    assert f"The training run {skyrl.new_run} was created and has no checkpoint." in done.stderr
    assert save("--name", "two").exit_code == 0


def test_a_path_of_an_unknown_form_is_saved_with_a_warning(skyrl, save, tmp_path, monkeypatch):
    monkeypatch.setattr(SkyRL, "result_path", lambda *_: "/srv/models/one")
    done = save("--name", "one")
    assert (done.exit_code, done.stderr) == (0, f"{UNKNOWN_FORM}\n")
    saved = json.loads((tmp_path / "x.json").read_text())
    assert saved["weights_path"] == saved["response"]["path"] == "/srv/models/one"


def test_with_unload_more_checkpoints_are_saved_than_there_are_places(skyrl, save):
    skyrl.places = 1
    for name in ("one", "two", "three"):
        done = save("--name", name, "--unload")
        assert (done.exit_code, done.stderr) == (0, "")
    assert skyrl.requests("POST", "unload_model")[0].json == {"model_id": skyrl.new_run}
    save("--name", "four")
    assert save("--name", "five").exit_code == 1


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (detail(404, "Not Found"), "this server does not offer unloading runs (HTTP 404)"),
        # hatchery wants the id elsewhere, and would end the run.
        (validation("model_id", "Field required"), "model_id: Field required (HTTP 422)"),
    ],
)
def test_a_run_that_cannot_be_unloaded_is_a_warning(refusal, words, skyrl, save, monkeypatch):
    monkeypatch.setattr(SkyRL, "unload_model", lambda *_: refusal.reply)
    done = save("--name", "one", "--unload")
    assert done.exit_code == 0
    assert done.stderr == f"Warning: cannot unload the training run {skyrl.new_run}: {words}\n"


def test_the_run_of_a_copy_is_unloaded(skyrl):
    path = f"tinker://{skyrl.new_run}/weights/final"
    fixed = {"POST copy_weights": {"tinker_path": path}}
    server = type("Copying", (SkyRL,), {"fixed": fixed})()
    server.runs.append(skyrl.new_run)
    words = ["checkpoint", "copy", server.training, "--unload", "--api-key", KEY]
    with listening(server) as url:
        refused = invoke([*words, "--base-url", url, "--project-id", "p"])
        assert "--unload cannot be used for a copy in a project (p" in refused.stderr
        done = invoke([*words, "--base-url", url])
    assert (done.stdout, done.stderr) == (f"Copied to {path}\n", "")
    assert [s.json for s in server.requests("POST", "unload_model")] == [
        {"model_id": skyrl.new_run}
    ]


def test_a_name_that_the_server_refuses_makes_no_run(skyrl, save):
    done = save("--name", "v1.5")
    assert done.exit_code == 1
    assert "this service does not accept the checkpoint name 'v1.5'" in done.stderr
    assert skyrl.requests("POST", "create_session") == []
    assert save("--name", "v1-5").exit_code == 0
    assert len(skyrl.requests("GET", "/openapi.json")) == 1  # plain names need no check


def test_a_server_that_does_not_describe_itself_decides_about_a_name(tmp_path):
    with listening(Official()) as url:
        done = invoke(
            [
                *("checkpoint", "--base-model", MODEL, "--name", "v1.5", "--base-url", url),
                *("--api-key", KEY, "--output", str(tmp_path / "x.json")),
            ]
        )
    assert done.exit_code == 0


def test_a_rank_that_the_server_refuses_makes_no_run(skyrl, save, monkeypatch):
    """hatchery reports the highest rank."""
    found = {"supported_models": [{"model_name": MODEL}], "max_rank": 256}
    monkeypatch.setattr(SkyRL, "capabilities", lambda *_: found)
    done = save("--name", "x", "--rank", "257")
    assert done.exit_code == 1
    assert "rank must be at most 256 on this service, not 257" in done.stderr
    assert skyrl.requests("POST", "create_session") == []
    assert save("--name", "x", "--rank", "256").exit_code == 0


def test_saving_and_sampling_work_on_hatchery(tmp_path):
    prompt, output = tmp_path / "tokens.json", tmp_path / "x.json"
    prompt.write_text("[5, 6, 7]")
    server = Hatchery()
    with listening(server) as url:
        options = ["--base-url", url, "--api-key", KEY]
        save = ["checkpoint", "--base-model", MODEL, "--output", str(output), *options]
        saved = invoke([*save, "--name", "one"])
        assert (saved.exit_code, saved.stderr) == (0, "server: created\n")
        path = json.loads(output.read_text())["weights_path"]
        assert path == f"tinker://{server.new_run}/sampler_weights/one"
        done = invoke(
            ["run", "--model-path", path, "--prompt-file", str(prompt), "--json", *options]
        )
        assert json.loads(done.stdout)["sequences"][0]["tokens"] == [11, 12]
        server.places = 0
        full = invoke([*save, "--name", "two"])
    assert "Consider retrying: Max 5 concurrent sessions (HTTP 429)" in full.stderr
    assert "Hint: The server has no free capacity." in full.stderr
    assert len(server.requests("POST", "create_model")) == 2
