"""``checkpoint push-hf`` from end to end: a real local service, and a hub on loopback."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from huggingface_hub.errors import RepositoryNotFoundError

from tinkex.exceptions import NotFound
from tinkex_hub.hub import translate

# huggingface_hub calls its HTTP library in a way that this one deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TOKEN = "hf_goodgoodgoodgoodgood"


def refused(done: Any, clause: str, *, server: bool = False) -> None:
    """Check the sentence of a failure."""
    first = done.stderr.splitlines()[-2]
    begin = "failed due to server or transient error" if server else "failed. Please check"
    assert first.startswith(f"Checkpoint push-hf {begin}"), done.stderr
    assert clause in first
    assert done.stderr.splitlines()[-1].startswith("Hint: ")
    assert (done.stdout, done.exit_code) == ("", 1)


def test_a_new_repository_is_private_and_has_the_adapter_and_a_card(push: Any) -> None:
    done = push("--repo", "ada/mine")

    assert done.stdout == f"Pushed {push.path} to {push.hub.url}/ada/mine\n"
    assert done.exit_code == 0
    assert push.hub.repos["ada/mine"]["private"] is True
    files = push.hub.files("ada/mine")
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    base = "tinkex/baker-street-2M"
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == base
    assert len(files["adapter_model.safetensors"]) > 1000
    _, head, body = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "base_model": base,
        "library_name": "peft",
        "tags": ["tinker", "peft", "lora", f"base_model:adapter:{base}"],
    }
    assert push.path in body
    assert "LoRA rank: 4" in body


@pytest.fixture
def stored(push: Any, tmp_path: Path) -> Path:
    """Return the directory in which the local service keeps the checkpoint."""
    (config,) = (tmp_path / "home").rglob("adapter_config.json")
    return config.parent


@pytest.fixture
def foreign(stored: Path) -> dict[str, Any]:
    """Give the checkpoint the names of the hosted service; return its tensors."""
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = safetensors.load_file(stored / "adapter_model.safetensors")
    renamed = {name.replace("lm_head", "model.unembed_tokens"): w for name, w in tensors.items()}
    safetensors.save_file(renamed, stored / "adapter_model.safetensors")
    config = json.loads((stored / "adapter_config.json").read_text())
    config["target_modules"] = "all-linear"
    (stored / "adapter_config.json").write_text(json.dumps(config))
    return dict(tensors)


def test_an_adapter_is_converted_to_the_names_of_peft(
    push: Any, stored: Path, foreign: dict[str, Any]
) -> None:
    from safetensors.numpy import load

    push.hub.add_base()
    done = push("--repo", "ada/mine")
    assert (done.exit_code, "Warning" in done.stderr) == (0, False), done.stderr
    files = push.hub.files("ada/mine")
    pushed = load(files["adapter_model.safetensors"])
    assert {name: w.tolist() for name, w in pushed.items()} == {
        name: w.tolist() for name, w in foreign.items()
    }
    assert "lm_head" in json.loads(files["adapter_config.json"])["target_modules"]
    card = files["README.md"].decode()
    assert "against the base model" in card
    assert "PeftModel" in card


def test_without_the_base_model_an_adapter_is_converted_with_a_warning(push: Any) -> None:
    done = push("--repo", "ada/mine")
    assert "Warning: Tensor names and shapes are not checked: tinkex/" in done.stderr
    assert "without checking them" in push.hub.files("ada/mine")["README.md"].decode()


@pytest.mark.parametrize(
    ("files", "clause"),
    [
        (None, "tinkex/baker-street-2M was not found on"),
        ({}, "tinkex/baker-street-2M was not found on"),
        ({"config.json": b"{}"}, "has no valid safetensors weights"),
        ({"config.json": b"[]", "model.safetensors": b""}, ""),
        ({"config.json": b"{}", "model.safetensors": b"<html>"}, ""),
    ],
)
def test_a_base_model_that_the_hub_does_not_have(
    push: Any, files: dict[str, bytes] | None, clause: str
) -> None:
    if files is not None:
        push.hub.add("tinkex/baker-street-2M")
        push.hub.files("tinkex/baker-street-2M").update(files)
    done = push("--repo", "ada/mine", "--base", "tinkex/baker-street-2M")
    refused(done, clause)
    assert "--repo" not in done.stderr
    assert "ada/mine" not in push.hub.repos
    assert push("--repo", "ada/mine").exit_code == 0


def test_raw_and_a_base_model_exclude_each_other(push: Any) -> None:
    refused(push("--raw", "--base", "a/b"), "--base has no effect with --raw")


def test_raw_uploads_the_tensors_unchanged(push: Any, stored: Path, foreign: object) -> None:
    done = push("--repo", "ada/mine", "--raw")
    assert "Warning: PEFT ignores tensors whose names it does not know: model.unemb" in done.stderr
    weights = push.hub.files("ada/mine")["adapter_model.safetensors"]
    assert weights == (stored / "adapter_model.safetensors").read_bytes()
    card = push.hub.files("ada/mine")["README.md"].decode()
    assert "checkpoint export" in card
    assert "exactly as the training service saved them" in card
    assert "PeftModel" not in card


def test_raw_fills_in_the_modules_that_peft_needs(push: Any, stored: Path) -> None:
    config = json.loads((stored / "adapter_config.json").read_text())
    (stored / "adapter_config.json").write_text(json.dumps({**config, "target_modules": None}))
    assert "Warning" not in push("--repo", "ada/mine", "--raw").stderr
    pushed = json.loads(push.hub.files("ada/mine")["adapter_config.json"])
    assert pushed["target_modules"] == config["target_modules"]


def test_an_adapter_that_cannot_be_converted_is_refused(push: Any, stored: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = safetensors.load_file(stored / "adapter_model.safetensors")
    odd = {
        name.replace("lm_head", "model.layers.0.mlp.experts.w1"): w for name, w in tensors.items()
    }
    safetensors.save_file(odd, stored / "adapter_model.safetensors")
    done = push("--repo", "ada/mine")
    refused(done, "unrecognized names: model.layers.*.mlp.experts.w1")
    assert "--raw" in done.stderr
    assert push.hub.repos == {}


def test_without_a_repository_it_is_named_after_the_run(push: Any) -> None:
    done = push("-f", "json")
    run = push.path.removeprefix("tinker://").partition("/")[0].replace(":", "-")
    assert done.rows["repo_id"] == f"ada/tinker-baker-street-2M-{run}"
    assert done.rows["revision"].startswith("sampler_weights-checkpoint-")
    assert (done.rows["public"], done.rows["pull_request"]) == (False, False)
    assert done.rows["format"] == "peft"
    pushed = push.hub.files(done.rows["repo_id"], done.rows["revision"])
    assert done.rows["files"] == sorted(pushed)
    assert push.hub.files(done.rows["repo_id"]) == {}


def test_again_is_a_new_commit_and_an_edited_card_stays(push: Any) -> None:
    push("--repo", "ada/mine")
    edited = push.hub.files("ada/mine")["README.md"] + b"\nMine.\n"
    push.hub.files("ada/mine")["README.md"] = edited
    done = push("--repo", "ada/mine", "--commit-message", "once more")
    assert done.exit_code == 0, done.stderr
    assert push.hub.files("ada/mine")["README.md"] == edited
    assert push.hub.commits[-1]["summary"] == "once more"


def test_a_pull_request(push: Any) -> None:
    push.hub.add("ada/mine", readme="Hello.")
    done = push("--repo", "ada/mine", "--create-pr", "--json")
    assert done.rows["url"] == f"{push.hub.url}/ada/mine/discussions/1"
    assert done.rows["pull_request"] is True
    assert push.hub.files("ada/mine") == {"README.md": b"Hello."}


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("--allow-pattern *.json", {"adapter_config.json"}),
        ("--ignore-pattern *.md --ignore-pattern *config*", {"adapter_model.safetensors"}),
        ("--no-model-card", {"adapter_config.json", "adapter_model.safetensors"}),
    ],
)
def test_the_uploaded_files_can_be_chosen(push: Any, words: str, kept: set[str]) -> None:
    done = push("--repo", "ada/mine", *words.split())
    assert done.exit_code == 0, done.stderr
    assert set(push.hub.files("ada/mine")) == kept


def test_a_repository_is_public_on_demand_and_not_by_accident(push: Any) -> None:
    done = push("--repo", "ada/mine", "--public", "-f", "json")
    assert done.rows["public"] is True
    assert push.hub.repos["ada/mine"]["private"] is False
    push.hub.add("ada/open", private=False)
    refused(push("--repo", "ada/open"), "the repository ada/open is public")
    assert len(push.hub.commits) == 1
    push.hub.add("ada/hers")
    assert "remains private" in push("--repo", "ada/hers", "--public").stderr
    assert push.hub.repos["ada/hers"]["private"] is True


@pytest.mark.parametrize("style", ["---\ntinker_path: {}\n---\n", "## Source\n\n```\n{}\n```\n"])
def test_a_repository_of_another_checkpoint_is_refused(push: Any, style: str) -> None:
    other = "tinker://other/weights/final"
    push.hub.add("ada/theirs", readme=style.format(other))

    done = push("--repo", "ada/theirs")
    refused(done, f"the repository ada/theirs already contains a different checkpoint: {other}")
    assert "another branch with --revision" in done.stderr
    done = push("--repo", "ada/theirs", "--create-pr")
    refused(done, f"the repository ada/theirs already contains a different checkpoint: {other}")
    assert "--revision" not in done.stderr  # cannot be used with --create-pr
    assert push.hub.commits == []
    assert "Downloading" not in done.stderr


@pytest.mark.parametrize("way", ["argument", "stdin", "file", "environment"])
def test_where_the_token_comes_from(push: Any, way: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    words = {"argument": [TOKEN], "stdin": ["-"], "file": [f"@{file}"]}.get(way)
    options = ["--hf-token", *words] if words else []

    done = push("--repo", "ada/mine", *options, token=None if words else TOKEN, stdin=f"{TOKEN}\n")

    assert done.exit_code == 0, done.stderr
    assert push.hub.tokens - {""} == {f"Bearer {TOKEN}"}  # the storage has no business with it


@pytest.mark.parametrize(
    ("words", "environ", "clause"),
    [
        ([], {"HF_TOKEN": "hf_bad"}, "rejected the Hugging Face token (HTTP 401)"),
        ([], {"HF_TOKEN": ""}, "no Hugging Face token found"),
        (["--hf-token", "-"], {}, "no Hugging Face token in standard input"),
        (["--hf-token", "@/no/such"], {}, "cannot read the token from /no/such: No such file"),
        (
            ["--repo", "else/thing"],
            {},
            "repository else/thing does not exist, and the account ada cannot create it",
        ),
        (["--repo", "club/thing"], {}, "the token does not have access to club/thing"),
        (["--repo", "a/b/c"], {}, "invalid repository name"),
        (["--repo", ""], {}, "--repo"),
        (["--create-pr", "--revision", "dev"], {}, "--revision cannot be used with --create-pr"),
        (["--allow-pattern", "*.gguf"], {}, "no file matches the patterns"),
    ],
)
def test_refusals(push: Any, words: list[str], environ: dict[str, str], clause: str) -> None:
    refused(push(*words, **environ), clause)
    assert (push.hub.commits, push.hub.repos) == ([], {})


@pytest.mark.parametrize("repo", ["ada/secret", None])
def test_a_repository_that_requires_a_token(repo: str | None) -> None:
    response: Any = mock.Mock(status_code=401, headers={})
    error = RepositoryNotFoundError("401 Client Error", response=response)
    found = translate(error, "hub", repo)
    words = f"{repo or 'the repository'} does not exist on hub, or requires a token"
    assert (type(found), found and found.message) == (NotFound, words)


def test_a_checkpoint_or_service_that_is_not_available(push: Any) -> None:
    done = push("--repo", "ada/mine", path="tinker://nope/weights/final")
    assert (done.stdout, done.exit_code) == ("", 1)
    # Not by monkeypatch, which would put the variable back when the service has removed it.
    with mock.patch.dict(os.environ):
        del os.environ["TINKEX_PROFILE"]
        refused(push("--base-url", "https://tinker.test"), "Missing --api-key")
        options = ("--base-url", "http://127.0.0.1:9", "--api-key", "k", "--http-pool", "default")
        refused(push(*options), "connection refused by 127.0.0.1:9", server=True)
    assert push.hub.repos == {}


@pytest.mark.parametrize(
    ("failure", "clause", "server"),
    [
        ({"broken": 503}, "failed", True),
        ({"broken": 404}, "HTTP 404", False),  # an answer of something else
        ({"lost": True}, "failed", True),  # in the middle
    ],
)
def test_a_hub_that_fails(push: Any, failure: dict[str, Any], clause: str, server: bool) -> None:
    vars(push.hub).update(failure)
    refused(push("--repo", "ada/mine"), clause, server=server)
    assert push.hub.commits == []


def test_no_hub_at_all(push: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        push.hub.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = push("--repo", "ada/mine")
    refused(done, "the request to 127.0.0.1:", server=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(push("--repo", "ada/mine"), "HF_HUB_OFFLINE is set")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = push("--repo", "ada/mine")
    refused(done, "cannot import huggingface_hub")
    assert "pip install" in done.stderr
