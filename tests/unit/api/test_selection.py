"""Which checkpoints are meant, and their order."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tinkex.api.resources.checkpoint_info import Checkpoint
from tinkex.api.resources.selection import Selection, ordered, total_size
from tinkex.exceptions import UsageError


def at(day: int) -> datetime:
    return datetime(2026, 11, day, tzinfo=UTC)


def checkpoint(name="a", *, run="run-1", kind="training", day=5, public=False, size=1):
    path = f"tinker://{run}/weights/{name}"
    return Checkpoint(name, kind, path, at(day), size, public, run_id=run)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"run_id": "run-1"}, True),
        ({"run_id": "run"}, False),
        ({"run_id": "run-*"}, True),
        ({"run_id": "RUN-*"}, False),
        ({"run_id": "run-[2-9]"}, False),
        ({"checkpoint_type": "training"}, True),
        ({"checkpoint_type": "weights"}, True),
        ({"checkpoint_type": "sampler"}, False),
        ({"checkpoint_type": "sampler_weights"}, False),
        ({"before": at(5)}, False),
        ({"before": at(6)}, True),
        ({"after": at(5)}, True),
        ({"after": at(6)}, False),
        ({"public": False}, True),
        ({"public": True}, False),
        ({"after": at(4), "before": at(6), "public": False, "run_id": "*1"}, True),
    ],
)
def test_selection(wanted, fits):
    assert Selection(**wanted).matches(checkpoint()) is fits


def test_a_list_that_calls_types_as_paths_do_is_understood():
    record = {"tinker_path": "tinker://r/weights/a", "time": "2026-11-22T12:00:00Z"}
    found = Checkpoint.from_json({**record, "checkpoint_type": "weights"})
    assert found.checkpoint_type == "training"


def test_a_pattern_is_no_run():
    assert Selection(run_id="a*").one_run is None
    assert Selection(run_id="a:train:0").one_run == "a:train:0"


def test_those_without_a_value_come_last_in_either_order():
    some = [checkpoint(name, size=size) for name, size in [("a", None), ("b", 2), ("c", 1)]]
    assert [c.checkpoint_id for c in ordered(some, "size_bytes")] == ["c", "b", "a"]
    assert [c.checkpoint_id for c in ordered(some, "size_bytes", descending=True)] == [
        "b", "c", "a",
    ]  # fmt: skip
    with pytest.raises(UsageError):
        ordered(some, "colour")


def test_a_sum_is_known_if_all_sizes_are():
    assert total_size([checkpoint(size=2), checkpoint(size=3)]) == 5
    assert total_size([checkpoint(size=2), checkpoint(size=None)]) is None


def test_select_fetches_the_whole_list_and_pages_what_fits(server, client):
    def record(number: int) -> dict:
        return {
            "checkpoint_id": f"weights/{number}",
            "checkpoint_type": "training",
            "tinker_path": f"tinker://r/weights/{number}",
            "time": f"2026-11-{number:02d}T00:00:00Z",
            "public": number % 2 == 0,
        }

    server.on("GET", "checkpoints", {"checkpoints": [record(n) for n in range(1, 21)]})
    page = client.checkpoints.select(
        Selection(public=True), 3, 1, sort="time", descending=True, access_scope="accessible"
    )
    assert [c.checkpoint_id for c in page] == ["weights/18", "weights/16", "weights/14"]
    assert (page.total, page.offset) == (10, 1)
    assert server.seen[0].query["access_scope"] == "accessible"


def test_the_service_decides_on_the_scope_unless_it_is_given(server, client):
    server.on("GET", "training_runs", {"training_runs": []})
    client.runs.list()
    client.runs.select(model="QWEN", access_scope="owned")
    assert [seen.query.get("access_scope") for seen in server.seen] == [None, "owned"]


def test_a_type_that_there_is_not():
    with pytest.raises(UsageError, match="'lora'"):
        Selection(checkpoint_type="lora")


@pytest.mark.parametrize("types", [["sampler"], ["sampler_weights"]])
def test_a_run_is_synchronised_by_type_whichever_words_its_list_has(
    types, server, client, tmp_path
):
    place = "tinker://r/sampler_weights/a"
    record = {"checkpoint_type": "sampler_weights", "time": "2026-11-22T12:00:00Z"}
    listed = {"checkpoints": [{"tinker_path": place, **record}]}
    server.on("GET", "training_runs/r/checkpoints", listed)
    moved = list(client.checkpoints.sync("r", tmp_path, types=types))
    assert [one.tinker_path for one in moved] == [place]
    assert list(client.checkpoints.sync("r", tmp_path, types=["training"])) == []
    with pytest.raises(UsageError, match="'lora'"):
        client.checkpoints.sync("r", tmp_path, types=["lora"])
