"""The commands ``tinkex local …`` with existing and damaged state."""

import contextlib
import json
import math
import os
import shutil
from unittest import mock

import pytest
import waitress

import tinkex
from tests.full_disk import files_up_to
from tinkex.exceptions import LocalError, TinkexError, UsageError
from tinkex.plugins import HttpRequest, Timeouts
from tinkex.settings import Settings
from tinkex_local.home import occupied
from tinkex_local.pool import LocalPool
from tinkex_local.state.models import DEFAULT_MODEL, built_in, read_facts
from tinkex_local.state.store import FILE, Store
from tinkex_local.wire.wsgi import BASE_URL


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "home"))
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL", "TINKEX_PROFILE", "TINKEX_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def run(*words: str) -> str:
    return tinkex.run(list(words)).stdout


def shown(*words: str):
    return json.loads(run(*words, "--json"))


@pytest.fixture
def model(tmp_path):
    """A directory with another model: a copy of ours."""
    shutil.copytree(built_in(DEFAULT_MODEL).directory, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def save(tmp_path):
    """Return a function that saves a checkpoint and returns its path."""

    def save(*more: str, base_model: str = DEFAULT_MODEL) -> str:
        output = tmp_path / "saved.json"
        options = ("--base-model", base_model, "--rank", "4", "--output", str(output))
        run("--profile", "local", "checkpoint", *options, *more)
        return str(json.loads(output.read_text())["weights_path"])

    return save


def test_info_shows_the_home_and_its_contents(home, save):
    info = shown("local", "info")
    assert info["home"] == str(home)
    assert (info["models"], info["runs"], info["checkpoints"]) == (1, 0, 0)
    assert home.stat().st_mode & 0o777 == 0o700
    save()
    info = shown("local", "info")
    assert (info["sessions"], info["runs"], info["checkpoints"]) == (1, 1, 1)
    assert info["size_bytes"] > 100_000


def test_a_file_that_goes_away_while_sizes_are_added_is_not_counted(tmp_path):
    (tmp_path / "size").mkdir()
    (tmp_path / "size" / "there").write_bytes(b"12345")
    (tmp_path / "size" / "gone").symlink_to(tmp_path / "nowhere")
    assert occupied(tmp_path / "size") == 5


def test_reset_asks_and_then_deletes(home, save):
    save()
    for words in ((), ("--curl",)):
        with pytest.raises(TinkexError, match="confirmation"):
            run("local", "reset", *words)
    assert shown("local", "info")["checkpoints"] == 1
    (home / "checkpoints" / ".tmp-1").mkdir()  # as killed processes leave them
    (home / "checkpoints" / "without-a-row").mkdir()
    assert shown("local", "reset", "--yes") == {"home": str(home)}
    info = shown("local", "info")
    assert (info["sessions"], info["runs"], info["checkpoints"]) == (0, 0, 0)
    assert list((home / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("kept", [0, 100])
def test_reset_repairs_a_damaged_state(home, kept):
    run("local", "info")
    whole = (home / FILE).read_bytes()
    (home / FILE).write_bytes(whole[:kept] + b"\xff" * (len(whole) - kept))
    if not kept:  # seen at once, by commands and by the HTTP pool
        with pytest.raises(LocalError, match="not a database"):
            run("local", "info")
        assert "local reset" in refused_by_pool().hint
    run("local", "reset", "--yes")
    assert shown("local", "info")["runs"] == 0


def refused_by_pool() -> LocalError:
    sender = LocalPool().build(Settings(base_url=BASE_URL))
    with pytest.raises(LocalError) as caught:
        sender.send(HttpRequest("GET", f"{BASE_URL}/api/v1/healthz", {}), Timeouts(5.0, 60.0))
    return caught.value


def test_a_full_disk_is_reported_and_reset_removes_nothing(home, save):
    with files_up_to(0), pytest.raises(LocalError):
        run("local", "info")
    save()
    state = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with files_up_to(0), pytest.raises(LocalError, match=r"cannot use .*state") as caught:
        run("local", "reset", "--yes")
    assert "reset" not in (caught.value.hint or "")
    assert state[home / FILE] == (home / FILE).read_bytes()
    assert all(path.exists() for path in state if "checkpoints" in path.parts)


def test_a_state_of_a_newer_version_is_left_alone(home):
    home.mkdir()
    with contextlib.closing(Store(home / FILE)) as store:
        store.write("PRAGMA user_version = 99")
    assert "newer version" in str(refused_by_pool())
    with pytest.raises(LocalError, match="newer version"):
        run("local", "reset", "--yes")
    assert (home / FILE).exists()


def test_homes_that_cannot_be_used_are_named(home, monkeypatch):
    home.write_text("")
    with pytest.raises(LocalError, match=r"cannot use .*/home: it is not a directory"):
        run("local", "info")
    with pytest.raises(LocalError, match="no such home directory: ~nosuchuser"):
        run("local", "model", "add", "me/other", "~nosuchuser/model")
    monkeypatch.setenv("TINKEX_LOCAL_HOME", "~nosuchuser/x")
    for words in (("local", "info"), ("local", "reset", "--yes")):
        with pytest.raises(LocalError, match="no such home directory: ~nosuchuser"):
            run(*words)


def test_a_model_is_added_used_listed_and_removed(model, save):
    (model / "config.json").unlink()  # which alone has the width of the MLP
    added = shown("local", "model", "add", "me/other", str(model))
    assert added == {"model_name": "me/other", "engine": "onnx", "directory": str(model)}
    listed = tinkex.run(["local", "model", "list"]).value
    assert [entry["model_name"] for entry in listed] == [DEFAULT_MODEL, "me/other"]
    options = ("--prompt", "Holmes", "--max-tokens", "3", "--seed", "1")
    sampled = shown("--profile", "local", "run", "--base-model", "me/other", *options)
    assert 1 <= len(sampled["sequences"][0]["tokens"]) <= 3
    with pytest.raises(TinkexError, match=r"config\.json"):
        save(base_model="me/other")
    save("--no-train-mlp", base_model="me/other")
    run("local", "reset", "--yes")
    assert len(shown("local", "model", "list")) == 2
    assert run("local", "model", "remove", "me/other") == "Removed me/other\n"
    assert (model / "model.onnx").exists()
    assert run("local", "model", "add", "me/other", str(model)) == "Added me/other\n"
    shutil.rmtree(model)
    assert shown("local", "model", "list")[1]["context_length"] is None
    assert tinkex.run(["local", "model", "remove", "me/other"]).value == "me/other"
    assert len(shown("local", "model", "list")) == 1
    for name in (DEFAULT_MODEL, "me/other"):
        with pytest.raises(UsageError) as caught:
            run("local", "model", "remove", name)
        assert caught.value.hint == "See: tinkex local model list"


CONFIG = "genai_config.json"


def change(part, name, value):
    """Return what changes one value of a configuration."""

    def change(path):
        config = json.loads((path / CONFIG).read_text())
        (config["model"] if part == "model" else config["model"]["decoder"])[name] = value
        (path / CONFIG).write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("name", "break_it", "words"),
    [
        (DEFAULT_MODEL, lambda path: None, "already"),
        ("a/b/c", lambda path: None, "not a valid model name"),
        ("../x", lambda path: None, "not a valid model name"),
        ("me/x", lambda path: shutil.rmtree(path), "not a directory"),
        ("me/x", lambda path: (path / CONFIG).unlink(), "genai_config.json"),
        ("me/x", lambda path: (path / CONFIG).write_text("{"), "JSON"),
        ("me/x", lambda path: (path / CONFIG).write_text("{}"), "lacks"),
        ("me/x", lambda path: (path / "tokenizer.json").unlink(), "tokenizer.json"),
        ("me/x", lambda path: (path / "model.onnx").unlink(), "model.onnx"),
        *(
            ("me/x", change(part, name, value), rf"genai_config\.json: {name} is not ")
            for part, name, value in (
                ("model", "context_length", math.inf),
                ("model", "context_length", -1),
                ("model", "vocab_size", "many"),
                ("model", "eos_token_id", [0, math.inf]),
                ("model", "decoder", None),
                ("decoder", "hidden_size", 10**400),
            )
        ),
    ],
)
def test_an_unusable_model_is_not_added(model, name, break_it, words):
    break_it(model)
    with pytest.raises(UsageError, match=words):
        run("local", "model", "add", name, str(model))
    assert len(shown("local", "model", "list")) == 1


@pytest.fixture
def hugging_face(model):
    """The directory of the model with Hugging Face files instead of ONNX files."""
    (model / CONFIG).unlink()
    (model / "model.safetensors").touch()
    return model


def test_a_hugging_face_model_has_the_sizes_in_its_configuration(hugging_face):
    facts = read_facts(hugging_face)
    assert facts == built_in(DEFAULT_MODEL).facts
    config = json.loads((hugging_face / "config.json").read_text())
    del config["head_dim"]
    config |= {"num_key_value_heads": None, "eos_token_id": [0, 2]}
    (hugging_face / "config.json").write_text(json.dumps(config))
    (hugging_face / "model.safetensors").rename(hugging_face / "model.safetensors.index.json")
    facts = read_facts(hugging_face)
    assert (facts.heads, facts.key_value_heads, facts.head_size) == (6, 6, 192 // 6)
    assert facts.eos == {0, 2}


def test_a_model_without_an_engine_is_not_added(hugging_face):
    with pytest.raises(
        UsageError, match="'pip install tinkex-torch' adds an engine for Hugging Face"
    ):
        run("local", "model", "add", "me/x", str(hugging_face))
    assert len(shown("local", "model", "list")) == 1


def test_a_model_whose_engine_was_removed_stays_listed(hugging_face, opened, sampling_body):
    client = opened()
    client.app.service.models.add("me/x", hugging_face, 0.0, lambda model: None)
    listed = client.get("get_server_capabilities").json["supported_models"][1]
    assert (listed["sampleable"], listed["trainable"]) == (False, False)
    outcome = client.result("asample", sampling_body(client.sampler(base_model="me/x")))
    assert outcome["error"].startswith("No installed engine runs me/x")
    entry = shown("local", "model", "list")[1]
    assert (entry["engine"], entry["trainable"], entry["context_length"]) == (None, False, 1024)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda path: (path / "model.safetensors").unlink(), "neither genai_config.json nor model"),
        (lambda path: (path / "config.json").write_text("{}"), "config.json lacks hidden_size"),
        (lambda path: (path / "config.json").unlink(), "no readable genai_config.json or config"),
        (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer.json"),
    ],
)
def test_an_incomplete_hugging_face_model_is_not_added(hugging_face, break_it, words):
    break_it(hugging_face)
    with pytest.raises(UsageError, match=words):
        run("local", "model", "add", "me/x", str(hugging_face))


def test_a_directory_that_the_state_cannot_name_is_not_added(tmp_path, model):
    directory = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    model.rename(directory)
    with pytest.raises(UsageError, match="not valid UTF-8"):
        run("local", "model", "add", "me/x", directory)


def test_an_address_that_cannot_be_served_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="--api-key is required"):
        run("local", "serve", "--host", "0.0.0.0")

    def taken(*args, **options):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(waitress, "create_server", taken)
    with pytest.raises(LocalError) as caught:
        run("local", "serve", "--port", "8000")
    assert str(caught.value) == "cannot listen on 127.0.0.1:8000: Address already in use"
    assert caught.value.hint == "Choose another port with --port; --port 0 selects a free port."

    def elsewhere(*args, **options):
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(waitress, "create_server", elsewhere)
    with pytest.raises(LocalError) as caught:
        run("local", "serve", "--host", "127.0.0.1")
    assert caught.value.hint == "Specify an address of this machine with --host."

    monkeypatch.setattr(
        waitress, "create_server", mock.Mock(side_effect=ValueError("Invalid host"))
    )
    with pytest.raises(LocalError, match="invalid host name") as caught:
        run("local", "serve", "--host", "127.0.0.1")
    assert caught.value.hint == "Specify an address of this machine with --host."
