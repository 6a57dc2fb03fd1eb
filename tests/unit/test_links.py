"""Ids that are links to the web console: on terminals that have them, and nowhere else."""

from __future__ import annotations

import re

import pytest
import responses

from tinkex.settings import DEFAULT_BASE_URL
from tinkex.testing import invoke

RUN = "0d3:train:0"
ANSWER = {
    "training_run_id": RUN,
    "base_model": "Qwen/Qwen3-8B",
    "model_owner": "me",
    "is_lora": True,
    "lora_rank": 32,
    "corrupted": False,
    "last_request_time": "2026-01-01T00:00:00Z",
    "last_checkpoint": {
        "checkpoint_id": "weights/0001",
        "checkpoint_type": "training",
        "time": "2026-01-01T00:00:00Z",
        "tinker_path": f"tinker://{RUN}/weights/0001",
    },
}
PAGE = "https://tinker.thinkingmachines.ai/training_runs/0d3%3Atrain%3A0"
LINK = f"\x1b]8;;{PAGE}\x1b\\{RUN}\x1b]8;;\x1b\\"


def info(
    base_url: str = DEFAULT_BASE_URL, *words: str, terminal: bool = True, **environ: str
) -> str:
    environ = {"TINKER_API_KEY": "tml-1", "TERM": "xterm", "TINKER_BASE_URL": base_url} | environ
    with responses.RequestsMock() as server:
        server.get(re.compile(f"{re.escape(base_url)}/api/v1/training_runs/.*"), json=ANSWER)
        done = invoke(["run", "info", RUN, *words], terminal=terminal, environ=environ)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_the_run_is_a_link_and_its_paths_are_not():
    shown = info()

    assert shown.count("\x1b]8;;") == 2
    assert LINK in shown


@pytest.mark.parametrize("columns", ["200", "40"])
def test_the_table_is_laid_out_as_without(columns: str):
    linked = info(COLUMNS=columns)

    assert re.sub(r"\x1b]8;;.*?\x1b\\", "", linked) == info(COLUMNS=columns, NO_COLOR="1")


@pytest.mark.parametrize(
    ("base_url", "words", "terminal", "environ"),
    [
        (DEFAULT_BASE_URL, (), False, {}),
        (DEFAULT_BASE_URL, ("-f", "table"), False, {"CLICOLOR_FORCE": "1"}),
        (DEFAULT_BASE_URL, (), True, {"NO_COLOR": "1"}),
        (DEFAULT_BASE_URL, (), True, {"TERM": "dumb"}),
        (DEFAULT_BASE_URL, ("-f", "json"), True, {}),
        (DEFAULT_BASE_URL, ("-f", "plain"), True, {}),
        ("https://elsewhere.example", (), True, {}),
        ("http://127.0.0.1:8000", (), True, {}),
    ],
    ids=["pipe", "forced colour in a pipe", "NO_COLOR", "dumb", "json", "plain", "other", "local"],
)
def test_no_link(base_url: str, words: tuple[str, ...], terminal: bool, environ: dict[str, str]):
    shown = info(base_url, *words, terminal=terminal, **environ)

    assert "\x1b" not in shown
    assert RUN in shown
