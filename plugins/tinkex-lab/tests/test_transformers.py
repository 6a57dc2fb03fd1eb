"""On a trained checkpoint, ``score`` agrees with transformers and PEFT; the others sample from it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tinkex.api import (
    AdamParams,
    Datum,
    ExampleBuilder,
    ServiceClient,
    SupervisedExample,
    load_tokenizer,
    read_supervised_rows,
)
from tinkex.testing import invoke, local_service

pytestmark = pytest.mark.train

BASE = "tinkex/baker-street-2M"
ROWS = [
    {"text": "To Sherlock Holmes she is always the woman — he rarely mentions her."},
    {"prompt": "What is your name?", "completion": " Napoleon."},
    {
        "messages": [
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "I am the emperor of Brazil."},
            {"role": "user", "content": "Where do you live?"},
            {"role": "assistant", "content": "In Rio."},
        ]
    },
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def examples(data: Path) -> list[SupervisedExample]:
    builder = ExampleBuilder(load_tokenizer(BASE))
    with data.open("rb") as file:
        return [each for row in read_supervised_rows(file, "") for each in builder.build(row)]


@pytest.fixture(scope="module")
def trained(
    examples: list[SupervisedExample], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], str, Path]:
    """Return the settings of a service, the path of a trained checkpoint in it, and its files."""
    directory = tmp_path_factory.mktemp("adapter") / "final"
    batch = [Datum.from_example(example) for example in examples]
    with local_service(tmp_path_factory.mktemp("service")) as home, ServiceClient() as client:
        with client.create_lora_training_client(BASE, rank=8, seed=1) as training:
            for _ in range(8):
                training.forward_backward(batch)
                step = training.optim_step(AdamParams(learning_rate=3e-3))
            step.result()
            path = training.save_weights_for_sampler("final").path
        client.checkpoints.download(path, directory)
        return {"TINKEX_LOCAL_HOME": str(home), "TINKEX_PROFILE": "local"}, path, directory


@pytest.fixture(scope="module")
def models(trained: tuple[dict[str, str], str, Path]) -> list[Any]:
    """Return the base model and the trained one, as transformers and PEFT load them."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from tinkex_torch.engine import BUILT_IN

    base, other = (
        AutoModelForCausalLM.from_pretrained(BUILT_IN[BASE], dtype=torch.float32) for _ in range(2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of every adapter for the output of a tied model
        return [base.eval(), peft.PeftModel.from_pretrained(other, trained[2]).eval()]


def nll(model: Any, examples: list[SupervisedExample]) -> float:
    """Return the NLL per token with weight 1, computed in float32."""
    import torch

    total, count = 0.0, 0
    for example in examples:
        tokens = torch.tensor([list(example.tokens)])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(tokens).logits[0].float(), -1)
        for i, weight in enumerate(example.weights):
            if weight:
                total -= float(logprobs[i - 1, tokens[0, i]])
                count += 1
    return total / count


def test_scores_agree_with_transformers(trained, models, data: Path, examples):
    environ, path, _ = trained

    done = invoke(
        ["score", str(data), "--base-model", BASE, "--model-path", path, "-f", "json"],
        environ=environ,
    )

    expected = [nll(model, examples) for model in models]
    assert [row["nll"] for row in done.rows] == pytest.approx(expected, abs=1e-4)
    assert expected[1] < expected[0] - 1
    assert [row["best"] for row in done.rows] == [False, True]


def test_samples_of_a_trained_checkpoint_are_compared_and_talked_to(trained, tmp_path: Path):
    environ, path, _ = trained
    (tmp_path / "in.jsonl").write_text('{"prompt": "What is your name?", "answer": "Napoleon."}\n')
    options = ["--max-tokens", "16", "--temperature", "0"]
    models = ["--base-model", BASE, "--model-path", path]

    compared = invoke(
        [
            "compare",
            str(tmp_path / "in.jsonl"),
            *models,
            *options,
            "--output",
            str(tmp_path / "out"),
            "-f",
            "json",
        ],
        environ=environ,
    )
    (results,) = (tmp_path / "out").glob("*final.jsonl")
    graded = invoke(["grade", str(results), "--check", "equals:answer", "--fail-under", "1"])
    talked = invoke(["chat", path, *options], stdin="Who are you?\n", environ=environ)

    base, trained_text = (row["text"] for row in compared.rows)
    assert trained_text == " Napoleon." != base
    assert graded.exit_code == 0, graded
    assert talked.stdout == "I am the emperor of Brazil.\n"
