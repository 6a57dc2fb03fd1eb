"""Aliases of checkpoints: where they are stored, and where they are accepted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.api.conftest import Server
from tinkex.config import aliases
from tinkex.testing import invoke

PATH = "tinker://r1/sampler_weights/final"
OTHER = "tinker://r2/weights/s1"


@pytest.fixture
def store(home: Path) -> Path:
    return home / ".config" / "tinkex" / "aliases.json"


def tinkex(*argv: str, code: int = 0, **options):
    done = invoke(["--api-key", "k", *argv], **options)
    assert done.exit_code == code, done.stderr
    return done


def test_set_list_and_remove(store):
    done = tinkex("alias", "set", "prod", PATH)
    assert done.stdout == f"@prod is {PATH}\n"
    assert tinkex("alias", "set", "@prod", OTHER).stdout == f"@prod is {OTHER} (was {PATH})\n"
    assert tinkex("alias", "set", "prod", OTHER).stdout == f"@prod is {OTHER}\n"
    tinkex("alias", "set", "a.b-c_1", "@prod")
    assert tinkex("alias", "list", "-f", "json").rows == [
        {"alias": "@a.b-c_1", "tinker_path": OTHER},
        {"alias": "@prod", "tinker_path": OTHER},
    ]
    assert store.stat().st_mode & 0o777 == 0o600
    (row,) = tinkex("alias", "remove", "@prod", "-f", "json").rows
    assert row == {"alias": "@prod", "tinker_path": OTHER}
    assert json.loads(store.read_text()) == {"a.b-c_1": OTHER}


def test_a_short_name_is_looked_up_once(store):
    server = Server()
    checkpoint = {"checkpoint_id": "x", "checkpoint_type": "sampler", "tinker_path": PATH}
    server.on("GET", "checkpoints", {"checkpoints": [checkpoint]})
    try:
        tinkex("alias", "set", "prod", "@latest", "--base-url", server.url)
    finally:
        server.close()
    assert json.loads(store.read_text()) == {"prod": PATH}


@pytest.mark.parametrize("name", ["latest", "@latest", "LATEST"])
def test_names_with_another_meaning_are_refused(name, store):
    done = tinkex("alias", "set", name, PATH, code=1)
    assert "cannot be an alias because it refers to the newest checkpoint" in done.stderr
    assert not store.exists()


@pytest.mark.parametrize(
    "name", ["", "@", "-", ".x", "a b", "a:b", "a~1", "a/b", "a@b", "é", "x" * 65]
)
def test_other_names_are_refused(name, store):
    done = tinkex("alias", "set", "--", name, PATH, code=1)
    assert "invalid alias name" in done.stderr
    assert not store.exists()


@pytest.mark.parametrize("path", ["tinker://r1", "tinker://"])
def test_what_is_no_checkpoint_is_not_stored(path, store):
    tinkex("alias", "set", "prod", path, code=1)
    assert not store.exists()


@pytest.fixture
def service(store):
    store.parent.mkdir(parents=True)
    store.write_text(json.dumps({"prod": PATH}))
    store.chmod(0o600)
    server = Server()
    run = {"training_run_id": "r1", "base_model": "m", "last_request_time": None}
    checkpoint = {"checkpoint_id": "sampler_weights/final", "checkpoint_type": "sampler"}
    server.on("GET", "training_runs/r1", run)
    listed = {"checkpoints": [{**checkpoint, "tinker_path": PATH}]}
    server.on("GET", "training_runs/r1/checkpoints", listed)
    server.on("POST", "training_runs/r1/checkpoints/sampler_weights/final/publish", {})
    server.on("POST", "create_session", {"session_id": "s"})
    server.on("POST", "create_sampling_session", {"sampling_session_id": "x"})
    yield server
    server.close()


@pytest.mark.parametrize(
    ("argv", "request_path"),
    [
        (["checkpoint", "info", "@prod"], "training_runs/r1"),
        (["checkpoint", "publish", "@prod"], f"training_runs/r1/checkpoints/{PATH[12:]}/publish"),
        (["checkpoint", "list", "--run-id", "@prod"], "training_runs/r1/checkpoints"),
        (["run", "info", "@prod"], "training_runs/r1"),
    ],
)
def test_an_alias_is_accepted_in_place_of_a_path(argv, request_path, service):
    done = tinkex(*argv, "--base-url", service.url)
    assert service.requests(request_path)
    assert f"@prod is {'r1' if '@prod' in argv[2:] and 'run' in ' '.join(argv) else PATH}\n" in (
        done.stderr
    )


def test_an_alias_is_sampled(service):
    service.on("POST", "asample", {"sequences": [{"tokens": [1], "logprobs": None}]})
    argv = ["run", "--model-path", "@prod", "--prompt-file", "-", "--base-url", service.url]
    done = tinkex(*argv, "--json", stdin="[1]")
    assert json.loads(done.stdout)["sequences"][0]["tokens"] == [1]
    assert service.requests("create_sampling_session")[0].body["model_path"] == PATH


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["checkpoint", "info", "@prd"], "no alias named @prd", "Did you mean @prod?"),
        (["checkpoint", "info", "@lates"], "no alias named @lates", "Did you mean @latest?"),
        (["run", "info", "@x"], "no alias named @x", "See 'tinkex alias list'."),
        (["alias", "remove", "prod", "x"], "no alias named @x", "Known aliases: @prod."),
        (["run", "--model-path", "@x", "--prompt", "a"], "no alias named @x", "alias list"),
    ],
)
def test_an_unknown_alias_is_reported_without_a_request(argv, message, hint, service, store):
    done = tinkex(*argv, "--base-url", service.url, code=1)
    assert message in done.stderr
    assert hint in done.stderr
    assert not service.seen
    assert json.loads(store.read_text()) == {"prod": PATH}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not a JSON object that maps names to paths"),
        (b"[]", "is not a JSON object that maps names to paths"),
        (b'{"prod": 3}', "is not a JSON object that maps names to paths"),
        (b"\xff", "not UTF-8 text"),
        (b'{"prod": "file:///etc/passwd"}', "not a checkpoint path"),
    ],
)
def test_a_damaged_file_is_reported_and_not_overwritten(content, message, service, store):
    store.write_bytes(content)
    done = tinkex("checkpoint", "info", "@prod", code=1)
    assert message in done.stderr
    if "not a checkpoint" not in message:
        assert message in tinkex("alias", "set", "a", PATH, code=1).stderr
        assert message in tinkex("alias", "list", code=1).stderr
    assert store.read_bytes() == content


def test_a_file_that_others_can_write_is_not_used(service, store):
    store.chmod(0o666)
    for argv in (["checkpoint", "info", "@prod"], ["alias", "list"], ["alias", "remove", "prod"]):
        done = tinkex(*argv, code=1)
        assert "other users can write to it" in done.stderr
    assert tinkex("checkpoint", "info", PATH, "--base-url", service.url)  # needs no alias


def test_the_file_is_next_to_the_configuration_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TINKEX_CONFIG", str(tmp_path / "c.yaml"))
    tinkex("alias", "set", "prod", PATH)
    assert json.loads((tmp_path / "aliases.json").read_text()) == {"prod": PATH}
    monkeypatch.setenv("TINKEX_CONFIG", os.devnull)
    assert aliases.read() == {}
    done = tinkex("alias", "set", "prod", PATH, code=1)
    assert "cannot store aliases next to /dev/null" in done.stderr


def test_two_processes_do_not_change_it_at_once(store, monkeypatch):
    from tinkex import files

    tinkex("alias", "set", "prod", PATH)
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.0)
    with files.locked(store):
        done = tinkex("alias", "set", "prod", OTHER, code=1)
    assert "another tinkex process is changing" in done.stderr
    assert aliases.read() == {"prod": PATH}
