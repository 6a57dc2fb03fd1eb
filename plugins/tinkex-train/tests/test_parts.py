"""Batches, learning rates, sparklines, and what a directory keeps."""

from __future__ import annotations

import json
import signal
from itertools import chain

import pytest

from tinkex_train import learning_rate
from tinkex_train.commands import LAYOUTS, SCHEDULES, TRAIN_ON
from tinkex_train.data import Batches
from tinkex_train.preview import sparkline
from tinkex_train.signals import deferred_signals


def test_every_epoch_has_every_example_once_in_another_order():
    batches = Batches(count=7, size=3, epochs=2)

    found = list(batches.starting_at(0))

    assert (batches.per_epoch, batches.steps) == (3, 6)
    assert [len(batch) for batch in found] == [3, 3, 1, 3, 3, 1]
    epochs = [list(chain(*found[:3])), list(chain(*found[3:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 2
    assert epochs[0] != epochs[1]
    assert [list(batches.starting_at(step)) for step in range(7)] == [found[s:] for s in range(7)]
    assert list(Batches(7, 3, 2, seed=1).starting_at(0)) != found


@pytest.mark.parametrize(
    ("model", "config", "expected"),
    [
        ("Qwen/Qwen3-8B", {"hidden_size": 4096}, 4.7e-4),  # as the cookbook computes them
        ("Qwen/Qwen3.5-4B", {"text_config": {"hidden_size": 2560}}, 4.9e-4),
        ("meta-llama/Llama-3.1-8B-Instruct", None, 2.9e-4),
        ("meta-llama/Llama-3.3-70B-Instruct", None, 1.7e-4),
        ("meta-llama/Llama-3.2-1B", {"hidden_size": "x"}, 4.9e-4),
        ("Qwen/Qwen3-8B", None, 5e-4),
        ("acme/Other", {"hidden_size": 192}, 5e-4),
        ("acme/Other", [], 5e-4),
    ],
)
def test_learning_rates(model, config, expected, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))

    assert learning_rate.suggested(model, tmp_path) == expected
    assert learning_rate.suggested("acme/Other", None) == 5e-4


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.853553, 0.5, 0.146447]),
        ("constant", [1.0] * 4),
    ],
)
def test_schedules(schedule, expected):
    found = [learning_rate.factor(schedule, step, 4) for step in range(4)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_choices_of_options_are_those_of_the_library():
    from tinkex.api import ExampleBuilder, SupervisedRow

    assert (SCHEDULES, TRAIN_ON, LAYOUTS) == (
        learning_rate.SCHEDULES,
        ExampleBuilder.TRAIN_ON,
        SupervisedRow.LAYOUTS,
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([2.0, 2.0], "▁▁"),
        ([8, 7, 6, 5, 4, 3, 2, 1], "█▇▆▅▄▃▂▁"),
        (range(80), "▁" * 3 + "▂" * 6 + "▃" * 5 + "▄" * 6 + "▅" * 6 + "▆" * 5 + "▇" * 6 + "█" * 3),
    ],
)
def test_sparklines(values, expected):
    assert sparkline(values) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handled_after_the_block_and_a_second_one_at_once(number):
    seen: list[str] = []
    before = signal.signal(number, lambda *_: seen.append("handled"))
    try:
        with deferred_signals():
            signal.raise_signal(number)
            seen.append("inside")
        assert seen == ["inside", "handled"]
        with deferred_signals():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert seen == ["inside", "handled", "handled"]
    finally:
        signal.signal(number, before)
