"""Training runs, and the base models of a service."""

from __future__ import annotations

import pytest

from tests.unit.api.resources.conftest import run
from tinkex.exceptions import NotFound, UsageError


def test_runs_are_listed_and_shown(paged, server, client):
    paged("training_runs", [run(str(n)) for n in range(250)])
    assert [r.training_run_id for r in client.runs.list(3, 100)] == ["100", "101", "102"]
    assert len(client.runs.list(None)) == 250
    with pytest.raises(NotFound, match="no training run named 'zz'") as raised:
        client.runs.get("zz")
    assert raised.value.resource == "run"


@pytest.mark.parametrize(("limit", "offset"), [(-1, 0), (5, -1)])
def test_numbers_below_zero_are_refused(limit, offset, client):
    with pytest.raises(UsageError):
        client.checkpoints.list(limit=limit, offset=offset)
    with pytest.raises(UsageError):
        client.runs.list(limit=limit, offset=offset)


def test_the_service_decides_on_the_scope_unless_it_is_given(server, client):
    server.on("GET", "training_runs", {"training_runs": []})
    client.runs.list()
    client.runs.select(model="QWEN", access_scope="owned")
    assert [seen.query.get("access_scope") for seen in server.seen] == [None, "owned"]


def test_models_of_every_dialect(server, client):
    models = [
        {"model_name": "a"},
        {"model_name": "b", "max_context_length": 8, "capabilities": ["training", "sampling"]},
        {"model_name": "c", "trainable": False, "sampleable": True},
        {"model_name": None},
        3,
        "d",
        {"model_id": "e", "max_context_length": "long"},
        {"model_name": "", "id": "f"},
    ]
    server.on("GET", "get_server_capabilities", {"supported_models": models})
    found = client.models.list()
    unknown = [(name, None, None) for name in "adef"]
    listed = [(m.model_name, m.trainable, m.sampleable) for m in found]
    assert listed == [unknown[0], ("b", True, True), ("c", False, True), *unknown[1:]]
    assert found.note == "Omitted models without a name: 2 of 8."


def test_a_model_that_begins_with_no_listed_id_is_trained_with_a_note(server, client, waits):
    models = [{"model_id": "Qwen/Qwen3", "tokenizer_id": "x", "max_context_length": 8}]
    server.on("GET", "get_server_capabilities", {"supported_models": models})
    server.on("POST", "create_session", {"session_id": "s"})
    server.on("POST", "create_model", {"request_id": "q"})
    server.on("POST", "retrieve_future", {"model_id": "r"})
    for name in ("other/model", "Qwen/Qwen3-8B"):
        client.create_lora_training_client(name)
    notes = [wait.note for wait in waits if wait.note]
    assert notes == ["This server does not list the base model 'other/model'."]
