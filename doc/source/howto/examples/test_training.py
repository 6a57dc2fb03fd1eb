"""Test that a training loop reduces the loss and resumes from its checkpoint."""

import pytest

from tinkex.api import (
    AdamParams,
    Datum,
    ExampleBuilder,
    ServiceClient,
    load_tokenizer,
    read_supervised_rows,
)
from tinkex.settings import resolve
from tinkex.testing import local_service

MODEL = "tinkex/baker-street-2M"


@pytest.fixture
def client(tmp_path):
    with local_service(tmp_path), ServiceClient(resolve()) as client:
        yield client


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "one two", "completion": " three four"}\n')
    builder = ExampleBuilder(load_tokenizer(MODEL))
    with path.open("rb") as file:
        rows = list(read_supervised_rows(file, path.name))
    return [Datum.from_example(example) for row in rows for example in builder.build(row)]


def step(training, data):
    """Run one training step; return the loss before the step."""
    loss = training.forward_backward(data)
    update = training.optim_step(AdamParams(learning_rate=0.01))
    update.result()
    return loss.result().metrics["loss:sum"]


def test_the_loss_falls_and_training_resumes(client, data):
    with client.create_lora_training_client(MODEL, rank=4, seed=0) as training:
        losses = [step(training, data) for _ in range(3)]
        path = training.save_state("three").path
        expected = step(training, data)
    assert losses[2] < losses[0]

    with client.create_training_client_from_checkpoint(path, optimizer=True) as training:
        assert step(training, data) == pytest.approx(expected, rel=1e-5)
