"""True answers that end early, at any byte."""

from __future__ import annotations

import time

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.test_matrix import GRACE, LIMIT, assert_told, filled
from tests.functional.conftest import KEY
from tinkex.testing import invoke

READERS = ("run list", "run info", "checkpoint list", "checkpoint info", "run", "checkpoint")
PLACES = (0, 1, 77, 250, 400, 512, 600, 731, 850, 930, 990, 999)


@pytest.mark.parametrize("framing", ["length", "close"])
@pytest.mark.parametrize("name", READERS)
def test_an_answer_cut_anywhere_is_no_answer(faulty, name, framing, saved, tmp_path, monkeypatch):
    path, run = saved
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    for place in PLACES:
        began = time.monotonic()
        done = invoke(
            [
                *filled(command.words, path, run),
                *("--base-url", faulty.url(f"true-cut-{place}-{framing}"), "--api-key", KEY),
                *("--timeout", f"{LIMIT:g}s"),
            ]
        )
        assert time.monotonic() - began < LIMIT + 1 + GRACE
        assert_told(done, command, tmp_path)
