"""``tinkex local …`` as a user runs it."""

import contextlib
import json
import math
import os
import resource
import shutil
import threading

import pytest

import tinkex
from tinkex.exceptions import LocalError, TinkexError, UsageError
from tinkex_local.home import occupied
from tinkex_local.state.models import DEFAULT_MODEL, built_in
from tinkex_local.state.store import FILE, Store

MODEL = built_in(DEFAULT_MODEL).directory


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TINKEX_LOCAL_HOME", str(tmp_path / "home"))
    for name in ("TINKER_API_KEY", "TINKER_BASE_URL", "TINKEX_PROFILE", "TINKEX_FORMAT"):
        monkeypatch.delenv(name, raising=False)


def run(*words: str) -> str:
    return tinkex.run(list(words)).stdout


@pytest.fixture
def model(tmp_path):
    """A directory with another model: a copy of ours."""
    shutil.copytree(MODEL, tmp_path / "model")
    return tmp_path / "model"


def save(tmp_path, *more: str) -> str:
    output = tmp_path / "saved.json"
    run(
        *("--profile", "local", "checkpoint", "--base-model", DEFAULT_MODEL),
        *("--rank", "4", "--output", str(output), *more),
    )
    return str(json.loads(output.read_text())["weights_path"])


def test_info_tells_the_home_and_what_is_in_it(tmp_path):
    info = json.loads(run("local", "info", "--json"))
    assert info["home"] == str(tmp_path / "home")
    assert (info["models"], info["runs"], info["checkpoints"]) == (1, 0, 0)
    save(tmp_path)
    info = json.loads(run("local", "info", "--json"))
    assert (info["sessions"], info["runs"], info["checkpoints"]) == (1, 1, 1)
    assert info["size_bytes"] > 100_000


def test_a_file_that_goes_away_while_sizes_are_added_is_not_counted(tmp_path):
    (tmp_path / "size").mkdir()
    (tmp_path / "size" / "there").write_bytes(b"12345")
    (tmp_path / "size" / "gone").symlink_to(tmp_path / "nowhere")
    assert occupied(tmp_path / "size") == 5
    over = threading.Event()

    def save_and_delete():
        directory = tmp_path / "size" / "checkpoint"
        while not over.is_set():
            directory.mkdir()
            (directory / "file").write_bytes(b"1")
            shutil.rmtree(directory)

    other = threading.Thread(target=save_and_delete)
    other.start()
    try:
        assert {occupied(tmp_path / "size") for _ in range(500)} <= {5, 6}
    finally:
        over.set()
        other.join()


def test_python_gets_what_the_lines_say(tmp_path):
    run("local", "model", "add", "me/same", str(MODEL))
    assert tinkex.run(["local", "info"]).value["models"] == 2
    models = tinkex.run(["local", "model", "list"]).value
    assert [model["model_name"] for model in models] == [DEFAULT_MODEL, "me/same"]
    assert tinkex.run(["local", "model", "remove", "me/same"]).value == "me/same"


def test_the_home_is_private(tmp_path):
    run("local", "info")
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_reset_asks_and_then_deletes(tmp_path):
    save(tmp_path)
    with pytest.raises(TinkexError, match="confirmation"):
        run("local", "reset")
    assert json.loads(run("local", "info", "--json"))["checkpoints"] == 1
    with pytest.raises(TinkexError, match="confirmation"):
        run("local", "reset", "--curl")
    assert json.loads(run("local", "info", "--json"))["checkpoints"] == 1
    run("local", "reset", "--yes")
    info = json.loads(run("local", "info", "--json"))
    assert (info["sessions"], info["runs"], info["checkpoints"]) == (0, 0, 0)
    assert list((tmp_path / "home" / "checkpoints").iterdir()) == []


def test_reset_mends_a_damaged_state(tmp_path):
    run("local", "info")
    (tmp_path / "home" / FILE).write_bytes(b"garbage" * 1000)
    with pytest.raises(TinkexError, match="not a database"):
        run("local", "info")
    run("local", "reset", "--yes")
    assert json.loads(run("local", "info", "--json"))["runs"] == 0


@contextlib.contextmanager
def full_disk():
    """Let this process write nothing into any file.

    Not a fixture: pytest reports a test's outcome before it ends the fixtures, and its own report may
    go to a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_reset_removes_nothing_when_the_disk_is_full(tmp_path):
    checkpoint = save(tmp_path)
    state = {path: path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()}
    with full_disk(), pytest.raises(LocalError, match=r"cannot use .*state") as caught:
        run("local", "reset", "--yes")
    assert "reset" not in (caught.value.hint or "")
    assert state[tmp_path / "home" / FILE] == (tmp_path / "home" / FILE).read_bytes()
    assert all(path.exists() for path in state if "checkpoints" in path.parts), checkpoint


def test_a_new_state_on_a_full_disk_is_told_at_once(tmp_path):
    with full_disk(), pytest.raises(LocalError):
        run("local", "info")


def test_reset_leaves_a_state_of_a_newer_version_alone(tmp_path):
    (tmp_path / "home").mkdir()
    store = Store(tmp_path / "home" / FILE)
    store.write("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(LocalError, match="newer version"):
        run("local", "reset", "--yes")
    assert (tmp_path / "home" / FILE).exists()


def test_a_state_that_breaks_while_it_is_used_is_mended_too(tmp_path):
    save(tmp_path)
    file = tmp_path / "home" / FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    run("local", "reset", "--yes")
    assert json.loads(run("local", "info", "--json"))["runs"] == 0


def test_homes_of_nobody_are_told(monkeypatch):
    with pytest.raises(LocalError, match="no such home directory: ~nosuchuser"):
        run("local", "model", "add", "me/other", "~nosuchuser/model")
    monkeypatch.setenv("TINKEX_LOCAL_HOME", "~nosuchuser/x")
    with pytest.raises(LocalError, match="no such home directory: ~nosuchuser"):
        run("local", "info")
    with pytest.raises(LocalError, match="no such home directory: ~nosuchuser"):
        run("local", "reset", "--yes")


def test_a_model_is_added_used_listed_and_removed(tmp_path, model):
    assert run("local", "model", "add", "me/other", str(model)) == "Added me/other\n"
    listed = json.loads(run("local", "model", "list", "--json"))
    assert [entry["model_name"] for entry in listed] == [DEFAULT_MODEL, "me/other"]
    assert listed[1]["directory"] == str(model)
    told = json.loads(
        run(
            *("--profile", "local", "run", "--base-model", "me/other", "--prompt", "Holmes"),
            *("--max-tokens", "3", "--seed", "1", "--json"),
        )
    )
    assert 1 <= len(told["sequences"][0]["tokens"]) <= 3
    run("local", "reset", "--yes")
    assert len(json.loads(run("local", "model", "list", "--json"))) == 2
    assert run("local", "model", "remove", "me/other") == "Removed me/other\n"
    assert len(json.loads(run("local", "model", "list", "--json"))) == 1
    assert (model / "model.onnx").exists()


def test_an_added_model_without_config_json_samples_but_has_no_mlp_adapters(tmp_path, model):
    (model / "config.json").unlink()
    run("local", "model", "add", "me/other", str(model))
    save_it = ["--profile", "local", "checkpoint", "--base-model", "me/other", "--rank", "4"]
    with pytest.raises(TinkexError, match=r"config\.json"):
        run(*save_it, "--output", str(tmp_path / "x.json"))
    run(*save_it, "--no-train-mlp", "--output", str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("name", "break_it", "words"),
    [
        (DEFAULT_MODEL, lambda path: None, "already"),
        ("a/b/c", lambda path: None, "no model name"),
        ("../x", lambda path: None, "no model name"),
        ("me/x", lambda path: shutil.rmtree(path), "not a directory"),
        ("me/x", lambda path: (path / "genai_config.json").unlink(), "genai_config.json"),
        ("me/x", lambda path: (path / "genai_config.json").write_text("{"), "JSON"),
        ("me/x", lambda path: (path / "genai_config.json").write_text("{}"), "lacks"),
        ("me/x", lambda path: (path / "tokenizer.json").unlink(), "tokenizer.json"),
        ("me/x", lambda path: (path / "model.onnx").unlink(), "model.onnx"),
    ],
)
def test_what_is_no_model_is_not_added(model, name, break_it, words):
    break_it(model)
    with pytest.raises(TinkexError, match=words):
        run("local", "model", "add", name, str(model))
    assert len(json.loads(run("local", "model", "list", "--json"))) == 1


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "context_length", math.inf),
        ("model", "context_length", -1),
        ("model", "vocab_size", "many"),
        ("model", "eos_token_id", [0, math.inf]),
        ("model", "decoder", None),
        ("decoder", "hidden_size", 10**400),
    ],
)
def test_a_model_whose_configuration_is_garbled_is_not_added(model, part, name, value):
    path = model / "genai_config.json"
    config = json.loads(path.read_text())
    (config["model"] if part == "model" else config["model"]["decoder"])[name] = value
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match=rf"genai_config\.json: {name} is not "):
        run("local", "model", "add", "me/x", str(model))


def test_a_directory_that_the_state_cannot_name_is_not_added(tmp_path, model):
    directory = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    model.rename(directory)
    with pytest.raises(UsageError, match="not UTF-8"):
        run("local", "model", "add", "me/x", directory)


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "me/unknown"])
def test_what_was_not_added_cannot_be_removed(name):
    with pytest.raises(TinkexError):
        run("local", "model", "remove", name)


def test_a_model_that_lost_its_directory_is_listed_and_told(tmp_path, model):
    run("local", "model", "add", "me/other", str(model))
    shutil.rmtree(model)
    listed = json.loads(run("local", "model", "list", "--json"))
    assert listed[1]["context_length"] is None
    run("local", "model", "remove", "me/other")


def test_the_main_job_through_the_embedded_service(tmp_path):
    path = save(tmp_path)
    local = ("--profile", "local")
    (listed,) = json.loads(run(*local, "checkpoint", "list", "--json"))
    assert listed["tinker_path"] == path
    sample = ("--prompt", "Holmes", "--max-tokens", "5", "--seed", "1", "--json")
    base = json.loads(run(*local, "run", "--base-model", DEFAULT_MODEL, *sample))
    assert json.loads(run(*local, "run", "--model-path", path, *sample)) == base
    run(*local, "checkpoint", "publish", path)
    run(*local, "checkpoint", "download", path, "--output", str(tmp_path / "got"))
    assert (tmp_path / "got" / "adapter_model.safetensors").stat().st_size > 10_000
    run(*local, "checkpoint", "delete", "--yes", path)
    assert json.loads(run(*local, "checkpoint", "list", "--json")) == []


def test_what_was_done_as_json(tmp_path, model):
    def rows(*words):
        return json.loads(run(*words, "--json"))

    added = rows("local", "model", "add", "me/other", str(model))
    assert added == {"model_name": "me/other", "directory": str(model)}
    assert rows("local", "model", "remove", "me/other") == {"model_name": "me/other"}
    assert rows("local", "reset", "--yes").keys() == {"home"}
