"""Records of checkpoints in every dialect, and what a checkpoint was trained from."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.unit.api.resources.conftest import checkpoint, run
from tinkex.api import Checkpoint
from tinkex.exceptions import InvalidResponse, NotFound


@pytest.mark.parametrize(
    "weights_info",
    [
        {"status": 400, "body": {"detail": "not a training checkpoint"}},
        {"status": 500, "body": "Internal Server Error"},
        {"status": 404, "body": {"detail": "Not Found"}},
        {"body": "<html>"},
    ],
)
def test_info_falls_back_to_the_run(weights_info, server, client):
    server.on(
        "GET",
        "training_runs/r/checkpoints",
        {"checkpoints": [checkpoint("r", "sampler_weights", "x")]},
    )
    server.on("POST", "weights_info", server.reply(**weights_info))
    server.on("GET", "training_runs/r", run("r", is_lora=True, lora_rank=8))
    info = client.checkpoints.info("tinker://r/sampler_weights/x")
    assert (info.base_model, info.is_lora, info.lora_rank, info.train_mlp) == ("m", True, 8, None)
    assert len(server.requests("weights_info")) == 1


@pytest.mark.parametrize("status", [403, 404])
def test_info_of_a_checkpoint_that_is_not_listed(status, server, client):
    server.on("GET", "training_runs/r/checkpoints", server.reply({"detail": "not yours"}, status))
    server.on("POST", "weights_info", {"base_model": "m", "is_lora": True, "lora_rank": 4})
    info = client.checkpoints.info("tinker://r/weights/x")
    assert (info.base_model, info.checkpoint_type, info.time, info.public) == (
        "m",
        "training",
        None,
        None,
    )


def test_info_of_a_missing_checkpoint(server, client):
    server.on("GET", "training_runs/r/checkpoints", {"checkpoints": []})
    server.on("POST", "weights_info", server.reply({"detail": "unknown"}, 404))
    server.on("GET", "training_runs/r", run("r"))
    with pytest.raises(NotFound, match="no checkpoint tinker://r/weights/x"):
        client.checkpoints.info("tinker://r/weights/x")


@pytest.mark.parametrize(
    "record",
    [
        3,
        None,
        {},
        {**checkpoint("r", "weights", "x"), "tinker_path": 5},
        {**checkpoint("r", "weights", "x"), "tinker_path": "s3://bucket"},
        {**checkpoint("r", "weights", "x"), "time": None},
        {**checkpoint("r", "weights", "x"), "time": "yesterday"},
        {**checkpoint("r", "weights", "x"), "size_bytes": "12"},
        {**checkpoint("r", "weights", "x"), "public": "false"},
        {**checkpoint("r", "weights", "x"), "user_metadata": []},
    ],
)
def test_unexpected_records(record, server, client):
    server.on("GET", "checkpoints", {"checkpoints": [record]})
    with pytest.raises(InvalidResponse):
        client.checkpoints.list()


def test_optional_members_may_be_missing_or_null(server, client):
    least = {"tinker_path": "tinker://r/x", "time": "2026-11-22T12:00:00+02:00"}
    null = {
        **checkpoint("r", "weights", "y"),
        "size_bytes": None,
        "public": None,
        "expires_at": None,
    }
    server.on("GET", "checkpoints", {"checkpoints": [least, null], "cursor": None})
    first, second = client.checkpoints.list()
    assert (first.checkpoint_type, first.checkpoint_id) == ("sampler", "sampler_weights/x")
    assert first.time == datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    assert (second.size_bytes, second.public, second.expires_at) == (None, False, None)


def test_a_list_that_calls_types_as_paths_do_is_understood():
    record = {"tinker_path": "tinker://r/weights/a", "time": "2026-11-22T12:00:00Z"}
    found = Checkpoint.from_json({**record, "checkpoint_type": "weights"})
    assert found.checkpoint_type == "training"
