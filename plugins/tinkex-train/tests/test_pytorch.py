"""``train sft`` with PyTorch, also over HTTP: interrupted, and with a service that is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinkex.testing import Invocation, invoke, local_service

pytestmark = pytest.mark.train

MODEL = "tinkex/baker-street-2M"
#: Seconds after which a process hangs.
PATIENCE = 120
OPTIONS = ("--base-model", MODEL, "--rank", "4", "--batch-size", "2", "--learning-rate", "0.01")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A new home, and a directory with six short rows."""
    with local_service(tmp_path / "home"):
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        lines = [json.dumps({"text": f"{n} green bottles hanging on the wall"}) for n in range(6)]
        Path("data.jsonl").write_text("\n".join(lines))
        yield


def rows(name: str, output: str = "out") -> list[dict[str, Any]]:
    path = Path(output, name)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(output: str) -> list[float]:
    return [row["train_mean_nll"] for row in rows("metrics.jsonl", output)]


def sft(*words: str) -> Invocation:
    return invoke(["train", "sft", "data.jsonl", *OPTIONS, *words])


def sampled(*model: str) -> str:
    words = ["--prompt", "9 green bottles hanging", "--max-tokens", "3", "--temperature", "0"]
    (found,) = invoke(["run", *model, *words, "-f", "json"]).rows
    return str(found["text"])


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for *condition*, as long as *process* runs."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts tinkex; processes are killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tinkex", *words],
            env=os.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def test_a_resumed_run_is_the_same_and_samples_what_it_learned():
    epochs = ("--epochs", "4", "--save-every", "5")
    whole = sft(*epochs, "--output", "whole", "-f", "json")
    assert whole.exit_code == 0, whole.stderr
    Path("out").mkdir()
    first = rows("checkpoints.jsonl", "whole")[0]
    assert (first["name"], first["epoch"], first["batch"]) == ("000005", 1, 2)
    Path("out/checkpoints.jsonl").write_text(json.dumps(first) + "\n")  # as if killed after it

    resumed = sft(*epochs, "--output", "out", "--resume", "-f", "json")

    assert resumed.exit_code == 0, resumed.stderr
    assert losses("out") == pytest.approx(losses("whole")[5:], rel=1e-5)
    assert losses("whole")[-1] < losses("whole")[0] / 2
    learned = sampled("--model-path", resumed.rows["sampler_path"])
    assert learned == " on the wall"
    assert learned == sampled("--model-path", whole.rows["sampler_path"])
    assert learned != sampled("--base-model", MODEL)


def test_a_terminated_process_has_saved(start: Start):
    words = ("train", "sft", "data.jsonl", *OPTIONS, "--epochs", "50", "--output", "out")
    process = start(*words)
    until(lambda: len(rows("metrics.jsonl")) >= 2, process)

    process.terminate()
    stdout, stderr = process.communicate(timeout=PATIENCE)

    assert (process.returncode, stdout) == (128 + signal.SIGTERM, ""), stderr
    assert "Saving a checkpoint" in stderr
    assert re.search(r"To resume:\n  tinkex train sft data\.jsonl .* --resume\n", stderr)
    (saved,) = rows("checkpoints.jsonl")
    assert 3 * saved["epoch"] + saved["batch"] == len(rows("metrics.jsonl"))
    listed = invoke(["checkpoint", "list", "-f", "json"]).rows
    assert saved["state_path"] in [row["tinker_path"] for row in listed]


def test_a_killed_service_is_waited_for_and_the_run_resumes(start: Start):
    def serve(port: str) -> tuple[subprocess.Popen[str], str]:
        service = start("local", "serve", "--port", port)
        assert service.stdout is not None
        return service, service.stdout.readline().strip()

    service, url = serve("0")
    words = ["train", "sft", "data.jsonl", *OPTIONS, "--output", "out", "--save-every", "2"]
    words += ["--epochs", "6", "--timeout", "60s"]
    remote = {"TINKEX_PROFILE": "", "TINKER_BASE_URL": url, "TINKER_API_KEY": "tml-any"}
    remote["TINKEX_HTTP_POOL"] = "default"
    training = start(*words, **remote)
    until(lambda: len(rows("checkpoints.jsonl")) >= 2, training)
    service.kill()
    service.wait(PATIENCE)
    serve(url.rpartition(":")[2])

    _, stderr = training.communicate(timeout=PATIENCE)
    assert training.returncode == 1, stderr
    assert "To resume:" in stderr
    again = start(*words, "--resume", "-f", "json", **remote)
    stdout, stderr = again.communicate(timeout=PATIENCE)

    assert again.returncode == 0, stderr
    assert json.loads(stdout)["steps"] == 18
    assert [row["step"] for row in rows("metrics.jsonl")] == list(range(18))
    assert [row["name"] for row in rows("checkpoints.jsonl")][-1] == "final"
