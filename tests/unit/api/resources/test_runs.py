"""Training runs, and the base models of a service."""

from __future__ import annotations

import pytest

from tests.unit.api.resources.conftest import run
from tinkex.exceptions import NotFound, UsageError


def test_runs_are_listed_and_shown(paged, server, client):
    paged("training_runs", [run(str(n)) for n in range(250)])
    assert [r.training_run_id for r in client.runs.list(3, 100)] == ["100", "101", "102"]
    assert len(client.runs.list(None)) == 250
    with pytest.raises(NotFound, match="no training run is called 'zz'") as raised:
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
        "d",
    ]
    server.on("GET", "get_server_capabilities", {"supported_models": models})
    listed = [(m.model_name, m.trainable, m.sampleable) for m in client.models.list()]
    assert listed == [("a", None, None), ("b", True, True), ("c", False, True), ("d", None, None)]
