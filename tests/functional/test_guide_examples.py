"""The scripts in ``guide/`` — one for each kind of use in the guide — against a service over HTTP.

They are run by bash as they stand. ``jq`` is used where it is installed; ``guide/bin`` has a
stand-in for where it is not.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import KEY, MODEL
from tests.serving import Reply, serving
from tinkex import __version__
from tinkex.api import ServiceClient

GUIDE = Path(__file__).parent / "guide"

STATISTICS = re.compile(r"stop_reason=(length|stop) \| avg_logprob=-\d+\.\d{3}")


@dataclass(frozen=True)
class Ran:
    """What a script left behind."""

    stdout: str
    stderr: str
    directory: Path

    def file(self, name: str) -> str:
        return (self.directory / name).read_text(encoding="utf-8")

    def json(self, name: str) -> Any:
        return json.loads(self.file(name))


Run = Callable[..., Ran]


@pytest.fixture
def script(service, tmp_path: Path) -> Run:
    """Return a function that runs a script of the guide in an empty directory."""

    def run(name: str, **variables: str) -> Ran:
        programs = [str(Path(sys.executable).parent), os.environ["PATH"], str(GUIDE / "bin")]
        environ = os.environ | {
            "PATH": os.pathsep.join(programs),
            "BASE_URL": service.url,
            "TINKER_API_KEY": KEY,
            "MODEL": MODEL,
            # Whatever is not asked of the service must not come from elsewhere.
            "TINKEX_LOCAL_HOME": str(tmp_path / "unused"),
        }
        directory = tmp_path / name
        directory.mkdir()
        done = subprocess.run(
            ["bash", str(GUIDE / f"{name}.sh")],
            cwd=directory,
            env=environ | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        assert not (tmp_path / "unused").exists()
        return Ran(done.stdout, done.stderr, directory)

    return run


@pytest.fixture
def checkpoint(client: ServiceClient) -> str:
    """Return the path of a new checkpoint."""
    with client.create_lora_training_client(MODEL, rank=4) as training:
        return training.save_weights_for_sampler("guide").path


def assert_metadata(metadata: dict[str, Any]) -> None:
    """Check the file that ``checkpoint --output`` writes: the guide's keys and no other."""
    assert list(metadata) == ["base_model", "model_id", "weights_path", "saved_at", "response"]
    assert metadata["base_model"] == MODEL
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["saved_at"])
    assert metadata["response"] == {
        "model_id": metadata["model_id"],
        "path": metadata["weights_path"],
    }
    assert metadata["weights_path"].startswith(f"tinker://{metadata['model_id']}/")


def assert_samples(text: str, count: int) -> None:
    """Check the plain form of *count* samples."""
    parts = re.split(r"(?m)^Sample (\d+):\n", text)
    assert parts[0] == ""
    assert parts[1::2] == [str(number) for number in range(1, count + 1)]
    for body in parts[2::2]:
        sample, _, statistics = body.rstrip("\n").rpartition("\n")
        # The model may begin with its end, or write line breaks only.
        assert sample or statistics.startswith("stop_reason=stop"), "an empty sample"
        assert STATISTICS.fullmatch(statistics), statistics


def assert_response(response: dict[str, Any], tokens: int) -> None:
    """Check the whole response: the guide's members, and no more tokens than asked for."""
    assert list(response) == ["sequences", "prompt_logprobs", "topk_prompt_logprobs", "type"]
    assert response["type"] == "sample"
    (sequence,) = response["sequences"]
    assert list(sequence) == ["tokens", "logprobs", "stop_reason"]
    assert 1 <= len(sequence["tokens"]) <= tokens
    assert len(sequence["logprobs"]) == len(sequence["tokens"])
    assert all(isinstance(token, int) for token in sequence["tokens"])
    assert all(logprob <= 0 for logprob in sequence["logprobs"])
    assert sequence["stop_reason"] in ("length", "stop")


def test_verify(script: Run):
    first, second, *rest = script("verify").stdout.splitlines()

    assert re.fullmatch(rf"tinkex {re.escape(__version__)}( \([0-9a-f]{{7}}\))?", first)
    assert second == first
    assert list(json.loads("\n".join(rest))) == ["version", "commit"]


def test_save(script: Run):
    ran = script("save")

    assert ran.stdout == "Checkpoint saved to ./checkpoint.json\n"
    assert_metadata(ran.json("checkpoint.json"))


def test_save_custom(script: Run, client: ServiceClient):
    metadata = script("save-custom").json("checkpoints/lora-64.json")

    assert_metadata(metadata)
    info = client.checkpoints.info(metadata["weights_path"])
    assert (info.base_model, info.lora_rank, info.train_mlp, info.train_attn) == (
        MODEL,
        64,
        True,
        True,
    )


def test_list_checkpoints(script: Run, client: ServiceClient):
    with client.create_lora_training_client(MODEL, rank=4) as training:
        for number in range(12):
            training.save_weights_for_sampler(f"list-{number:02}")
    expected = [(c.checkpoint_id, c.tinker_path) for c in client.checkpoints.list(limit=20)]

    first, second = script("list-checkpoints").stdout.split("--\n")

    assert [tuple(line.split("\t")) for line in first.splitlines()] == expected[:10]
    assert [tuple(line.split("\t")) for line in second.splitlines()] == expected[10:20]
    assert len(expected) >= 12


def test_manage(script: Run, client: ServiceClient, checkpoint: str):
    ran = script("manage", CHECKPOINT=checkpoint)

    lines = ran.stdout.splitlines()
    assert lines[:3] == [f"Base model: {MODEL}", "LoRA: true", "LoRA rank: 4"]
    assert lines[-4:] == [
        f"Published {checkpoint}",
        f"Unpublished {checkpoint}",
        "Downloaded to ./models/checkpoint-001",
        f"Deleted {checkpoint}",
    ]
    config = ran.json("models/checkpoint-001/adapter_config.json")
    assert (config["base_model_name_or_path"], config["r"]) == (MODEL, 4)
    assert checkpoint not in [c.tinker_path for c in client.checkpoints.list(limit=None)]


def test_help(script: Run):
    lines = script("help").stdout.splitlines()

    assert [line.split("[")[0].strip() for line in lines] == [
        "usage: tinkex",
        "usage: tinkex checkpoint",
        "usage: tinkex checkpoint list",
        "usage: tinkex run",
        "usage: tinkex run list",
        "usage: tinkex version",
    ]


def test_runs(script: Run, checkpoint: str):
    run_id = checkpoint.removeprefix("tinker://").partition("/")[0]

    lists, info = script("runs", RUN=run_id).stdout.split("--\n")

    assert lists.splitlines().count(f"{run_id}\t{MODEL}") == 2  # the newest is on both lists
    assert info.splitlines()[:2] == [f"{run_id} ({MODEL})", "Owner: local"]


def test_example_1(script: Run):
    ran = script("example-1")

    assert ran.stdout.splitlines() == [
        "Saving checkpoint...",
        "Checkpoint saved to checkpoint.json",
        "Generating text...",
        "Done! Check checkpoint.json and generation.txt",
    ]
    assert_metadata(ran.json("checkpoint.json"))
    assert_samples(ran.file("generation.txt"), 1)


def test_example_2(script: Run):
    ran = script("example-2")

    assert ran.stdout.splitlines() == [
        "Processing: haiku",
        "Processing: languages",
        "Processing: recursion",
        "All prompts processed! Results in outputs/",
    ]
    for name in ("haiku", "recursion", "languages"):
        assert_response(ran.json(f"outputs/{name}.json"), tokens=100)


def test_example_3(script: Run, checkpoint: str):
    ran = script("example-3", CHECKPOINT=checkpoint)

    assert f"sampler_weights/guide\t{checkpoint}" in ran.stdout.splitlines()
    assert f"=== Checkpoint Info ===\nBase model: {MODEL}\n" in ran.stdout
    assert ran.stdout.endswith(
        "=== Downloading Checkpoint ===\nDownloaded to ./models/checkpoint-001\n\n"
        "Checkpoint saved to ./models/checkpoint-001\n"
    )
    files = {path.name for path in (ran.directory / "models" / "checkpoint-001").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files


def test_example_4(script: Run):
    ran = script("example-4")

    title, shown = ran.stdout.split("\n", 1)
    assert title == "Generated text from token IDs:"
    assert json.loads(shown) == ran.json("output.json")
    assert_response(ran.json("output.json"), tokens=50)


def test_example_5(script: Run):
    ran = script("example-5")

    samples, _, saved = ran.stdout.rstrip("\n").rpartition("\n")
    assert_samples(samples + "\n", 1)
    assert saved == "Checkpoint saved to checkpoint.json"
    assert_metadata(ran.json("checkpoint.json"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["checkpoint", "--base-model", MODEL, "--output", "c.json"],
            "Checkpoint failed. Please check your inputs: Missing --api-key",
        ),
        (
            ["checkpoint", "--base-model", MODEL, "--api-key", KEY],
            "Checkpoint failed. Please check your inputs: "
            "--output is required for checkpoint command",
        ),
        (
            ["checkpoint", "--base-model", MODEL, "--output", "c.json", "--invalid-flag"],
            "Invalid option(s) for checkpoint: --invalid-flag",
        ),
    ],
    ids=["no key", "no output", "invalid option"],
)
def test_a_mistake_is_reported_in_the_words_of_the_guide(
    tinkex, tmp_path, words: list[str], line: str
):
    done = tinkex(*words, code=1, cwd=tmp_path)

    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == line
    assert done.stderr.splitlines()[1].startswith("Hint: ")
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("global-options", 1),
        ("generate", 2),
        ("generate-text", 1),
        ("several-samples", 3),
        ("large-prompts", 1),
        ("prompt-files", 1),
    ],
)
def test_scripts_that_print_samples(script: Run, name: str, samples: int):
    ran = script(name)

    printed = re.split(r"(?m)^(?=Sample 1:$)", ran.stdout)[1:]
    assert len(printed) == {"large-prompts": 2, "prompt-files": 3}.get(name, 1)
    for each in printed:
        assert_samples(each, samples)
    if name.startswith("generate"):
        assert ran.stderr == f"Starting sampling...\nSampling complete ({samples} sequences)\n"


def test_scripts_that_print_or_write_responses(script: Run):
    assert_response(json.loads(script("generate-json").stdout), tokens=5)
    tokens = json.loads(script("json-parsing").stdout)
    assert 1 <= len(tokens) <= 6
    assert all(isinstance(token, int) for token in tokens)
    ran = script("output-files")
    assert ran.stdout == ""
    assert_samples(ran.file("story.txt"), 1)
    assert_response(ran.json("response.json"), tokens=50)
    ran = script("performance")
    for name in ("long", *(f"sample-{number}" for number in range(1, 5))):
        assert_samples(ran.file(f"{name}.txt"), 1)
    assert script("exit-code").stdout.splitlines()[-1] == "Success!"


def test_every_script_is_run():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in GUIDE.glob("*.sh") if f'"{path.stem}"' not in text] == []


def test_a_failing_and_a_silent_server_are_reported_in_the_words_of_the_guide(tinkex, silent):
    with serving(lambda _: Reply(status=500)) as failing:
        for url, reason in (
            (failing, "API request failed"),
            (silent.url, "Timed out while awaiting sampling"),
        ):
            line = f"run --base-model {MODEL} --prompt Hello --api-key {KEY} --timeout 700"
            done = tinkex(f"{line} --base-url {url}", code=1)
            assert done.stdout == ""
            assert done.stderr.splitlines()[1].startswith(
                "Sampling failed due to server or transient error. Consider retrying: " + reason
            )
