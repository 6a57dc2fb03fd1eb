"""``tinkex hello`` with mocked responses and with a real service."""

from __future__ import annotations

from pathlib import Path

import pytest
import responses

from tinkex.testing import invoke, isolated, local_service

SERVER = {
    "TINKER_BASE_URL": "https://tinker.test",
    "TINKER_API_KEY": "tml-test",
    "TINKEX_HTTP_POOL": "default",  # the one that "responses" mocks
}
SAVE = ["checkpoint", "--base-model", "tinkex/baker-street-2M", "--rank", "4"]
RUNS = "https://tinker.test/api/v1/training_runs"


@responses.activate
def test_hello_counts_the_runs(tmp_path: Path) -> None:
    runs = [
        {"training_run_id": "run-1", "base_model": "m", "last_request_time": "2026-01-01T00:00:00Z"}
    ]
    cursor = {"offset": 0, "limit": 100, "total_count": 1}
    responses.get(RUNS, json={"training_runs": runs, "cursor": cursor})

    with isolated(tmp_path):
        done = invoke(["hello", "--name", "Ada"], environ=SERVER)

    assert done.stdout == "Hello, Ada! Training runs: 1\n"
    assert (done.stderr, done.exit_code) == ("", 0)


@responses.activate
def test_hello_greets_as_the_profile_says(tmp_path: Path) -> None:
    responses.get(RUNS, json={"training_runs": [], "cursor": {"total_count": 0}})
    config = tmp_path / "config.yaml"
    config.write_text("profiles: {me: {plugins: {tinkex-hello: {greeting: Salut}}}}")

    with isolated(tmp_path):
        done = invoke(
            ["hello"], environ={**SERVER, "TINKEX_CONFIG": str(config), "TINKEX_PROFILE": "me"}
        )

    assert done.stdout == "Salut, world! Training runs: 0\n"


@responses.activate
def test_hello_says_why_it_failed(tmp_path: Path) -> None:
    responses.get(RUNS, status=403, json={"detail": "No access to runs"})

    with isolated(tmp_path):
        done = invoke(["hello"], environ=SERVER)

    assert (done.stdout, done.exit_code) == ("", 1)
    assert done.stderr.startswith("Hello failed. Please check your inputs: No access to runs")


def test_hello_on_the_local_service(tmp_path: Path) -> None:
    pytest.importorskip("tinkex_local")
    with local_service(tmp_path):
        before = invoke(["hello", "-f", "json"])
        saved = invoke([*SAVE, "--output", str(tmp_path / "saved.json")])
        after = invoke(["hello", "-f", "json"])

    assert before.rows == {"greeting": "Hello, world!", "training_runs": 0}
    assert saved.exit_code == 0, saved.stderr
    assert after.rows["training_runs"] == 1
