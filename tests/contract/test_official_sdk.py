"""The official SDK and its command line, from PyPI, against ``tinkex local serve``.

They live in a virtual environment of their own, because they bring hundreds of megabytes that
nobody else needs: ``.venv-sdk`` in the root of the repository, or the interpreter that
``TINKEX_SDK_PYTHON`` names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SDK = Path(os.environ.get("TINKEX_SDK_PYTHON") or ROOT / ".venv-sdk" / "bin" / "python")
BASE_MODEL = "tinkex/baker-street-2M"

pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(
        not SDK.exists(),
        reason=f"THE OFFICIAL SDK IS NOT TESTED: {SDK} does not exist "
        "(python -m venv .venv-sdk && .venv-sdk/bin/pip install 'tinker==0.38.*')",
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("sdk")


@pytest.fixture(scope="module")
def environ(home):
    """An environment that knows nothing of the machine's accounts and proxies."""
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "COLUMNS": "200",
        "TINKEX_LOCAL_HOME": str(home / "state"),
        "TINKER_API_KEY": "tml-dummy",
        "TINKER_TELEMETRY": "0",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture(scope="module")
def server(environ):
    log = Path(environ["HOME"]) / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            # With a key, so that the SDK exchanges it for a token.
            [sys.executable, "-m", "tinkex", "local", "serve", "--api-key", "tml-dummy"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environ,
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, log.read_text()
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in log.read_text()


def succeeded(done: subprocess.CompletedProcess[str]) -> bool:
    """Tell whether a program did its work.

    The official one has been seen to abort when its interpreter ends, with all of it done.
    """
    theirs = Path(done.args[0]).parent == SDK.parent
    return done.returncode == 0 or (theirs and done.returncode == -signal.SIGABRT)


@pytest.fixture(scope="module")
def call(environ, server):
    """Run something of the SDK's environment against the server; return its JSON."""

    def run(*command: str):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            env=environ | {"TINKER_BASE_URL": server},
        )
        assert succeeded(done), done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def found(call):
    """What the SDK saw and did."""
    return call(str(SDK), str(Path(__file__).with_name("sdk_driver.py")), BASE_MODEL)


@pytest.fixture(scope="module")
def official(call, found):
    """The official command line, after the SDK has run."""
    return lambda *words: call(str(SDK.with_name("tinker")), "-f", "json", *words)


@pytest.fixture(scope="module")
def ours(call, found):
    """Our command line against the same server."""
    return lambda *words: call(sys.executable, "-m", "tinkex", *words, "-f", "json")


class _Both:
    """The same words for the official command line and for ours."""

    def __init__(self, environ):
        self.environ = environ
        self.official = [str(SDK.with_name("tinker"))]
        self.ours = [sys.executable, "-m", "tinkex"]

    def __call__(self, *words: str) -> list[list[str]]:
        return [[*self.official, *words], [*self.ours, *words]]

    def run(self, command: list[str]) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=self.environ
        )
        assert succeeded(done), done.stderr


@pytest.fixture(scope="module")
def run_both(environ, server):
    """Make command lines of both programs, and run them."""
    return _Both(environ | {"TINKER_BASE_URL": server})


def test_the_sdk_trains_nothing_but_creates_saves_and_loads(found):
    assert found["models"] == [BASE_MODEL]
    info = {"model_name": BASE_MODEL, "is_lora": True, "lora_rank": 8}
    assert found["info"] == found["loaded"] == info
    assert found["sampler_path"] == f"tinker://{found['run']}/sampler_weights/final"
    assert found["state_path"] == f"tinker://{found['run']}/weights/state"
    assert found["clash"].startswith("RequestFailedError")
    for refusal in found["training"]:
        assert refusal.startswith("BadRequestError")
        assert "does not train" in refusal


def test_the_sdk_samples_from_base_and_checkpoint(found):
    base = found["base_samples"]
    assert len(base) == 2
    assert base[0]["tokens"] != base[1]["tokens"]
    for sequence in base:
        assert 1 <= len(sequence["tokens"]) == len(sequence["logprobs"]) <= 6
        assert sequence["stop_reason"] in ("stop", "length")
    # A fresh adapter changes nothing, so one seed gives one text.
    assert [s["tokens"] for s in found["tuned_samples"]] == [s["tokens"] for s in base]
    assert found["unnamed_samples"] == [base[0]["tokens"]]
    assert found["prompt_logprobs"][0] is None
    assert all(value < 0 for value in found["prompt_logprobs"][1:])


def test_the_sdk_scores_stops_and_waits_for_many(found):
    assert found["scored"] == found["prompt_logprobs"]
    assert found["topk"][0] is None
    for value, row in zip(found["scored"][1:], found["topk"][1:], strict=True):
        assert len(row) == 2
        assert row[0][1] >= row[1][1]
        assert row[1][1] >= value or value in (row[0][1], row[1][1])
    greedy = found["greedy"]
    stopped = greedy[: greedy.index(greedy[5]) + 1]
    assert found["stopped"] == [stopped, "stop"]
    assert found["at_once"] == 100
    assert "The prompt has 2000 tokens" in found["too_long"]


def test_the_sdk_lists_shares_and_deletes(found):
    both = sorted([found["sampler_path"], found["state_path"]])
    assert found["runs"] == [found["run"]]
    assert found["listed"] == found["listed_of_run"] == both
    assert found["run_rank"] == 8
    assert found["weights_info"]["base_model"] == BASE_MODEL
    assert found["public"] == [True, False]
    assert found["expires"]
    assert found["expires_removed"]
    assert found["after_delete"] == [found["state_path"]]


def test_both_command_lines_list_the_same_runs(official, ours):
    theirs = [
        (run["training_run_id"], run["base_model"]) for run in official("run", "list")["runs"]
    ]
    mine = [tuple(row.values())[:2] for row in ours("run", "list")]
    assert len(theirs) == 2
    assert [run for run, _ in mine] == [run for run, _ in theirs]


def test_both_command_lines_show_the_same_checkpoints(official, ours, found):
    theirs = official("checkpoint", "list")["checkpoints"]
    mine = ours("checkpoint", "list")
    assert [row["tinker_path"] for row in mine] == [item["tinker_path"] for item in theirs]
    assert [row["size_bytes"] for row in mine] == [item["size_bytes"] for item in theirs]
    info = official("checkpoint", "info", found["state_path"])
    own = ours("checkpoint", "info", found["state_path"])
    assert (info["lora_rank"], info["is_lora"]) == (own["lora_rank"], own["is_lora"]) == (8, True)


def test_both_export_the_same_trace(official, ours, found, tmp_path):
    session = found["run"].partition(":")[0]
    theirs, own = tmp_path / "theirs.pftrace", tmp_path / "own.pftrace"
    official("session", "export-trace", session, "--output", str(theirs))
    ours("session", "export-trace", session, "--output", str(own))
    assert found["sampler_path"].encode() in own.read_bytes()
    assert theirs.read_bytes() == own.read_bytes()


def test_both_tell_the_last_checkpoints_and_what_is_attached(official, ours, found):
    (theirs,) = [r for r in official("run", "list")["runs"] if r["training_run_id"] == found["run"]]
    (own,) = [row for row in ours("run", "list") if row["training_run_id"] == found["run"]]
    assert theirs["last_checkpoint"]
    for name in ("last_checkpoint", "last_sampler_checkpoint"):
        last = theirs[name] or {"tinker_path": None}
        assert own[name] == last["tinker_path"]
        assert (own[f"{name}_time"] is None) == (own[name] is None)
    assert own["user_metadata"] == theirs["user_metadata"]
    assert (own["is_lora"], own["lora_rank"]) == (theirs["is_lora"], theirs["lora_rank"])


def test_both_command_lines_set_and_remove_the_same_expiry(official, ours, found, run_both):
    path = found["state_path"]

    def expiry():
        (row,) = [row for row in ours("checkpoint", "list") if row["tinker_path"] == path]
        return row["expires_at"]

    for seconds in (7200, 30 * 86400):
        expiries = []
        for words in run_both("checkpoint", "set-ttl", path, "--ttl", str(seconds)):
            run_both.run(words)
            expiries.append(datetime.fromisoformat(expiry()))
        theirs, mine = expiries
        assert abs((mine - theirs).total_seconds()) < 60
    for words in run_both("checkpoint", "set-ttl", path, "--remove"):
        run_both.run(words)
        assert expiry() is None
        run_both.run([*run_both.ours, "checkpoint", "set-ttl", path, "--ttl", "1d"])
    ours("checkpoint", "set-ttl", path, "--remove")


def test_the_official_sdk_sees_our_copy(official, ours, found):
    copied = ours("checkpoint", "copy", found["state_path"])["tinker_path"]
    theirs = {c["tinker_path"]: c for c in official("checkpoint", "list")["checkpoints"]}
    assert theirs[copied]["size_bytes"] == theirs[found["state_path"]]["size_bytes"]
    deleted = official("checkpoint", "delete", "-y", copied)
    assert deleted == {"deleted_count": 1, "failed": []}


def test_the_official_command_line_downloads_and_deletes(official, ours, found, environ, call):
    target = Path(environ["HOME"]) / "download"
    official("checkpoint", "download", found["state_path"], "-o", str(target))
    (directory,) = target.iterdir()
    config = json.loads((directory / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 8)
    assert (directory / "adapter_model.safetensors").stat().st_size > 10_000
    deleted = official("checkpoint", "delete", "-y", found["state_path"])
    assert deleted == {"deleted_count": 1, "failed": []}
    assert ours("checkpoint", "list") == []
