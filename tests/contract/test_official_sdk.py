"""The official SDK and its command line, from PyPI, against ``tinkex local serve``.

They are in a separate virtual environment, because they need hundreds of megabytes: ``.venv-sdk``
in the root of the repository, or the interpreter that ``TINKEX_SDK_PYTHON`` names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tests.functional.conftest import serving_locally
from tinkex.testing import invoke

ROOT = Path(__file__).resolve().parents[2]
SDK = Path(os.environ.get("TINKEX_SDK_PYTHON") or ROOT / ".venv-sdk" / "bin" / "python")
BASE_MODEL = "tinkex/baker-street-2M"
DRIVER, PROGRAM = (Path(__file__).with_name(f"sdk_{name}.py") for name in ("driver", "program"))

pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(
        not SDK.exists(),
        reason=f"THE OFFICIAL SDK IS NOT TESTED: {SDK} does not exist "
        "(python -m venv .venv-sdk && .venv-sdk/bin/pip install 'tinker==0.38.*')",
    ),
]


@contextmanager
def served(home: Path, key: str) -> Iterator[dict[str, str]]:
    """Run the local service, which asks for *key*; yields the environment of its clients.

    It knows nothing of the machine's accounts and proxies.
    """
    environ = {"PATH": os.defpath, "HOME": str(home), "COLUMNS": "200"}
    environ |= {"TINKER_TELEMETRY": "0", "HF_HUB_OFFLINE": "1"}
    with serving_locally(home, key, environ) as service:
        yield environ | {"TINKER_BASE_URL": service.url}


def with_the_sdk(*words: str | Path, env: dict[str, str]) -> str:
    """Return what the interpreter of the SDK prints when it is run with *words*."""
    done = subprocess.run([SDK, *words], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode in (0, ABORTED), (words, done.stdout, done.stderr)
    return done.stdout


#: The official program has been seen to abort when its interpreter ends, with all of it done.
ABORTED = -signal.SIGABRT


class Official:
    """The official command line, in one process for all tests of a file."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [SDK, PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, env: dict[str, str], stdin: str = "", code: int = 0) -> str:
        """Return what the command line prints, which ends with *code*."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(
            json.dumps({"words": words, "environ": env, "stdin": stdin}), file=self._process.stdin
        )
        self._process.stdin.flush()
        done = json.loads(self._process.stdout.readline())
        assert done["code"] in (code, ABORTED), (words, done)
        return str(done["stdout"])

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def official_program() -> Iterator[Official]:
    program = Official()
    yield program
    program.close()


def ours_in(environ: dict[str, str], *words: str, stdin: str = "", code: int = 0) -> str:
    """Return what tinkex prints, which ends with *code*."""
    done = invoke(words, stdin=stdin, environ=environ)
    assert done.exit_code == code, (words, done)
    return done.stdout


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    # With a key, so that the SDK exchanges it for a token.
    with served(tmp_path_factory.mktemp("sdk"), "tml-dummy") as found:
        yield found | {"TINKER_API_KEY": "tml-dummy"}


@pytest.fixture(scope="module")
def found(environ):
    """What the SDK saw and did."""
    return json.loads(with_the_sdk(DRIVER, BASE_MODEL, env=environ))


@pytest.fixture(scope="module")
def official(environ, found, official_program):
    """The official command line, after the SDK has run."""

    def run(*words):
        return json.loads(official_program("-f", "json", *words, env=environ) or "null")

    return run


@pytest.fixture(scope="module")
def ours(environ, found):
    """Our command line against the same server."""
    return lambda *words: json.loads(ours_in(environ, *words, "-f", "json") or "null")


def test_the_sdk_creates_saves_and_loads_and_learns_what_training_needs(found):
    assert found["models"] == [BASE_MODEL]
    assert found["info"] == found["loaded"] == [BASE_MODEL, True, 8]
    assert found["sampler_path"] == f"tinker://{found['run']}/sampler_weights/final"
    assert found["state_path"] == f"tinker://{found['run']}/weights/state"
    assert found["clash"].startswith("RequestFailedError")
    for refusal in found["training"]:
        assert refusal.startswith("BadRequestError")
        assert "pip install tinkex-torch" in refusal


def test_the_sdk_samples_from_base_and_checkpoint(found):
    base = found["base_samples"]
    assert len(base) == 2
    assert base[0]["tokens"] != base[1]["tokens"]
    for sequence in base:
        assert 1 <= len(sequence["tokens"]) == len(sequence["logprobs"]) <= 6
        assert sequence["stop_reason"] in ("stop", "length")
    # A fresh adapter changes nothing, so one seed gives one text.
    for name in ("tuned_samples", "unnamed_samples"):
        assert [s["tokens"] for s in found[name]] == [s["tokens"] for s in base]
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
    assert found["expires"] == [True, False]
    assert found["after_delete"] == [found["state_path"]]


def test_both_command_lines_list_the_same_runs(official, ours, found):
    theirs, mine = official("run", "list")["runs"], ours("run", "list")
    assert len(theirs) == 2
    for own, other in zip(mine, theirs, strict=True):
        for name in ("training_run_id", "user_metadata", "is_lora", "lora_rank"):
            assert own[name] == other[name]
        for name in ("last_checkpoint", "last_sampler_checkpoint"):
            assert own[name] == (other[name] or {"tinker_path": None})["tinker_path"]
            assert (own[f"{name}_time"] is None) == (own[name] is None)
    assert [run["last_checkpoint"] for run in theirs if run["training_run_id"] == found["run"]] != [
        None
    ]


def test_both_command_lines_show_the_same_checkpoints(official, ours, found):
    theirs, mine = official("checkpoint", "list")["checkpoints"], ours("checkpoint", "list")
    for name in ("tinker_path", "size_bytes"):
        assert [row[name] for row in mine] == [item[name] for item in theirs]
    for program in (official, ours):
        info = program("checkpoint", "info", found["state_path"])
        assert (info["lora_rank"], info["is_lora"]) == (8, True)


def test_both_export_the_same_trace(official, ours, found, tmp_path):
    session = found["run"].partition(":")[0]
    theirs, own = tmp_path / "theirs.pftrace", tmp_path / "own.pftrace"
    official("session", "export-trace", session, "--output", str(theirs))
    ours("session", "export-trace", session, "--output", str(own))
    assert found["sampler_path"].encode() in own.read_bytes()
    assert theirs.read_bytes() == own.read_bytes()


def test_both_command_lines_set_and_remove_the_same_expiry(official, ours, found):
    path = found["state_path"]

    def expiry(program, *words):
        program("checkpoint", "set-ttl", path, *words)
        (row,) = [row for row in ours("checkpoint", "list") if row["tinker_path"] == path]
        return row["expires_at"]

    for seconds in ("7200", "2592000"):
        theirs, mine = (
            datetime.fromisoformat(expiry(program, "--ttl", seconds))
            for program in (official, ours)
        )
        assert abs((mine - theirs).total_seconds()) < 60
    for program in (official, ours):
        assert expiry(ours, "--ttl", "1d") is not None
        assert expiry(program, "--remove") is None


def test_the_official_sdk_sees_our_copy(official, ours, found):
    copied = ours("checkpoint", "copy", found["state_path"])["tinker_path"]
    theirs = {c["tinker_path"]: c for c in official("checkpoint", "list")["checkpoints"]}
    assert theirs[copied]["size_bytes"] == theirs[found["state_path"]]["size_bytes"]
    deleted = official("checkpoint", "delete", "-y", copied)
    assert deleted == {"deleted_count": 1, "failed": []}


def test_the_official_command_line_downloads_and_deletes(official, ours, found, tmp_path):
    target = tmp_path / "download"
    official("checkpoint", "download", found["state_path"], "-o", str(target))
    (directory,) = target.iterdir()
    config = json.loads((directory / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 8)
    assert (directory / "adapter_model.safetensors").stat().st_size > 10_000
    deleted = official("checkpoint", "delete", "-y", found["state_path"])
    assert deleted == {"deleted_count": 1, "failed": []}
    assert ours("checkpoint", "list") == []
