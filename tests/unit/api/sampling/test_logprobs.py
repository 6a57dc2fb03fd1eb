"""Requests for logprobs, and servers that do not return them."""

from __future__ import annotations

import pytest

from tests.unit.api.conftest import Reply
from tinkex.api import Logprobs, SampleRow
from tinkex.exceptions import BadRequest, InvalidResponse, LogprobsUnavailable, UsageError

SCORES = [None, -1.0, -2.0]
TOPK = [None, [[7, -0.5], [8, -1.0]], [[9, -0.1]]]


def result(**more: object) -> dict[str, object]:
    sequence = {"tokens": [4, 5], "logprobs": [-0.25, -0.5], "stop_reason": "length"}
    return {"sequences": [sequence | more.pop("sequence", {})], **more}


@pytest.mark.parametrize(
    ("wanted", "members"),
    [
        ({}, {}),
        ({"prompt_logprobs": True}, {"prompt_logprobs": True}),
        (
            {"prompt_logprobs_last_n": 2},
            {"prompt_logprobs": True, "prompt_logprobs_last_n": 2},
        ),
        ({"prompt_logprobs_last_n": 3}, {"prompt_logprobs": True}),  # all of them
        (
            {"topk_prompt_logprobs": 2},
            {"prompt_logprobs": True, "topk_prompt_logprobs": 2},
        ),
        ({"topk_logprobs": 1}, {"topk_sample_logprobs": 1}),
    ],
)
def test_only_what_is_requested_is_sent_and_returned(wanted, members, server, sampling, sampler):
    topk = [[[4, -0.25]], None]
    full = result(
        prompt_logprobs=SCORES, topk_prompt_logprobs=TOPK, sequence={"topk_logprobs": topk}
    )
    server.on("POST", "retrieve_future", full)
    found = sampling.sample([1, 2, 3], **wanted)
    sent = sampler.submitted[0].body
    assert {name: sent[name] for name in sent if "logprobs" in name} == members
    assert found.prompt_logprobs == (None, -1.0, -2.0)
    assert found.topk_prompt_logprobs[1] == ((7, -0.5), (8, -1.0))
    assert found.as_dict()["topk_prompt_logprobs"] == TOPK
    assert found.as_dict()["sequences"][0]["topk_logprobs"] == topk


@pytest.mark.parametrize("name", ["topk_logprobs", "topk_sampled_logprobs"])
def test_alternatives_have_one_of_two_names_in_json(name, server, sampling):
    server.on("POST", "retrieve_future", result(sequence={name: [[[4, -1]], [[5, -2]]]}))
    (sequence,) = sampling.sample([1], topk_logprobs=1).sequences
    assert sequence.topk_logprobs == (((4, -1.0),), ((5, -2.0),))


def test_a_missing_first_position_is_restored_for_alternatives_too(server, sampling):
    short = result(prompt_logprobs=SCORES[1:], topk_prompt_logprobs=TOPK[1:])
    server.on("POST", "retrieve_future", short)
    found = sampling.sample([1, 2, 3], topk_prompt_logprobs=2)
    assert found.prompt_logprobs == (None, -1.0, -2.0)
    assert found.topk_prompt_logprobs[0] is None
    assert len(found.topk_prompt_logprobs) == 3


def extra(name: str) -> Reply:
    """What pydantic says where other members are forbidden (TuFT)."""
    said = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}
    return Reply({"detail": [{**said, "loc": ["body", name]}]}, 422)


@pytest.mark.parametrize(
    ("wanted", "name", "words"),
    [
        ({"prompt_logprobs": True}, "prompt_logprobs", "prompt logprobs"),
        ({"topk_prompt_logprobs": 3}, "topk_prompt_logprobs", "alternatives to the prompt tokens"),
        ({"topk_logprobs": 3}, "topk_sample_logprobs", "alternatives to the sampled tokens"),
    ],
)
def test_servers_that_do_not_return_them_are_one_error(wanted, name, words, server, sampling):
    expected = f"this server does not return {words}"
    scores = {"prompt_logprobs": SCORES} if "topk_prompt_logprobs" in wanted else {}
    server.on("POST", "retrieve_future", result(**scores))  # the member is ignored
    with pytest.raises(LogprobsUnavailable, match=expected):
        sampling.sample([1, 2, 3], **wanted)
    for refusal in (extra(name), Reply({"detail": f"{name} is not supported"}, 400)):
        server.on("POST", "asample", refusal)
        with pytest.raises(LogprobsUnavailable, match=expected):
            sampling.sample([1, 2, 3], **wanted)
    server.on("POST", "asample", {"request_id": "f"})
    failed = {"error": f"Unknown field {name}", "category": "user"}
    server.on("POST", "retrieve_future", failed)
    with pytest.raises(LogprobsUnavailable, match=expected):
        sampling.sample([1, 2, 3], **wanted)


def test_a_value_that_is_out_of_range_stays_an_error_of_the_request(server, sampling):
    said = [{"loc": ["body", "topk_prompt_logprobs"], "msg": "Input should be at most 20"}]
    server.on("POST", "asample", Reply({"detail": said}, 422))
    with pytest.raises(BadRequest, match="at most 20"):
        sampling.sample([1, 2], topk_prompt_logprobs=50)


def test_a_server_without_the_limit_scores_the_whole_prompt(server, sampling, sampler):
    server.on("POST", "asample", extra("prompt_logprobs_last_n"), sampler.submit)
    server.on("POST", "retrieve_future", result(prompt_logprobs=SCORES))
    for _ in range(2):  # it is sent once
        found = sampling.sample([1, 2, 3], prompt_logprobs_last_n=1)
        assert found.prompt_logprobs == (None, None, -2.0)
    sent = [seen.body.get("prompt_logprobs_last_n") for seen in server.requests("asample")]
    assert sent == [1, None, None]


@pytest.mark.parametrize(
    "reply",
    [
        result(prompt_logprobs=SCORES[:1]),
        result(prompt_logprobs=[*SCORES, -1.0]),
        result(prompt_logprobs=SCORES, topk_prompt_logprobs=[1, 2, 3]),
        result(prompt_logprobs=SCORES, topk_prompt_logprobs=[None, [[1]], None]),
        result(prompt_logprobs=SCORES, topk_prompt_logprobs=[None, [["a", -1.0]], None]),
        result(prompt_logprobs=SCORES, topk_prompt_logprobs=[None, [[1, "a"]], None]),
        result(prompt_logprobs=SCORES, topk_prompt_logprobs={}),
    ],
)
def test_results_of_another_shape_are_invalid(reply, server, sampling):
    server.on("POST", "retrieve_future", reply)
    with pytest.raises(InvalidResponse):
        sampling.sample([1, 2, 3], prompt_logprobs=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt_logprobs_last_n": 0},
        {"prompt_logprobs_last_n": True},
        {"topk_prompt_logprobs": -1},
        {"topk_logprobs": 1.5},
    ],
)
def test_invalid_numbers_are_refused_before_any_request(bad, sampling, sampler):
    with pytest.raises(UsageError, match=next(iter(bad))):
        sampling.sample([1], **bad)
    assert not sampler.submitted


def test_rows_of_a_batch_request_their_own(server, sampling, sampler):
    server.on("POST", "retrieve_future", result(prompt_logprobs=SCORES[:2]))
    rows = [SampleRow([1, 2], logprobs=Logprobs(prompt_logprobs=True)), SampleRow([3, 4])]
    found = list(sampling.sample_many(rows, ordered=True, concurrency=1))
    assert found[0].response.prompt_logprobs == (None, -1.0)
    assert [seen.body.get("prompt_logprobs") for seen in sampler.submitted] == [True, None]
