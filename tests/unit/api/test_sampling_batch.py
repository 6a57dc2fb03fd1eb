"""Sampling many prompts side by side."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from tests.unit.api.conftest import NEVER, Reply, Seen, Server
from tests.until import until
from tinkex.api import SampleRow, SamplingParams, ServiceClient
from tinkex.api.http import retry
from tinkex.api.sampling import batch
from tinkex.api.sampling import client as backpressure
from tinkex.api.sampling.batch import Level
from tinkex.exceptions import OperationFailed, RateLimited, TimedOut, UsageError

BUSY = Reply({"detail": "Busy"}, 429)


class Sampler:
    """The sampling part of a service; each sample is its prompt, backwards."""

    def __init__(self, server: Server) -> None:
        self.handed_in: list[Seen] = []
        self.refuse = 0
        self.fail: dict[int, Reply] = {}
        self.hold = 0.0
        self._lock = threading.Lock()
        server.on("POST", "create_session", {"session_id": "s"})
        server.on("POST", "create_sampling_session", {"sampling_session_id": "x"})
        server.on("POST", "sessions/s/finish", {})
        server.on("POST", "asample", self._take)
        server.on("POST", "retrieve_future", self._give)

    def _take(self, seen: Seen) -> Reply:
        with self._lock:
            self.handed_in.append(seen)
            refused = self.refuse > 0
            self.refuse -= refused
        if refused:
            return BUSY
        prompt = seen.body["prompt"]["chunks"][0]["tokens"]
        name = f"{seen.body['seq_id']}:{','.join(map(str, prompt))}"
        return Reply({"request_id": name})

    def _give(self, seen: Seen) -> Reply:
        _, _, prompt = seen.body["request_id"].partition(":")
        tokens = list(map(int, prompt.split(",")))
        if tokens[0] in self.fail:
            return self.fail[tokens[0]]
        sequence = {"tokens": tokens[::-1], "logprobs": None, "stop_reason": "stop"}
        return Reply({"sequences": [sequence]}, delay=self.hold)


@pytest.fixture
def sampler(server: Server) -> Sampler:
    return Sampler(server)


@pytest.fixture
def sampling(sampler: Sampler, client: ServiceClient):
    return client.create_sampling_client(base_model="m")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the waits after a refusal be short."""
    monkeypatch.setattr(backpressure, "_SMALL_PAUSE", 0.05)
    monkeypatch.setattr(backpressure, "NARROW_SECONDS", 0.3)
    monkeypatch.setattr("tinkex.api.sampling.client._RESUBMISSION_DELAY", 0.01)


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tinkex-sample"}


def test_results_that_are_not_wanted_keep_no_threads(sampling, sampler):
    before = threads()

    next(iter(sampling.sample_many(rows(100), concurrency=4)))

    until(lambda: gc.collect() >= 0 and not threads() - before)
    assert len(sampler.handed_in) < 100


def rows(count: int) -> Iterator[SampleRow]:
    return (SampleRow([n, 7], key=f"k{n}") for n in range(count))


def test_every_row_comes_back_with_its_key(sampling):
    found = list(sampling.sample_many(rows(50), concurrency=8))

    assert {(r.index, r.row.key, r.response.sequences[0].tokens) for r in found} == {
        (n, f"k{n}", (7, n)) for n in range(50)
    }


def test_as_many_are_under_way_as_allowed_and_no_more(sampling, monkeypatch):
    inside, most, lock, together = [0], [0], threading.Lock(), threading.Barrier(3)

    def sample(*args, **kwargs):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        together.wait(60)  # passes only where three come together
        with lock:
            inside[0] -= 1

    monkeypatch.setattr(sampling, "sample", sample)
    list(sampling.sample_many(rows(30), concurrency=3))

    assert most[0] == 3


def test_rows_are_taken_only_as_there_is_room(sampling):
    taken = []

    def source() -> Iterator[SampleRow]:
        for row in rows(10_000):
            taken.append(row.key)
            yield row

    results = sampling.sample_many(source(), concurrency=4)
    for _ in range(10):
        next(results)
    assert len(taken) <= 14
    results.stop(0)


@pytest.mark.parametrize("concurrency", [1, 4, None])
def test_in_order(sampling, sampler, concurrency):
    sampler.hold = 0.002
    found = list(sampling.sample_many(rows(40), concurrency=concurrency, ordered=True))

    assert [r.index for r in found] == list(range(40))


def test_params_and_samples_of_each_row_are_sent(sampling, sampler):
    params = SamplingParams(max_tokens=3, stop=("x",))
    list(sampling.sample_many([SampleRow([1], params, 5), SampleRow([2])], concurrency=1))

    first, second = (seen.body for seen in sampler.handed_in)
    assert (first["sampling_params"]["max_tokens"], first["num_samples"]) == (3, 5)
    assert (second["sampling_params"]["max_tokens"], second["num_samples"]) == (256, 1)


def test_a_row_that_fails_costs_no_other(sampling, sampler):
    sampler.fail[3] = Reply({"error": "too hot", "category": "user"})
    found = {r.index: r for r in sampling.sample_many(rows(6), concurrency=2)}

    assert isinstance(found[3].error, OperationFailed)
    assert found[3].response is None
    assert [n for n in sorted(found) if found[n].error is None] == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("prompt", [[], [-1], "text", [{"role": "user", "content": "x"}]])
def test_a_prompt_that_cannot_be_sent_is_a_failure_of_its_row(sampling, prompt):
    (found,) = sampling.sample_many([SampleRow(prompt)])

    assert isinstance(found.error, UsageError)


@pytest.mark.parametrize("concurrency", [0, -1, batch.MOST + 1])
def test_concurrency_out_of_range(sampling, concurrency):
    with pytest.raises(UsageError, match="concurrency"):
        sampling.sample_many([], concurrency=concurrency)


def test_no_rows(sampling):
    assert list(sampling.sample_many([])) == []


def test_an_error_in_the_source_is_raised_after_what_is_under_way(sampling):
    def source() -> Iterator[SampleRow]:
        yield from rows(5)
        raise RuntimeError("no more")

    results = sampling.sample_many(source(), concurrency=2)
    found = [next(results).index for _ in range(5)]
    with pytest.raises(RuntimeError, match="no more"):
        next(results)
    assert sorted(found) == list(range(5))


def test_stop_yields_what_is_under_way_and_takes_no_more(sampling, sampler):
    sampler.hold = 0.05
    results = sampling.sample_many(rows(100), concurrency=4)
    first = next(results)
    results.stop(60)
    rest = list(results)

    assert first.error is None
    assert len(rest) == 3
    assert len(sampler.handed_in) == 4


def test_stop_without_patience_waits_for_nobody(sampling, sampler):
    sampler.hold = NEVER
    results = sampling.sample_many(rows(100), concurrency=4)
    threading.Timer(0.1, results.stop, (0.0,)).start()

    assert list(results) == []


# ---------------------------------------------------------------- back-pressure


def test_refusals_are_no_failures(quick, sampling, sampler):
    sampler.refuse = 12
    found = list(sampling.sample_many(rows(20), concurrency=6))

    assert [r.error for r in found] == [None] * 20
    assert sampling.backpressure.refusals == 12
    assert sampling.backpressure.spells >= 1


def test_a_refused_sample_is_sent_again_as_it_was(quick, sampling, sampler):
    sampler.refuse = 2
    list(sampling.sample_many(rows(1)))

    bodies = [seen.body for seen in sampler.handed_in]
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]
    assert all(s.headers["x-tinker-sampling-backpressure"] == "1" for s in sampler.handed_in)


def test_a_refusal_of_one_holds_all_others_back(sampling, sampler, monkeypatch):
    monkeypatch.setattr(backpressure, "_SMALL_PAUSE", 0.4)
    sampler.refuse = 1
    list(sampling.sample_many(rows(8), concurrency=1))

    times = [seen.at for seen in sampler.handed_in]
    assert times[1] - times[0] >= 0.39


@pytest.mark.parametrize(("tokens", "pause"), [(10, 1.0), (13107, 1.0), (13108, 5.0)])
def test_how_long_to_hold_back(tokens, pause):
    assert backpressure.pause_after_refusal(tokens) == pause


def test_after_a_refusal_only_a_few_are_handed_in_at_once(client, monkeypatch):
    monkeypatch.setattr(backpressure, "NARROW_SECONDS", 600.0)
    together = threading.Barrier(backpressure.NARROW)
    gate = backpressure.Backpressure()
    gate.refused(0.0)
    inside, most, lock = [0], [0], threading.Lock()

    def work() -> None:
        with gate.passing(client.deadline("x")):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            together.wait(60)  # passes only where so many come together
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4 * backpressure.NARROW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == backpressure.NARROW


def test_a_single_sample_does_not_wait_longer_than_its_time(server, sampler, connect):
    sampler.refuse = 10**6
    sampling = connect(server.url, timeout=0.5).create_sampling_client(base_model="m")
    with pytest.raises(RateLimited, match="Busy"):
        sampling.sample([1])
    assert len(sampler.handed_in) == 1  # the pause would be longer than the time


def test_rows_are_patient_with_a_busy_service(server, sampler, client, naps, monkeypatch):
    class Skipping(threading.Condition):
        def wait(self, timeout=None):
            retry.time.sleep(timeout)

    sampler.refuse = 100
    sampling = client.create_sampling_client(base_model="m")
    monkeypatch.setattr(backpressure, "time", retry.time)
    monkeypatch.setattr(sampling.backpressure, "_changed", Skipping())
    found = list(sampling.sample_many(rows(1), concurrency=1))

    assert [r.error for r in found] == [None]
    assert sum(naps) > 90  # far beyond the timeout


def test_patience_ends(client):
    deadline = client._transport.deadline("x", 0.05, patience=0.05)
    gate = backpressure.Backpressure()
    gate.refused(60)
    with pytest.raises(TimedOut), gate.passing(deadline):
        pass


# ---------------------------------------------------------------- asking again


@pytest.mark.parametrize(
    "reply",
    [
        Reply({"detail": "promise gone"}, 410),
        Reply({"error": "lost a worker", "category": "server"}),
        Reply({"error": "lost a worker", "category": "unknown"}),
    ],
)
def test_what_the_service_lost_or_broke_is_asked_again_under_another_number(
    quick, server, sampling, sampler, reply
):
    server.on("POST", "retrieve_future", reply, sampler._give)
    assert sampling.sample([1, 2]).sequences[0].tokens == (2, 1)

    first, second = (seen.body for seen in sampler.handed_in)
    assert first["seq_id"] != second["seq_id"]
    assert {**first, "seq_id": 0} == {**second, "seq_id": 0}
    assert sampling.resubmissions == 1


def test_what_the_user_did_wrong_is_not_asked_again(quick, sampling, sampler):
    sampler.fail[1] = Reply({"error": "no", "category": "user"})
    with pytest.raises(OperationFailed):
        sampling.sample([1])
    assert len(sampler.handed_in) == 1


def test_a_lost_connection_while_handing_in_repeats_the_same_number(server, sampling, sampler):
    server.on("POST", "asample", Reply(reset=True), sampler._take)
    assert sampling.sample([1]).sequences[0].tokens == (1,)


# ---------------------------------------------------------------- how many at once


def run_level(level: Level, rate_of, seconds: float) -> list[int]:
    """Let rows complete at *rate_of(limit)* a second; return the limits it went through."""
    now, seen = 0.0, [level.limit]
    while now < seconds:
        now += 1 / rate_of(level.limit)
        level.completed(0, now)
        if seen[-1] != level.limit:
            seen.append(level.limit)
    return seen


def test_the_number_grows_while_it_helps():
    assert run_level(Level(None), lambda limit: limit * 2.0, 20) == [32, 64, 128, 256]


def test_the_number_goes_back_where_more_does_not_help():
    assert run_level(Level(None), lambda limit: 500.0, 10) == [32, 64, 32]


def test_the_number_is_tried_again_after_a_rest():
    assert run_level(Level(None), lambda limit: 500.0, 45) == [32, 64, 32, 64, 32, 64, 32]


def test_a_refusal_halves_the_number():
    level = Level(None)
    for spell in (1, 2, 3, 4, 5, 6, 7):
        level.completed(spell, float(spell))
    assert level.limit == 1


def test_a_fixed_number_stays():
    level = Level(7)
    for spell in range(5):
        level.completed(spell, spell * 1.0)
    assert level.limit == 7
