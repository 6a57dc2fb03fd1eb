"""The sampling client: submission, back-pressure and resubmission."""

from __future__ import annotations

import threading

import pytest

from tests.unit.api.conftest import NEVER, Reply
from tests.unit.api.sampling.conftest import Meeting
from tests.until import until
from tinkex.api.sampling import client as module
from tinkex.exceptions import (
    InvalidResponse,
    NotFound,
    OperationFailed,
    RateLimited,
    TimedOut,
    UsageError,
)


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SMALL_PAUSE", 0.05)
    monkeypatch.setattr(module, "NARROW_SECONDS", 0.3)
    monkeypatch.setattr(module, "_RESUBMISSION_DELAY", 0.01)


def test_one_model_is_sampled_and_a_short_path_is_sent_in_full(sampler, server, client):
    for models in ({}, {"base_model": "m", "model_path": "tinker://r/x"}):
        with pytest.raises(UsageError):
            client.create_sampling_client(**models)
    client.create_sampling_client(model_path="tinker://r/x")
    assert server.requests("create_sampling_session")[0].body == {
        "session_id": "s",
        "sampling_session_seq_id": 0,
        "model_path": "tinker://r/sampler_weights/x",
    }


@pytest.mark.parametrize("status", [400, 404])
def test_an_unknown_base_model_is_an_error_about_a_model(sampler, server, client, status):
    server.on("POST", "create_sampling_session", Reply({"detail": "no such model"}, status))
    with pytest.raises(Exception, match="no such model") as caught:
        client.create_sampling_client(base_model="x")
    assert caught.value.resource == "model"


@pytest.mark.parametrize("samplers", [404, 500, None])
def test_the_base_model_is_found_by_the_run_otherwise(samplers, sampler, server, client, naps):
    known = Reply({"sampler_id": "x", "base_model": None})
    server.on("GET", "samplers/x", Reply("x", samplers) if samplers else known)
    server.on("POST", "weights_info", Reply({"detail": "samplers have none"}, 400))
    server.on("GET", "training_runs/r", {"training_run_id": "r", "base_model": "m"})
    assert client.create_sampling_client(model_path="tinker://r/x").base_model == "m"


@pytest.mark.parametrize("tokens", [[], [-1], [1.5], ["a"], [2**31], "text", [True]])
def test_an_invalid_prompt_is_refused_before_any_request(tokens, sampling, sampler):
    with pytest.raises(UsageError):
        sampling.sample(tokens)
    assert not sampler.submitted


def test_fewer_sequences_than_requested_are_invalid(sampling):
    with pytest.raises(InvalidResponse, match="only 1 of 2 sequences"):
        sampling.sample([1], num_samples=2)


def test_a_sampling_session_that_takes_time_is_waited_for(sampler, server, client):
    """hatchery: the id is in the result of an operation, not in the response."""
    accepted = {"request_id": "f", "model_id": "smp_1", "future_id": "f", "status": "pending"}
    server.on("POST", "create_sampling_session", accepted)
    created = {"sampling_session_id": "smp_1:0", "base_model": "Qwen/Qwen2-0.5B"}
    server.on("POST", "retrieve_future", {"type": "try_again"}, created, sampler.retrieve)
    sampling = client.create_sampling_client(model_path="tinker://r/x")
    assert sampling.sampling_session_id == "smp_1:0"
    assert sampling.base_model == "Qwen/Qwen2-0.5B"  # which nothing else there says
    assert sampling.sample([1, 2]).sequences[0].tokens == (2, 1)
    assert sampler.submitted[0].body["sampling_session_id"] == "smp_1:0"


@pytest.mark.parametrize("reply", [Reply({"detail": "Max 5 concurrent sessions"}, 429), None])
def test_a_sampling_session_is_created_once(reply, sampler, server, connect):
    """A limit of hatchery's is shown, and a lost response may have created one."""
    server.on("POST", "create_sampling_session", reply or Reply({}, delay=NEVER))
    with pytest.raises(RateLimited if reply else TimedOut) as caught:
        connect(server.url, timeout=1).create_sampling_client(base_model="m")
    assert len(server.requests("create_sampling_session")) == 1
    assert bool(caught.value.hint) is bool(reply)  # the server is full


def test_a_sample_in_the_response_is_taken(sampler, server, sampling):
    drawn = {"tokens": [7], "logprobs": None, "stop_reason": "stop"}
    server.on("POST", "asample", {"sequences": [drawn]})
    assert sampling.sample([1]).sequences[0].tokens == (7,)
    assert not server.requests("retrieve_future")


# ---------------------------------------------------------------- back-pressure


def test_a_refused_sample_is_sent_again_unchanged(sampling, sampler, waits):
    sampler.busy = Reply({"detail": "busy"}, 429, {"Retry-After": "0.2"})
    sampler.refuse = 2
    sampling.sample([1, 2])
    sampling.sample([3])

    bodies = [seen.body for seen in sampler.submitted]
    assert bodies[0] == bodies[1] == bodies[2]
    assert [body["seq_id"] for body in bodies] == [0, 0, 0, 1]
    assert all(s.headers["x-tinker-sampling-backpressure"] == "1" for s in sampler.submitted)
    reported = [(w.reason, w.retry_in) for w in waits if w.reason]
    assert reported == [("the service is busy", 0.2)] * 2
    assert (sampling.backpressure.refusals, sampling.backpressure.spells) == (2, 1)


def test_a_refusal_pauses_all_samples(sampling, sampler):
    sampler.busy = Reply(None, 429, {"Retry-After": "0.4"})
    sampler.refuse = 1
    first = threading.Thread(target=sampling.sample, args=([1],))
    first.start()
    until(lambda: sampling.backpressure.refusals)
    sampling.sample([2])
    first.join()
    refused, *others = sampler.submitted
    assert all(seen.at - refused.at >= 0.4 for seen in others)
    assert {seen.body["seq_id"] for seen in others} == {0, 1}


@pytest.mark.parametrize(("tokens", "pause"), [(10, 0.05), (13107, 0.05), (13108, 0.07)])
def test_the_pause_depends_on_the_size_of_the_prompt(
    tokens, pause, sampling, sampler, waits, monkeypatch
):
    monkeypatch.setattr(module, "_LARGE_PAUSE", 0.07)
    sampler.refuse = 1
    sampling.sample([1] * tokens)
    assert [w.retry_in for w in waits if w.reason] == [pause]


def test_after_a_refusal_only_a_few_are_submitted_at_a_time(client, monkeypatch):
    monkeypatch.setattr(module, "NARROW_SECONDS", 600.0)
    gate = module.Backpressure()
    gate.refused(0.0)
    meeting = Meeting(module.NARROW)

    def work() -> None:
        with gate.passing(client.deadline("x")):
            meeting.attend()

    threads = [threading.Thread(target=work) for _ in range(4 * module.NARROW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meeting.most == module.NARROW


def test_a_pause_longer_than_the_timeout_is_not_waited_for(server, sampler, connect, monkeypatch):
    monkeypatch.setattr(module, "_SMALL_PAUSE", 60.0)
    sampler.refuse = 1
    sampling = connect(server.url).create_sampling_client(base_model="m")
    with pytest.raises(RateLimited, match="Busy"):
        sampling.sample([1])
    assert len(sampler.submitted) == 1


def test_sampling_ends_with_the_timeout(client, server, sampler, connect, naps):
    server.on("POST", "retrieve_future", {"type": "try_again"})
    sampling = connect(server.url, timeout=3).create_sampling_client(base_model="m")
    with pytest.raises(TimedOut, match=r"^Timed out while awaiting sampling$"):
        sampling.sample([1])
    gate = module.Backpressure()
    gate.refused(60)
    with (
        pytest.raises(TimedOut),
        gate.passing(client._transport.deadline("x", 0.05, patience=0.05)),
    ):
        pass


# ---------------------------------------------------------------- resubmission


@pytest.mark.parametrize(
    ("reply", "error", "submissions"),
    [
        (Reply({"detail": "promise gone"}, 410), NotFound, 3),
        (Reply({"error": "lost a worker", "category": "server"}), OperationFailed, 3),
        (Reply({"error": "lost a worker", "category": "unknown"}), OperationFailed, 3),
        (Reply({"error": "no", "category": "user"}), OperationFailed, 1),
    ],
)
def test_a_lost_sample_is_submitted_again_under_another_number(
    server, sampling, sampler, reply, error, submissions
):
    sampler.fail[1] = reply
    with pytest.raises(error):
        sampling.sample([1, 2])
    bodies = [seen.body for seen in sampler.submitted]
    assert bodies == [{**bodies[0], "seq_id": number} for number in range(submissions)]
    if submissions > 1:
        server.on("POST", "retrieve_future", reply, sampler.retrieve)
        del sampler.fail[1]
        assert sampling.sample([1, 2]).sequences[0].tokens == (2, 1)
        assert sampling.resubmissions == 3


def test_a_submission_whose_connection_was_lost_keeps_its_number(server, sampling, sampler):
    server.on("POST", "asample", Reply(reset=True), sampler.submit)
    assert sampling.sample([1]).sequences[0].tokens == (1,)
    assert [seen.body["seq_id"] for seen in server.requests("asample")] == [0, 0]
