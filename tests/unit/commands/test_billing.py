"""``billing`` against the shapes of the official service: totals, budget, prices to come."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.unit.api.conftest import Server
from tinkex.testing import invoke


def event(cost, kind="training", **more):
    return {
        "bucket_start": "2026-11-01T10:00:00Z",
        "bucket_end": "2026-11-01T11:00:00Z",
        "base_model": "Qwen/Qwen3-8B",
        "session_id": "s-1",
        "estimated_cost_usd": cost,
        "event_info": {"type": kind, "token_count": 1_000_000},
        **more,
    }


@pytest.fixture
def server():
    server = Server()
    server.on(
        "GET",
        "billing/usage/events",
        {
            "data": [event(40.0), event(21.2), event(None)],
            "sessions": {"s-1": {"user_metadata": {"a": "C:\\b"}}},
            "cost_data_through": "2026-11-02T00:00:00Z",
        },
    )
    server.on("GET", "sessions/s-1", {"training_run_ids": ["s-1:train:0"], "sampler_ids": []})
    yield server
    server.close()


def usage(server, *words):
    span = ["--from", "2026-11-01", "--to", "2026-11-03"]
    return invoke(["billing", "usage", *span, *words, "--base-url", server.url, "--api-key", "k"])


def test_total_and_what_it_rests_on(server):
    done = usage(server)
    assert done.stdout == "2026-11-01\t3000000\t0\t0\t0\t0\t0.0\t61.2\t1\n"
    assert done.stderr == (
        "Total: $61.20 from 2026-11-01T00:00:00Z to 2026-11-03T00:00:00Z. "
        "Costs before 2026-11-02T00:00:00Z are based on invoice prices. "
        "1 event has no price yet, so the total will rise.\n"
    )


@pytest.mark.parametrize("budget", ["50", "$50", "61.19"])
def test_above_the_budget_there_is_one_line_and_a_failure(server, budget, tmp_path):
    file = tmp_path / "usage.csv"
    done = usage(server, "--budget", budget, "--csv", str(file))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Over budget: at least $61.20 of $")
    assert done.stderr.count("\n") == 1
    assert not file.exists()
    told = usage(server, "--budget", budget, "-f", "json")
    assert json.loads(told.stderr)["error"]["message"].startswith("Over budget: ")


def test_csv_is_what_the_server_sent_and_steers_no_terminal(server, tmp_path):
    odd = event(1.0, base_model="\x1b[31mC:\\m", tags=["a", {"b": 1e999}])
    server.on("GET", "billing/usage/events", {"data": [odd], "sessions": {}})
    file = tmp_path / "usage.csv"
    usage(server, "--csv", str(file))
    (row,) = csv.DictReader(io.StringIO(file.read_text()))
    assert row["base_model"] == odd["base_model"]
    assert json.loads(row["tags"]) == ["a", {"b": None}]
    assert "\x1b" not in usage(server, "--csv", "-").stdout
