"""Correct responses that are truncated at any byte."""

from __future__ import annotations

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.test_matrix import assert_told, filled
from tests.functional.conftest import KEY
from tinkex.testing import invoke

pytestmark = [pytest.mark.both_pools, pytest.mark.usefixtures("naps")]

READERS = ("run list", "run info", "checkpoint list", "checkpoint info", "run", "checkpoint")
PLACES = (0, 1, 77, 250, 400, 512, 600, 731, 850, 930, 990, 999)
QUICK = (0, 400, 999)


@pytest.mark.parametrize("framing", ["length", "close"])
@pytest.mark.parametrize("name", READERS)
def test_an_answer_cut_anywhere_is_no_answer(
    faulty, name, framing, saved, tmp_path, monkeypatch, request
):
    command = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    for place in PLACES if request.config.getoption("--all-faults") else QUICK:
        url = faulty.url(f"true-cut-{place}-{framing}")
        options = ["--base-url", url, "--api-key", KEY]
        assert_told(invoke([*filled(command.words, *saved), *options]), command, tmp_path)
