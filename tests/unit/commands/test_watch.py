"""The format of the lines of ``run watch``."""

from __future__ import annotations

import json

import pytest

from tests.unit.api.conftest import Server
from tinkex.testing import invoke


@pytest.fixture
def watch():
    server = Server()
    # A corrupted run ends the command.
    run = {"training_run_id": "r", "base_model": "m", "model_owner": "o", "is_lora": True}
    run |= {"corrupted": True, "last_request_time": "2026-11-01T10:00:00Z"}
    server.on("GET", "training_runs/r", run)
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": []})
    where = f"--base-url {server.url} --api-key k"
    yield lambda words, **environ: invoke(f"{words} {where}".split(), environ=environ)
    server.close()


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        ("run watch r -f json", {}),
        ("run watch r --json", {}),
        ("-f json run watch r", {}),
        ("--json run watch r", {}),
        ("run watch r", {"TINKEX_FORMAT": "json"}),
    ],
)
def test_json(watch, words, environ):
    done = watch(words, **environ)
    first, *_ = map(json.loads, done.stdout.splitlines())
    assert first == {"time": "2026-11-01T10:00:00Z", "event": "run", "subject": "r"}
    assert "corrupted" in json.loads(done.stderr)["error"]["message"]


@pytest.mark.parametrize(
    ("words", "setting"),
    [("run watch r", ""), ("run watch r", "yaml"), ("run watch r -f plain", "json")],
)
def test_plain_otherwise(watch, words, setting):
    done = watch(words, **({"TINKEX_FORMAT": setting} if setting else {}))
    assert done.stdout.startswith("2026-11-01T10:00:00Z\tlast request\tr\n")
    assert done.stderr.startswith("Run watch failed")


def test_an_unknown_format_before_the_command_is_refused(watch):
    done = watch("-f yaml run watch r")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert (
        "run watch does not support the format 'yaml'\nHint: Formats: plain, json.\n" in done.stderr
    )
