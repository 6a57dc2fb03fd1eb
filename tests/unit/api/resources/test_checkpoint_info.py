"""Records of checkpoints in every dialect, and what a checkpoint was trained from."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.unit.api.resources.conftest import checkpoint, run
from tinkex.api import Checkpoint
from tinkex.exceptions import NotFound

LIST = "training_runs/r/checkpoints"
RECORD = checkpoint("r", "weights", "x")


@pytest.mark.parametrize(
    "reply", [("no training checkpoint", 400), ("Error", 500), ({"detail": "Not Found"}, 404), "<>"]
)
def test_the_lineage_falls_back_to_the_run(reply, server, client):
    server.on("GET", LIST, {"checkpoints": [checkpoint("r", "sampler_weights", "x")]})
    server.on(
        "POST", "weights_info", server.reply(*(reply if isinstance(reply, tuple) else (reply,)))
    )
    server.on("GET", "training_runs/r", run("r", is_lora=True, lora_rank=8))
    info = client.checkpoints.info("tinker://r/sampler_weights/x")
    assert (info.base_model, info.is_lora, info.lora_rank, info.train_mlp) == ("m", True, 8, None)
    assert len(server.requests("weights_info")) == 1


@pytest.mark.parametrize("status", [403, 404])
def test_info_of_a_checkpoint_that_is_not_listed(status, server, client):
    server.on("GET", LIST, server.reply({"detail": "not yours"}, status))
    server.on("POST", "weights_info", {"base_model": "m", "is_lora": True, "lora_rank": 4})
    info = client.checkpoints.info("tinker://r/weights/x")
    assert (info.base_model, info.checkpoint_type) == ("m", "training")
    assert (info.time, info.public) == (None, None)


def test_info_of_a_missing_checkpoint(server, client):
    server.on("GET", LIST, {"checkpoints": []})
    server.on("POST", "weights_info", server.reply({"detail": "unknown"}, 404))
    with pytest.raises(NotFound, match="no checkpoint tinker://r/weights/x"):
        client.checkpoints.info("tinker://r/weights/x")


def test_members_of_other_types_are_unknown():
    odd = {"time": "yesterday", "size_bytes": "12", "public": "false", "user_metadata": []}
    found = Checkpoint.from_json(RECORD | odd)
    assert (found.time, found.size_bytes, found.public, found.user_metadata) == (None,) * 2 + (
        False,
        None,
    )
    assert Checkpoint.from_json(RECORD | {"size_bytes": -1}).size_bytes is None
    for record in (3, None, {}, {"tinker_path": 5}):
        assert Checkpoint.from_json(record, "r").run_id == "r"


def test_optional_members_may_be_missing_or_null():
    least = {"tinker_path": "tinker://r/x", "time": "2026-11-22T12:00:00+02:00"}
    first = Checkpoint.from_json(least)
    assert (first.checkpoint_type, first.checkpoint_id) == ("sampler", "sampler_weights/x")
    assert first.time == datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    naive = Checkpoint.from_json(least | {"time": "2026-11-22T13:55:34.109929"})
    assert naive.time == datetime(2026, 11, 22, 13, 55, 34, 109929, UTC)
    null = dict.fromkeys(("size_bytes", "public", "expires_at"))
    second = Checkpoint.from_json(RECORD | null)
    assert (second.size_bytes, second.public, second.expires_at) == (None, False, None)
    path_words = Checkpoint.from_json(RECORD | {"checkpoint_type": "weights"})
    assert path_words.checkpoint_type == "training"
