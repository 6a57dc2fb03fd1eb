"""Sampling parameters, and the sequences that a service returns."""

from __future__ import annotations

import pytest

from tinkex.api import SamplingParams
from tinkex.api.sampling.types import SampleResponse
from tinkex.exceptions import InvalidResponse, UsageError

INFINITE = float("inf")


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tokens": 0},
        {"max_tokens": "9"},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": INFINITE},
        {"temperature": 10**400},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"top_k": -2},
        {"seed": 1.5},
        {"stop": ("a", "")},
        {"stop": "END"},
    ],
)
def test_invalid_parameters_are_refused(bad):
    with pytest.raises(UsageError):
        SamplingParams(**bad)


def test_the_body_is_one_that_every_server_accepts():
    usual = {"max_tokens": 256, "temperature": 1.0, "top_k": -1, "top_p": 1.0}
    assert SamplingParams().body() == usual
    assert SamplingParams(None, seed=0, stop=["a"]).body() == usual | {"seed": 0, "stop": ["a"]}


def test_numbers_that_are_not_finite_become_null():
    sequence = {"tokens": [1, 2], "logprobs": [-INFINITE, float("nan")], "stop_reason": "stop"}
    found = SampleResponse.from_json({"sequences": [sequence, {"tokens": [], "logprobs": [0]}]})
    assert [s["logprobs"] for s in found.as_dict()["sequences"]] == [[None, None], [0.0]]


def test_a_missing_first_logprob_is_restored():
    data = {"sequences": [], "prompt_logprobs": [-1, None]}
    assert SampleResponse.from_json(data, 3).prompt_logprobs == (None, -1.0, None)
    assert SampleResponse.from_json(data, 2).prompt_logprobs == (-1.0, None)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"sequences": None},
        {"sequences": [1]},
        {"sequences": [{}]},
        {"sequences": [{"tokens": ["a"]}]},
        {"sequences": [{"tokens": [True]}]},
        {"sequences": [{"tokens": [1], "logprobs": ["x"]}]},
        {"sequences": [{"tokens": [1], "logprobs": 1}]},
        {"sequences": [], "prompt_logprobs": {}},
        {"sequences": [{"tokens": [1], "logprobs": [10**400]}]},
    ],
)
def test_results_of_another_shape_are_invalid_responses(data):
    with pytest.raises(InvalidResponse):
        SampleResponse.from_json(data)
