"""Lists of servers that nobody here wrote: odd rows, any order, missing routes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.functional.conftest import Program
from tests.serving import Reply, Request, serving

API = "/api/v1/"
PAGED = ("training_runs", "checkpoints")
KEY = "tml-lists-0123"


class Lists:
    """A service of lists: each is answered in its own order, by ``limit`` and ``offset``."""

    def __init__(self, **answers: Any) -> None:
        self.seen: list[str] = []
        self.answers = answers

    def __call__(self, request: Request) -> Reply:
        path = request.path.removeprefix(API)
        self.seen.append(f"{request.method} {path}")
        found = self.answers.get(path, Reply({"detail": "Not Found"}, 404))
        if isinstance(found, Reply):
            return found
        if path in PAGED:
            start, size = int(request.query["offset"]), int(request.query["limit"])
            return Reply({path: found[start : start + size]})
        return Reply({"checkpoints": found} if isinstance(found, list) else found)


@contextmanager
def listing(answers: dict[str, Any]) -> Iterator[tuple[Program, Lists]]:
    service = Lists(**answers)
    with serving(service) as url:
        yield Program({"TINKER_BASE_URL": url, "TINKER_API_KEY": KEY}), service


def row(name: str, kind: str = "weights", run: str = "r", hour: int = 12, **more: Any) -> Any:
    return {
        "checkpoint_id": f"{kind}/{name}",
        "checkpoint_type": {"weights": "training", "sampler_weights": "sampler"}.get(kind, kind),
        "tinker_path": f"tinker://{run}/{kind}/{name}",
        "time": f"2026-11-22T{hour:02d}:00:00Z",
        **more,
    }


def a_run(name: str, hour: int = 12, **more: Any) -> dict[str, Any]:
    last = f"2026-11-22T{hour:02d}:00:00Z"
    return {"training_run_id": name, "base_model": "m", "last_request_time": last, **more}


def names(stdout: str) -> list[str]:
    return [line.rpartition("/")[2] for line in stdout.splitlines()]


GOOD = [row("2", hour=3), row("1", hour=2)]
ODD = {
    "kind": row("n", "checkpoints"),
    "nested": row("a/b"),
    "scheme": row("x", tinker_path="s3://bucket/x"),
    "type": row("t", checkpoint_type="merged"),
    "null": row("zero", time=None),
    "words": row("words", time="yesterday"),
    "placeholder": row("early", time="1970-01-01T00:00:00Z"),
    "bare": {"checkpoint_id": "only-an-id", "time": "2026-11-22T01:00:00Z"},
    "number": 3,
}


# Odd rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_row_is_shown_as_it_came_and_counted(odd):
    rows = [*GOOD, ODD[odd]]
    with listing({"checkpoints": rows, "training_runs/r/checkpoints": rows}) as (tinkex, _):
        done = tinkex("checkpoint list -f value -c tinker_path")
        known = tinkex("checkpoint info tinker://r/weights/2 -f value -c tinker_path")
    record = ODD[odd]
    shown = (record.get("tinker_path") or record["checkpoint_id"]) if odd != "number" else "'3'"
    assert sorted(done.stdout.split()) == sorted(["tinker://r/weights/1", known.stdout[:-1], shown])
    assert "1 row of a kind or time unknown to this version, as the server sent it." in done.stderr


@pytest.mark.parametrize("odd", ODD)
def test_no_bulk_command_touches_an_odd_row(odd, tmp_path):
    rows = [*GOOD, ODD[odd]]
    lists = {
        "checkpoints": rows,
        "training_runs/r/checkpoints": rows,
        "training_runs/r": a_run("r"),
    }
    with listing(lists) as (tinkex, service):
        for line in (
            "checkpoint prune --keep-last 1 --dry-run",
            "checkpoint delete --before 2026-11-23 --dry-run",
            "checkpoint delete --run-id r --dry-run",
        ):
            done = tinkex(line)
            assert names(done.stdout.replace("\tnot among the last 1", "")) in (
                ["2\tnewest of its run and type", "1"],
                ["2", "1"],
            )
            assert "Skipped, as kind, type or time is unknown: " in done.stderr
        done = tinkex(f"checkpoint sync r {tmp_path} -f json", code=1)
    assert names("\n".join(row["tinker_path"] for row in done.rows)) == ["2", "1"]
    assert not [seen for seen in service.seen if seen.startswith("DELETE")]


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (1763805600.5, "2025-11-22T10:00:00.500000Z"),
        (1763805600, "2025-11-22T10:00:00Z"),
        (1763805600000, "2025-11-22T10:00:00Z"),
        ("2025-11-22T10:00:00", "2025-11-22T10:00:00Z"),
        ("2025-11-22T12:00:00+02:00", "2025-11-22T10:00:00Z"),
        *((unknown, None) for unknown in (None, 0, "1970-01-01T00:00:00Z", "", True, "x", 1e300)),
    ],
)
def test_a_time_in_any_form_is_utc_or_unknown(time, shown):
    with listing({"checkpoints": [row("1", time=time)]}) as (tinkex, _):
        assert tinkex("checkpoint list -f json -c time").rows == [{"time": shown}]


def test_an_odd_last_checkpoint_does_not_fail_the_list_of_runs():
    runs = [
        a_run("a", last_checkpoint=row("1", run="a"), last_sampler_checkpoint=None),
        a_run("b", last_checkpoint={"path": "xorl://b/weights/1", "created_at": 1.5}),
        a_run(
            "c", base_model="", last_sampler_checkpoint=row("n", "checkpoints", time=1763805600.5)
        ),
        a_run("d", lora_rank="many", corrupted=None, last_request_time=None),
    ]
    with listing({"training_runs": runs}) as (tinkex, _):
        done = tinkex("run list -f value -c training_run_id -c last_checkpoint")
    paths = ["a tinker://a/weights/1", "b xorl://b/weights/1", "c null", "d null"]
    assert done.stdout.splitlines() == paths
    assert "2 rows of a kind or time unknown to this version" in done.stderr


def test_equal_rows_are_shown_once():
    with listing({"training_runs/r/checkpoints": [*GOOD, GOOD[1], GOOD[0]]}) as (tinkex, _):
        assert names(tinkex("checkpoint list --run-id r").stdout) == ["2", "1"]


def test_paths_of_another_scheme_are_taken_and_shown_as_they_came():
    rows = [row("1", tinker_path="mint://r/weights/1"), row("0", tinker_path="mint://r/weights/0")]
    with listing({"training_runs/r/checkpoints": rows}) as (tinkex, _):
        shown = tinkex("checkpoint info r:0 -f value -c tinker_path")
        assert shown.stdout == "mint://r/weights/0\n"
        done = tinkex("checkpoint info mint://r/weights/2", code=1)
        assert "mint://r/weights/0" in done.stderr
