"""``run watch``: which format its lines have."""

from __future__ import annotations

import json

import pytest

from tests.unit.api.conftest import Server
from tinkex.testing import invoke

PLAIN = "2026-11-01T10:00:00Z\tlast request\tr\n"


@pytest.fixture
def watch():
    server = Server()
    # A corrupted run ends the watching.
    run = {"training_run_id": "r", "base_model": "m", "model_owner": "o", "is_lora": True}
    run |= {"corrupted": True, "last_request_time": "2026-11-01T10:00:00Z"}
    server.on("GET", "training_runs/r", run)
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": []})
    where = ("--base-url", server.url, "--api-key", "k")
    yield lambda *words, **environ: invoke([*words, *where], environ=environ)
    server.close()


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["run", "watch", "r", "-f", "json"], {}),
        (["run", "watch", "r", "--json"], {}),
        (["-f", "json", "run", "watch", "r"], {}),
        (["--json", "run", "watch", "r"], {}),
        (["run", "watch", "r"], {"TINKEX_FORMAT": "json"}),
    ],
)
def test_json_is_asked_for_as_of_every_command(watch, words, environ):
    done = watch(*words, **environ)
    first, *_ = map(json.loads, done.stdout.splitlines())
    assert first == {"time": "2026-11-01T10:00:00Z", "event": "run", "subject": "r"}
    assert "corrupted" in json.loads(done.stderr)["error"]["message"]


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["run", "watch", "r"], {}),
        (["run", "watch", "r"], {"TINKEX_FORMAT": "yaml"}),
        (["run", "watch", "r", "-f", "plain"], {"TINKEX_FORMAT": "json"}),
    ],
)
def test_lines_are_plain_otherwise(watch, words, environ):
    done = watch(*words, **environ)
    assert done.stdout.startswith(PLAIN)
    assert done.stderr.startswith("Run watch failed")


def test_a_format_that_it_does_not_have_is_refused_before_the_command_as_behind_it(watch):
    done = watch("-f", "yaml", "run", "watch", "r")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert "run watch has no format 'yaml'\nHint: It has: json, plain.\n" in done.stderr
