"""Sampling many prompts concurrently."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.api.conftest import NEVER, Reply
from tests.unit.api.sampling.conftest import Meeting
from tests.until import until
from tinkex.api import SampleRow, SamplingParams
from tinkex.api.http import retry
from tinkex.api.sampling import client as client_module
from tinkex.api.sampling.batch import MAX_CONCURRENCY, ConcurrencyLimit
from tinkex.exceptions import OperationFailed, UsageError


def rows(count: int) -> Iterator[SampleRow]:
    return (SampleRow([n, 7], key=f"k{n}") for n in range(count))


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tinkex-worker"}


def test_every_row_is_returned_with_its_key(sampling):
    found = list(sampling.sample_many(rows(50), concurrency=8))
    assert all(r.tail == [r.index, 7] for r in found)

    assert {(r.index, r.row.key, r.response.sequences[0].tokens) for r in found} == {
        (n, f"k{n}", (7, n)) for n in range(50)
    }
    assert list(sampling.sample_many([])) == []


@pytest.mark.parametrize("concurrency", [1, 4, None])
def test_in_order(sampling, concurrency):
    found = list(sampling.sample_many(rows(40), concurrency=concurrency, ordered=True))

    assert [r.index for r in found] == list(range(40))


def test_a_slow_row_holds_no_other_back(sampling, monkeypatch):
    slow = threading.Event()
    monkeypatch.setattr(sampling, "sample", lambda tokens, *_, **__: tokens[0] or slow.wait(60))
    results = sampling.sample_many(rows(40), concurrency=2)

    assert [next(results).index for _ in range(39)] == list(range(1, 40))
    slow.set()
    assert [r.index for r in results] == [0]


def test_the_concurrency_is_used_and_not_exceeded(sampling, monkeypatch):
    meeting = Meeting(3)
    monkeypatch.setattr(sampling, "sample", meeting.attend)
    list(sampling.sample_many(rows(30), concurrency=3))

    assert meeting.most == 3


def test_rows_are_taken_only_as_there_is_room(sampling):
    taken = []

    def source() -> Iterator[SampleRow]:
        for row in rows(10_000):
            taken.append(row.key)
            yield row

    results = sampling.sample_many(source(), concurrency=4)
    for _ in range(10):
        next(results)
    assert len(taken) <= 10 + 2 * 4
    results.close()


def test_params_and_num_samples_of_each_row_are_sent(sampling, sampler):
    params = SamplingParams(max_tokens=3, stop=("x",))
    list(sampling.sample_many([SampleRow([1], params, 5), SampleRow([2])], concurrency=1))

    first, second = (seen.body for seen in sampler.submitted)
    assert (first["sampling_params"]["max_tokens"], first["num_samples"]) == (3, 5)
    assert (second["sampling_params"]["max_tokens"], second["num_samples"]) == (256, 1)


def test_the_error_of_a_row_is_its_result(sampling, sampler):
    sampler.fail[3] = Reply({"error": "too hot", "category": "user"})
    found = {r.index: r for r in sampling.sample_many(rows(6), concurrency=2)}

    assert isinstance(found[3].error, OperationFailed)
    assert found[3].response is None
    assert [n for n in sorted(found) if found[n].error is None] == [0, 1, 2, 4, 5]


def test_invalid_arguments(sampling):
    for prompt in ([], [-1], "text", [{"role": "user", "content": "x"}]):
        (found,) = sampling.sample_many([SampleRow(prompt)])
        assert isinstance(found.error, UsageError)
    for concurrency in (0, -1, MAX_CONCURRENCY + 1):
        with pytest.raises(UsageError, match="concurrency"):
            sampling.sample_many([], concurrency=concurrency)


def test_an_error_in_the_source_is_raised_after_the_results_of_earlier_rows(sampling):
    def source() -> Iterator[SampleRow]:
        yield from rows(5)
        raise RuntimeError("no more")

    results = sampling.sample_many(source(), concurrency=2)
    found = [next(results).index for _ in range(5)]
    with pytest.raises(RuntimeError, match="no more"):
        next(results)
    assert sorted(found) == list(range(5))


@pytest.mark.parametrize("end", ["close", "drop"])
def test_no_row_is_started_after_the_results_are_closed(sampling, sampler, server, end):
    before = workers()
    results = sampling.sample_many(rows(100), concurrency=4)
    next(results)
    if end == "close":
        sampler.hold = NEVER
        until(lambda: len(server.requests("retrieve_future")) >= 4)
        results.close()  # does not wait for running samples
        assert list(results) == []
    else:
        del results
        until(lambda: not workers() - before)
    assert len(sampler.submitted) <= 1 + 2 * 4


def test_rows_are_patient_with_a_busy_service(sampler, sampling, naps, monkeypatch):
    class Skipping(threading.Condition):
        def wait(self, timeout=None):
            retry.time.sleep(timeout)

    sampler.refuse = 100
    monkeypatch.setattr(client_module, "time", retry.time)
    monkeypatch.setattr(sampling.backpressure, "_changed", Skipping())
    found = list(sampling.sample_many(rows(1), concurrency=1))

    assert [r.error for r in found] == [None]
    assert sum(naps) > 90  # far beyond the timeout


# ---------------------------------------------------------------- concurrency


@pytest.mark.parametrize(
    ("rate_of", "seconds", "values"),
    [
        (lambda value: value * 2.0, 20, [64, 128, 256]),
        (lambda value: 500.0, 10, [64, 128, 64]),
        (lambda value: 500.0, 45, [64, 128, 64, 128, 64, 128, 64]),
    ],
    ids=["grows while it helps", "goes back where more does not help", "tries again later"],
)
def test_the_concurrency_adapts_to_the_rate(rate_of, seconds, values):
    limit, now, found = ConcurrencyLimit(None), 0.0, [64]
    while now < seconds:
        now += 1 / rate_of(limit.value)
        limit.received(0, now)
        if found[-1] != limit.value:
            found.append(limit.value)
    assert found == values


@pytest.mark.parametrize(("fixed", "values"), [(None, [32, 16, 8, 4, 2, 1]), (7, [7] * 6)])
def test_a_refusal_halves_the_concurrency_unless_it_is_fixed(fixed, values):
    limit = ConcurrencyLimit(fixed)
    found = []
    for spell in range(1, 7):
        limit.received(spell, float(spell))
        found.append(limit.value)
    assert found == values
